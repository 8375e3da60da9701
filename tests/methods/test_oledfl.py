from typing import Any

import pytest
import torch

from fedtangent.federation import Graph
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.oledfl import oledfl
from tests import tiny_federation as federation
from tests.methods.literal_gossip import K, gossip
from tests.methods.literal_server import ENGINES, P, Weights, average, each, scalar, trained, weights_0
from tests.tiny_federation import GRAPH, ROWS, assert_close, assert_same

OPTIONS: list[dict[str, Any]] = [
    {"beta": 0.4, "epochs": 2, "batch": 3, "lr": 0.2, "momentum": 0.6},
    {"beta": 1.5, "epochs": 1, "batch": 4, "lr": 0.1},
]


def transcript(rounds: int, beta: float, **local: Any) -> tuple[list[Weights], list[Weights]]:
    """The rounds of Li et al. 2024: averaged weights, and those that local training has led to."""
    x = [weights_0() for _ in ROWS]
    last = x
    for t in range(1, rounds + 1):
        start = [each(lambda x, last: x + beta * (x - last), x[i], last[i]) for i in range(K)]
        last = [trained(start[i], t, i, **local) for i in range(K)]
        x = gossip(last)
    return x, last


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(oledfl(federation.task(), **options), rounds=4, engine=federation.engine(engine, 3))
    x, last = transcript(4, **options)
    assert_close(found.state.w_k.values, x, 1e-11)
    assert_close(found.state.z_k.values, last, 1e-11)
    assert_close(found.aggregate, average(x), 1e-11)
    assert {node: found.ledger.sent[node] for node in range(K)} == {i: 4 * P * GRAPH.degree(i) for i in range(K)}


def test_without_lookahead_it_is_dfedavg() -> None:
    options: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2, "momentum": 0.6}
    expected = federation.run(dfedavg(federation.task(), **options), rounds=3)
    found = federation.run(oledfl(federation.task(), beta=0.0, **options), rounds=3)
    assert_same(found.aggregate, expected.aggregate)
    found = federation.run(oledfl(federation.task(), beta=0.5, **options), rounds=3)
    assert not torch.allclose(found.aggregate["0.weight"], expected.aggregate["0.weight"], rtol=1e-4)


def test_by_hand() -> None:
    """Targets 1 and 3, step 1/2: 1/2 and 3/2, mean 1; node 0 starts at 1 + (1 - 1/2) / 2 = 5/4, node 1 at 3/4."""
    task, data = scalar([1.0], [3.0])
    method, pair = oledfl(task, beta=0.5, epochs=1, batch=1, lr=0.5), Graph([(0, 1)], 2)
    state = federation.run(method, data, rounds=2, graph=pair).state
    assert [float(z["weight"]) for z in state.z_k.values] == [1.125, 1.875]
    assert [float(w["weight"]) for w in state.w_k.values] == [1.5, 1.5]


def test_a_wrong_value_is_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match=r"^`beta` must not be negative; got -1\. Use 0\.1, or 0 for DFedAvg\.$"):
        oledfl(federation.task(), beta=-1)
