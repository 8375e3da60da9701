"""The aggregated model of the best nodes: chosen by hand on the rows that all keep back."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent.catalog import load, names
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.best_nodes import best_nodes
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import Setup, setup
from fedtangent.methods import dfedavg
from fedtangent.training.task import Task
from fedtangent.transports.threads import threads
from tests.experiments.tiny import data, network, timeless, tiny

W_K = [{name: p.detach() * (k + 1) - k / 4 for name, p in network().named_parameters()} for k in range(5)]
PERSONAL = [name for name in names("methods") if load("methods", name)(Task(network())).personal is not None]


@torch.no_grad()
def rank(built: Setup, w: dict[str, Tensor], node: int) -> tuple[int, float, int]:
    assert built.held is not None
    right, loss = 0, 0.0
    for own in built.held:
        f = torch.func.functional_call(built.module, w, (own.x,))
        if built.classes:
            right += int((f.argmax(-1) == own.y).sum())
            loss += float(torch.nn.functional.cross_entropy(f, own.y, reduction="sum"))
        else:
            loss += float(((f - own.y) ** 2).sum() / 4)
    return -right, loss, node


@pytest.mark.parametrize("classes", [3, 0])
@pytest.mark.parametrize(("share", "count"), [(0.4, 2), (0.5, 2), (0.01, 1), (0.9, 4)])
def test_the_best_by_hand(classes: int, share: float, count: int) -> None:
    w_k = W_K if classes else [{n: p.detach() * (k + 1) for n, p in network(2).named_parameters()} for k in range(5)]
    asked = {"dataset": data(classes), "model": network(classes or 2), "validation": 0.4, "aggregate_best": share}
    for engine in ("sequential", "vectorized"):
        built = setup(tiny(engine=engine, **asked))
        fleet = built.fleet(1, built.wire())
        best = sorted(rank(built, w, node) for node, w in enumerate(w_k))[:count]
        found = best_nodes(built, fleet, dfedavg.State(fleet.each(w_k)))
        assert found.nodes == tuple(sorted(node for *_, node in best))
    assert len({rank(built, w, 0)[:2] for w in w_k}) == 5


@pytest.mark.few(5)
@pytest.mark.parametrize("method", PERSONAL)
def test_every_method_with_models_of_nodes(method: str) -> None:
    asked: dict[str, Any] = {"validation": 0.3, "dtype": "float64", "rounds": 3 if method == "fedpart" else 1}
    some, whole = run(tiny(method, aggregate_best=0.3, **asked)), run(tiny(method, **asked))
    assert some.manifest["experiment"]["aggregate_best"] == 0.3
    assert "aggregate_best" not in whole.manifest["experiment"]
    assert some.rounds[-1]["sent_bytes"] == whole.rounds[-1]["sent_bytes"]
    assert some.rounds[-1]["mean_node_accuracy"] == whole.rounds[-1]["mean_node_accuracy"]  # of all nodes
    assert some.rounds[-1]["loss"] != whole.rounds[-1]["loss"]


def test_the_aggregate_is_the_mean_of_the_best() -> None:
    asked: dict[str, Any] = {"model": network(), "validation": 0.4, "aggregate_best": 0.4, "engine": "sequential"}
    built = setup(tiny("dfedsam", **asked))
    found = run(built, keep_nodes=True)
    best = sorted(rank(built, w, node) for node, w in enumerate(found.nodes))[:2]
    for name, part in found.weights.items():
        expected = sum(found.nodes[node][name] for *_, node in best) / 2
        torch.testing.assert_close(part, expected)  # type: ignore[arg-type]
    apart = threads(range(5), lambda transport: run(setup(tiny("dfedsam", **asked), lambda _: transport)))[0]
    assert timeless(apart.rounds) == timeless(found.rounds)


@pytest.mark.parametrize(
    ("method", "change", "told"),
    [
        (
            "dfedavg",
            {"aggregate_best": 0},
            "`aggregate_best` must be above 0 and at most 1; got 0. Use 1 for all nodes.",
        ),
        ("dfedavg", {"aggregate_best": "half"}, "`aggregate_best` must be a number; got 'half'. Give one."),
        ("fedavg", {}, "`aggregate_best` must be 1 for fedavg, which has one model; got 0.5. Drop it."),
        ("dfedavg", {"validation": 0.0}, "`aggregate_best` must have rows to go by; got 0.5 without validation. Add"),
    ],
)
def test_what_cannot_be(method: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises((SettingError, SettingTypeError)) as error:
        setup(tiny(method, **{"model": network(), "validation": 0.4, "aggregate_best": 0.5, **change}))
    assert str(error.value).startswith(told)
