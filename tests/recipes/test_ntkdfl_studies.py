"""NTK-DFL's studies: runs as from the command line, what is measured of their nodes by hand, and tables by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtangent
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.federation import Graph
from fedtangent.recipes import _studies as studies
from fedtangent.recipes import ntkdfl_studies as recipe
from fedtangent.recipes import recipe as recipes
from tests.often import often

SMALL: dict[str, Any] = {
    "dataset": "digits",
    "nodes": 6,
    "degree": 2,
    "size": 20,
    "rounds": 1,
    "seeds": 1,
}
ALL = tuple(studies.METHODS)
FEW = {
    "degree": ("2", "3"),
    "alpha": ("0.3", "iid"),
    "graph": ("ring", "erdos_renyi-static", "torus"),
    "nodes": ("5", "6"),
    "deviation": ("2", "4"),
}


def measured(study: str, **change: Any) -> list[dict[str, Any]]:
    return list(recipe.ntkdfl_studies(study=study, values=FEW.get(study, ()), **{**SMALL, **change}))  # type: ignore[arg-type]


@pytest.mark.few(1)
@pytest.mark.parametrize("study", often(studies.STUDIES, ["degree", "kernel", "averaging"]))
def test_every_study(study: str, tmp_path: Path) -> None:
    data = tmp_path / "blobs.py"
    data.write_text("from tests.experiments.tiny import data\n\n\ndef blobs(data_dir):\n    return data()\n")
    cheap = ("Pooled rows", "DFedAvg")  # where a study sets options of methods, all of them
    methods = {"kernel": ("NTK-DFL", "DFedAvg"), "averaging": ALL, "first_weights": ALL}.get(study, cheap)
    chosen = {**SMALL, "dataset": str(data), "size": 8, "study": study, "methods": methods}
    chosen |= {"nodes": 9, "values": FEW.get(study, ())}
    if study == "degree":
        chosen["nodes"] = 8  # an odd number of nodes has no odd degree
    found = recipes.run(recipes.load("ntkdfl_studies"), chosen, tmp_path / "out")
    runs = [row for row in found.rows if row["kind"] == "run"]
    values = FEW.get(study, studies.STUDIES[study])
    several = [(v, m) for v in values for m in chosen["methods"]]
    if study == "kernel":
        several = [("trace", "NTK-DFL"), ("none", "DFedAvg"), ("full", "NTK-DFL")]
    assert [(row["value"], row["method"]) for row in runs] == several
    assert all(0 < row["accuracy"] <= 1 and row["deviation"] >= 0 and 0 <= row["gap"] <= 1 for row in runs)
    assert (tmp_path / "out" / recipes.PICTURE).stat().st_size > 5000
    assert not recipes.run(recipes.load("ntkdfl_studies"), chosen, tmp_path / "out").measured


def test_rows_are_those_of_runs() -> None:
    rows = measured("degree", methods=("DFedAvg",), rounds=2, seed=3)
    given = {"partition": "papers_dirichlet", "alpha": 0.1, "size": 20, "nodes": 6, "rounds": 2, "seed": 3}
    alone = fedtangent.run("dfedavg", **given, degree=3, epochs=20, batch=25, lr=0.1, topology="regular").rounds
    assert [row["accuracy"] for row in rows if row["kind"] == "round" and row["value"] == "3"] == [
        entry["accuracy"] for entry in alone
    ]
    (last,) = (row for row in rows if row["kind"] == "run" and row["value"] == "3")
    assert last["accuracy"] == alone[-1]["accuracy"]
    assert last["node_bytes"] == alone[-1]["sent_bytes"] / 6


def test_what_is_there_is_not_run_again() -> None:
    asked: dict[str, Any] = {**SMALL, "study": "averaging", "methods": ("DFedAvg", "Pooled rows")}
    rows = list(recipe.ntkdfl_studies(**asked))
    assert list(recipe.ntkdfl_studies(rows, **asked)) == []
    cut = next(i for i, row in enumerate(rows) if row["kind"] == "node") + 2
    assert list(recipe.ntkdfl_studies(rows[:cut], **asked)) == rows[cut:]


def small() -> Any:
    built = setup(experiment("dfedavg", nodes=5, degree=2, rounds=1, epochs=1, evaluate_nodes_every=0))
    return built, run(built, keep_nodes=True)


def test_the_nodes_models_at_the_end_by_hand() -> None:
    built, result = small()
    assert len(result.nodes) == 5 and run(built).nodes == ()
    found = studies.ends(built, result.nodes)
    flat = torch.stack([torch.cat([part.flatten() for part in w.values()]) for w in result.nodes]).double()
    assert found.deviation == pytest.approx(float(flat.std(0, unbiased=False).square().mean().sqrt()), rel=1e-5)
    for w, accuracy in zip(result.nodes, found.accuracy, strict=True):
        with torch.no_grad():
            f = torch.func.functional_call(built.module, w, (built.x_test,))
        assert accuracy == pytest.approx(float((f.argmax(-1) == built.y_test).double().mean()))
    assert len(set(found.accuracy)) > 1


def test_the_orders_of_the_final_average_by_hand() -> None:
    built, result = small()
    found = list(studies.orders(built, result.nodes, seed=2))
    assert [(order, count) for order, count, _ in found] == [(o, c) for o in studies.ORDERS for c in range(1, 6)]
    told = {(order, count): accuracy for order, count, accuracy in found}
    assert told["best", 5] == told["random", 5] == told["worst", 5]  # all models in any order
    from fedtangent.federation import generator

    rows = generator(2, 0, "final average").permutation(len(built.y_test))
    half = len(rows) // 2

    def accuracy(nodes: list[int], part: np.ndarray) -> float:
        w = {name: sum(result.nodes[i][name] for i in nodes) / len(nodes) for name in result.nodes[0]}
        with torch.no_grad():
            f = torch.func.functional_call(built.module, w, (built.x_test[part],))
        return float((f.argmax(-1) == built.y_test[part]).double().mean())

    score = [accuracy([node], rows[:half]) for node in range(5)]
    best = sorted(range(5), key=lambda node: (-score[node], node))
    for order, places in {"best": best, "worst": best[::-1]}.items():
        for count in range(1, 6):
            assert told[order, count] == pytest.approx(accuracy(places[:count], rows[half:]))


def test_the_spectral_gap_is_the_graphs_own() -> None:
    ring = setup(experiment("dfedavg", nodes=7, topology="ring", static=True, rounds=3))
    assert studies.gap(ring) == pytest.approx(1 - (1 + 2 * math.cos(2 * math.pi / 7)) / 3)
    drawn = setup(experiment("dfedavg", nodes=10, degree=3, rounds=2))
    gaps = [graph.spectral_gap("uniform") for graph in drawn.graphs]
    assert len(set(gaps)) == 2 and studies.gap(drawn) == pytest.approx(sum(gaps) / 2)
    assert studies.gap(setup(experiment("local", nodes=4, rounds=1))) == 0


def test_nodes_of_a_fixed_graph_change_places_unless_it_is_static() -> None:
    moving = studies.settings("graph", "ring", "DFedAvg", 9, 3)
    assert moving is not None and not moving["static"]
    rng = np.random.default_rng(0)
    first, second = (moving["topology"](9, rng) for _ in range(2))
    for graph in (first, second):
        assert isinstance(graph, Graph) and graph.connected and {graph.degree(i) for i in range(9)} == {2}
    assert first != second
    still = studies.settings("graph", "ring-static", "DFedAvg", 9, 3)
    assert still is not None and (still["topology"], still["static"]) == ("ring", True)


def made(value: str, seed: int, accuracy: float, reached: float, method: str = "NTK-DFL") -> dict[str, Any]:
    own = {"study": "degree", "value": value, "method": method, "partition": "0.1", "seed": seed, "kind": "run"}
    told = {"target": 0.8, "node_mean": 0.5, "worst_tenth": 0.2, "deviation": 0.1, "gap": 0.3, "node_bytes": 1.0}
    return own | told | {"accuracy": accuracy, "rounds_to": reached}


def test_the_table_is_the_hands() -> None:
    rows = [made("2", 0, 0.7, 4.0), made("2", 1, 0.8, 3.0), made("3", 0, 0.9, math.nan)]
    two, three = recipe.table(rows)
    assert (two["degree"], two["method"], two["rounds to 0.8"]) == ("2", "NTK-DFL", 3.5)
    assert two["end"] == pytest.approx(0.75) and two["dev"] == pytest.approx(0.1 / math.sqrt(2))
    assert (two["a node"], two["worst"], two["apart"], two["gap"]) == pytest.approx((0.5, 0.2, 0.1, 0.3))
    assert math.isnan(three["rounds to 0.8"]) and math.isnan(three["dev"])


def test_values_are_in_order_on_their_axis_in_whatever_order_they_were_run() -> None:
    rows = [made(value, 0, accuracy, 4.0) for value, accuracy in (("iid", 0.9), ("10", 0.8), ("9.5", 0.7))]
    (axes,) = recipe.figure(rows).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["9.5", "10", "iid"]
    assert axes.lines[0].get_ydata().tolist() == [0.7, 0.8, 0.9]  # type: ignore[union-attr]


def test_the_table_of_orders_is_the_hands() -> None:
    key = {"study": "final_average", "value": "all", "method": "NTK-DFL", "partition": "0.1", "kind": "order"}
    course = {(0, 1): 0.5, (0, 2): 0.9, (0, 3): 0.8, (1, 1): 0.7, (1, 2): 0.7, (1, 3): 0.6}
    rows = [
        key | {"seed": seed, "order": "best", "models": count, "accuracy": accuracy}
        for (seed, count), accuracy in course.items()
    ]
    (best,) = recipe.table(rows)
    assert (best["first"], best["models"]) == ("best", 2)
    assert (best["accuracy"], best["of one"], best["of all 3"]) == pytest.approx((0.8, 0.6, 0.7))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"methods": ("NTK",)}, "`NTK` must be a method; got an unknown name. Did you mean 'NTK-DFL'?"),
        ({"rounds": 0}, "`rounds`, `seeds`, `methods` and `partitions` must be at least one; got 0, 1, 3 and 1."),
        ({"values": ("two",)}, "`values` of degree must be whole numbers; got 'two'. Give such values."),
        ({"study": "kernel", "values": ("half",)}, "`values` of kernel must be among trace, full; got 'half'."),
        (
            {"study": "nodes", "partitions": ("mine.json",)},
            "`partitions` must be drawn in the study of nodes; got mine",
        ),
    ],
)
def test_what_cannot_be(change: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError) as error:
        list(recipe.ntkdfl_studies(**{**SMALL, **change}))
    assert str(error.value).startswith(told)
