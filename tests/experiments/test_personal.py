"""Measures of own models and of the aggregate on every node's own test rows: node after node, by hand."""

from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from fedtangent.catalog import names
from fedtangent.errors import SettingError
from fedtangent.experiments import evaluate as module
from fedtangent.experiments.personal import measures
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import Setup, setup
from fedtangent.federation import Central, Wire
from fedtangent.methods import dfedavg, dispfl, fedavg
from fedtangent.transports.memory import memory
from fedtangent.transports.threads import threads
from tests.experiments.tiny import data, network, partition, timeless, tiny
from tests.often import often

W_K = [{name: p.detach() * (k + 1) - k / 4 for name, p in network().named_parameters()} for k in range(5)]
TEST = [[3, 5], [0, 1, 2], [12, 4, 6], [7, 8], [9, 10, 11]]
OWN = partition()._replace(test_index=[np.array(rows) for rows in TEST])
ENGINES = pytest.mark.parametrize("engine", ["sequential", "vectorized"])


def margin(outputs: Tensor, labels: Tensor) -> float:
    """How much higher the right output is than the mean of all."""
    return float((outputs.gather(1, labels[:, None])[:, 0] - outputs.mean(1)).mean())


@torch.no_grad()
def outputs(w: dict[str, Tensor], rows: list[int]) -> tuple[Tensor, Tensor]:
    model, test = network(), data()
    model.load_state_dict(w)
    return model(test.x_test[rows]), test.y_test[rows]


def by_hand(w: dict[str, Tensor], rows: list[int]) -> dict[str, float | None]:
    f, y = outputs(w, rows)
    several = [c for c in range(3) if 0 < int((y == c).sum()) < len(y)]
    areas = [float(roc_auc_score((y == c), f.double().softmax(-1)[:, c])) for c in several]
    return {
        "accuracy": float((f.argmax(-1) == y).double().mean()),
        "f1": float(f1_score(y, f.argmax(-1), average="macro")),
        "auc": mean(areas) if areas else None,
        "margin": margin(f, y),
    }


def spread(each: list[float | None]) -> dict[str, Any]:
    there = [value for value in each if value is not None]
    return {"mean": mean(there), "deviation": pstdev(there), "worst_tenth": min(there), "nodes": each}


def classes(models: list[dict[str, Tensor]], rows_k: list[list[int]]) -> list[float]:
    right, count = [0] * 3, [0] * 3
    for w, rows in zip(models, rows_k, strict=True):
        f, labels = outputs(w, rows)
        for guess, y in zip(f.argmax(-1).tolist(), labels.tolist(), strict=True):
            right[y] += guess == y
            count[y] += 1
    return [hits / rows for hits, rows in zip(right, count, strict=True)]


def numbers(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)  # NaN for None


def assert_close(found: Any, expected: Any) -> None:
    assert {*found} == {*expected}
    for name, value in expected.items():
        np.testing.assert_allclose(numbers(found[name]), numbers(value), rtol=1e-5, atol=1e-7, err_msg=name)


def found(built: Setup, state: Any, w: dict[str, Tensor], nodes: bool = True) -> dict[str, Any]:
    wire = Wire(memory())
    result, _ = measures(built, built.fleet(1, wire), state, Central(w), nodes, 1)
    assert wire.ledger.sent_bytes == 0
    return result["measures"]  # type: ignore[no-any-return]


def mixed(built: Setup) -> list[dict[str, Tensor]]:
    graph = built.graph(1)
    assert graph is not None
    groups = [[W_K[j] for j in (i, *graph.neighbours[i])] for i in range(5)]
    return [{name: sum(w[name] for w in group) / len(group) for name in group[0]} for group in groups]  # type: ignore[misc]


ASKED: dict[str, Any] = {"model": network(), "metric": ["f1", "auc", margin]}


@ENGINES
def test_on_rows_of_their_own(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    built = setup(tiny(partition=OWN, engine=engine, **ASKED))
    result = found(built, dfedavg.State(built.fleet(1, Wire(memory())).each(W_K)), W_K[2])
    for kind, models in {"own": mixed(built), "aggregate": [W_K[2]] * 5}.items():
        each = [by_hand(w, rows) for w, rows in zip(models, TEST, strict=True)]
        for name in ("f1", "auc", "margin"):
            assert_close(result[name][kind], spread([one[name] for one in each]))
        accuracy = spread([one["accuracy"] for one in each])
        assert_close(result["accuracy"][kind], accuracy | {"classes": classes(models, TEST)})
    assert result["margin"]["own"]["nodes"] != result["margin"]["aggregate"]["nodes"]
    late = found(built, dfedavg.State(built.fleet(1, Wire(memory())).each(W_K)), W_K[2], nodes=False)
    assert late["f1"] == {"own": None, "aggregate": result["f1"]["aggregate"]}


@ENGINES
def test_on_all_rows_the_aggregate_has_one_value(engine: str) -> None:
    built = setup(tiny(engine=engine, **ASKED))
    result = found(built, dfedavg.State(built.fleet(1, Wire(memory())).each(W_K)), W_K[2])
    rows = list(range(13))
    whole, each = by_hand(W_K[2], rows), [by_hand(w, rows) for w in mixed(built)]
    for name in ("f1", "auc", "margin"):
        assert_close(result[name]["own"], spread([one[name] for one in each]))
        assert_close(result[name]["aggregate"], {"all": whole[name]})
    own = spread([one["accuracy"] for one in each]) | {"classes": classes(mixed(built), [rows] * 5)}
    assert_close(result["accuracy"]["own"], own)
    assert_close(result["accuracy"]["aggregate"], {"all": whole["accuracy"], "classes": classes([W_K[2]], [rows])})


def test_personal_models_are_measured_as_they_are() -> None:
    built = setup(tiny("dispfl", partition=OWN, **ASKED))
    each = built.fleet(1, Wire(memory())).each
    result = found(built, dispfl.State(each(W_K), each([{}] * 5), each([{}] * 5)), W_K[2])
    expected = [by_hand(w, rows)["f1"] for w, rows in zip(W_K, TEST, strict=True)]
    assert_close(result["f1"]["own"], spread(expected))


def test_a_servers_model_is_every_nodes_own() -> None:
    built = setup(tiny("fedavg", partition=OWN, **ASKED))
    result = found(built, fedavg.State(Central(W_K[1])), W_K[1], nodes=False)
    assert all(part["own"] == part["aggregate"] for part in result.values())
    assert_close(result["f1"]["own"], spread([by_hand(W_K[1], rows)["f1"] for rows in TEST]))


def test_nodes_whose_rows_define_no_value_are_left_out_of_the_mean() -> None:
    """AUC needs two classes: node 1 has rows of one class, and of the others each class is measured that is there."""
    rows = [[3, 5], [0, 3, 6], [12, 4, 5], [7, 8], [9, 10, 11]]
    part = partition()._replace(test_index=[np.array(own) for own in rows])
    built = setup(tiny("fedavg", partition=part, **ASKED))
    result = found(built, fedavg.State(Central(W_K[1])), W_K[1])["auc"]["own"]
    assert result["nodes"][1] is None
    expected = [by_hand(W_K[1], own)["auc"] for own in rows]
    assert expected[1] is None
    assert_close(result, spread(expected))


def test_a_metric_that_no_rows_define_ends_the_run_with_a_sentence() -> None:
    rows = [[3], [1], [2], [7], [9]]
    part = partition()._replace(test_index=[np.array(own) for own in rows])
    told = r"^`metric` must be defined on some test rows; got none of auc in round 1, which needs rows of two classes\."
    with pytest.raises(SettingError, match=told):
        run(tiny("fedavg", partition=part, **ASKED))


def test_a_regression_has_metrics_of_ones_own() -> None:
    def error(outputs: Tensor, targets: Tensor) -> float:
        return -float(((outputs - targets) ** 2).mean())

    settings: dict[str, Any] = {"dataset": data(0), "model": network(2), "partition": OWN, "metric": [error]}
    entry = run(tiny(**settings)).rounds[-1]
    assert {*entry["measures"]} == {"error"}
    test, w = data(0), run(tiny(**settings)).model
    with torch.no_grad():
        each = [-float(((w(test.x_test[rows]) - test.y_test[rows]) ** 2).mean()) for rows in TEST]
    assert_close(entry["measures"]["error"]["aggregate"], spread(each))  # type: ignore[arg-type]


@pytest.mark.few(3)
@pytest.mark.parametrize("method", often(names("methods")))
def test_every_method_and_both_engines(method: str) -> None:
    short = {"dtype": "float64", "rounds": 3 if method == "fedpart" else 1}
    asked = {**short, "evaluate_on": "own", "metric": "f1,auc"}
    one, other = (run(tiny(method, engine=engine, **asked)).rounds for engine in ("sequential", "vectorized"))
    plain = run(tiny(method, engine="sequential", **short)).rounds
    for entry, twin, bare in zip(one, other, plain, strict=True):
        for name, models in entry["measures"].items():
            for kind, told in models.items():
                assert_close(twin["measures"][name][kind], told)
        assert entry["measures"]["accuracy"]["own"]["nodes"] == entry["node_accuracy"]
        assert entry["measures"]["accuracy"]["own"]["mean"] == pytest.approx(entry["mean_node_accuracy"])
        assert entry["accuracy"] == pytest.approx(bare["accuracy"])  # all test rows are somebody's
        assert entry["loss"] == pytest.approx(bare["loss"])
        assert entry["sent_bytes"] == bare["sent_bytes"]
        assert "measures" not in bare


@pytest.mark.few(1)
@pytest.mark.parametrize("change", [{"evaluate_on": "own"}, {}])
@pytest.mark.parametrize("method", often(["dfedavg", "dispfl", "fedavg"], ["dfedavg"]))
def test_every_node_in_a_thread_gives_the_same(method: str, change: dict[str, Any]) -> None:
    def asked() -> Setup:
        return setup(tiny(method, **{**ASKED, "model": network()}, engine="sequential", **change))

    whole = run(asked()).rounds

    def play(transport: Any) -> Any:
        return run(
            setup(tiny(method, **{**ASKED, "model": network()}, engine="sequential", **change), lambda _: transport)
        )

    assert timeless(threads(range(5), play)[0].rounds) == timeless(whole)


def test_liars_are_not_measured() -> None:
    entry = run(tiny(**ASKED, evaluate_on="own", attack="noise", who=(1,))).rounds[-1]
    assert len(entry["measures"]["f1"]["own"]["nodes"]) == 4


def test_the_record_tells_what_was_asked_for_and_a_file_counts(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def mine(outputs, labels):\n    return outputs.mean()\n")
    found = run(tiny(model=network(), metric=f"f1,{mine}", evaluate_on="own"))
    described = found.manifest["experiment"]
    assert (described["metric"], described["evaluate_on"]) == (["f1", "mine"], "own")
    assert found.manifest["sources"]["metric 2"]["name"] == "mine.py"
    assert {*found.rounds[0]["measures"]} == {"accuracy", "f1", "mine"}
    plain = run(tiny(model=network()))
    assert not {"metric", "evaluate_on"} & {*plain.manifest["experiment"]}
    assert not any(name.startswith("metric") for name in plain.manifest["sources"])


@pytest.mark.parametrize("on", ["all", "own"])
@pytest.mark.parametrize("method", ["dfedavg", "fedavg"])
def test_metrics_take_no_outputs_more(method: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model gives for a row is computed once a round, whether accuracy alone is taken of it or metrics too."""
    predict, asked = Setup.predict, [0]

    def counted(built: Setup, weights: Any, x: Any) -> Any:
        asked[0] += len(x)
        return predict(built, weights, x)

    monkeypatch.setattr(Setup, "predict", counted)
    rows = []
    for extra in ({}, {"metric": "f1"}):
        given = {"partition": OWN} if on == "own" else {}
        asked[0] = 0
        run(tiny(method, engine="sequential", **given, **extra))
        rows.append(asked[0])
    models = 1 + (method == "dfedavg") * (1 if on == "own" else 5)  # on all rows every node's own, too
    assert rows == [2 * 13 * models] * 2
