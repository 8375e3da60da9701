from typing import Any

import pytest
import torch

from fedtangent.federation import Graph
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.dfedsam import dfedsam
from tests import tiny_federation as federation
from tests.methods.literal_gossip import K, batches, gossip, gradient
from tests.methods.literal_server import ENGINES, P, Weights, average, each, scalar, weights_0
from tests.tiny_federation import GRAPH, ROWS, assert_close, assert_same

LOCAL: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2, "momentum": 0.6, "weight_decay": 0.01}
OPTIONS: list[dict[str, Any]] = [
    {"rho": 0.3} | LOCAL,
    {"rho": 0.5, "adaptive": True} | LOCAL,
    {"rho": 0.2, "gossip_steps": 3, "epochs": 1, "batch": 4, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
]


def trained(w: Weights, k: int, node: int, rho: float, adaptive: bool, local: dict[str, Any]) -> Weights:
    """K steps of sharpness-aware SGD with the heavy ball of torch."""
    v = each(torch.zeros_like, w)
    for rows in batches(k, node, local["epochs"], local["batch"]):
        g = gradient(w, node, rows)
        scaled = each(lambda w, g: w.abs() * g, w, g) if adaptive else g
        norm = sum((part**2).sum() for part in scaled.values()) ** 0.5
        e = each(lambda w, g: rho * (w**2 if adaptive else 1) * g / norm, w, g)  # noqa: B023
        sharp = gradient(each(torch.add, w, e), node, rows)
        v = each(lambda v, g, w: local["momentum"] * v + g + local["weight_decay"] * w, v, sharp, w)
        w = each(lambda w, v: w - local["lr"] * v, w, v)
    return w


def transcript(rounds: int, rho: float, adaptive: bool = False, gossip_steps: int = 1, **local: Any) -> list[Weights]:
    """Algorithm 1 of Shi et al. 2023."""
    x = [weights_0() for _ in ROWS]
    for k in range(1, rounds + 1):
        x = [trained(x[i], k, i, rho, adaptive, local) for i in range(K)]
        for _ in range(gossip_steps):
            x = gossip(x)
    return x


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(dfedsam(federation.task(), **options), rounds=3, engine=federation.engine(engine, 3))
    expected = transcript(3, **options)
    assert_close(found.state.w_k.values, expected, 1e-10)
    assert_close(found.aggregate, average(expected), 1e-10)
    sent = 3 * P * options.get("gossip_steps", 1)
    assert {node: found.ledger.sent[node] for node in range(K)} == {i: sent * GRAPH.degree(i) for i in range(K)}


def test_without_a_radius_it_is_dfedavg() -> None:
    options: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2, "momentum": 0.6}
    found = federation.run(dfedsam(federation.task(), rho=0.0, weight_decay=0.0, **options), rounds=3)
    expected = federation.run(dfedavg(federation.task(), **options), rounds=3)
    assert_same(found.aggregate, expected.aggregate)
    tiny = federation.run(dfedsam(federation.task(), rho=1e-13, weight_decay=0.0, **options), rounds=3)
    assert_close(tiny.aggregate, expected.aggregate, 1e-11)
    assert found.ledger.multiply_adds * 2 == tiny.ledger.multiply_adds
    assert not torch.allclose(
        federation.run(dfedsam(federation.task(), rho=0.3, weight_decay=0.0, **options)).aggregate["0.weight"],
        federation.run(dfedavg(federation.task(), **options)).aggregate["0.weight"],
        rtol=1e-4,
    )


def test_by_hand() -> None:
    """f = (w - 1)^2 / 2 at 0 has gradient -1; at -1/2 away, against the descent, it is -3/2: half of it is 3/4."""
    task, data = scalar([1.0])
    options: dict[str, Any] = {"batch": 1, "epochs": 1, "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}
    alone = Graph([], 1)
    found = federation.run(dfedsam(task, rho=0.5, **options), data, rounds=1, graph=alone)
    assert float(found.aggregate["weight"]) == pytest.approx(0.75)


def test_a_gradient_of_zero_moves_nothing() -> None:
    task, data = scalar([0.0])
    alone = Graph([], 1)
    assert float(federation.run(dfedsam(task, rho=0.5), data, graph=alone).aggregate["weight"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -0.1}, "`rho` must not be negative; got -0.1. Use 0.01, or 0 for DFedAvg."),
        ({"gossip_steps": 0}, "`gossip_steps` must be at least 1; got 0. Use 1, or more bytes and 4."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        dfedsam(federation.task(), **options)
    assert str(caught.value) == message
