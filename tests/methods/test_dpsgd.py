from typing import Any

import pytest
import torch

from fedtangent.federation import Graph
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.dpsgd import dpsgd
from fedtangent.methods.fedavg import fedavg
from tests import tiny_federation as federation
from tests.methods.literal_gossip import K, gossip, stepped
from tests.methods.literal_server import ENGINES, P, Weights, average, each, scalar, weights_0
from tests.tiny_federation import GRAPH, ROWS, assert_close, assert_same

OPTIONS: list[dict[str, Any]] = [
    {"epochs": 0, "batch": 3, "lr": 0.3},
    {"epochs": 0, "batch": 100, "lr": 0.2, "adapt_first": True},
    {"epochs": 2, "batch": 3, "lr": 0.1},
    {"epochs": 1, "batch": 4, "lr": 0.1, "adapt_first": True},
]


def transcript(
    rounds: int, uniform: bool, epochs: int, batch: int, lr: float, adapt_first: bool = False
) -> list[Weights]:
    """Algorithm 1 of Lian et al. 2017."""
    x = [weights_0() for _ in ROWS]
    for k in range(1, rounds + 1):
        z = [stepped(x[i], k, i, epochs, batch, lambda x, g: each(lambda x, g: x - lr * g, x, g)) for i in range(K)]
        if adapt_first:
            x = gossip(z, uniform)
        else:
            mean = gossip(x, uniform)
            x = [each(lambda m, z, x: m + z - x, mean[i], z[i], x[i]) for i in range(K)]
    return x


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    for weights in ("uniform", "metropolis"):
        method = dpsgd(federation.task(), **options)
        found = federation.run(method, rounds=3, gossip_weights=weights, engine=federation.engine(engine, 3))
        expected = transcript(3, weights == "uniform", **options)
        assert_close(found.state.w_k.values, expected)
        assert_close(found.aggregate, average(expected))
        assert {node: found.ledger.sent[node] for node in range(K)} == {
            node: 3 * GRAPH.degree(node) * P for node in range(K)
        }


def test_by_hand() -> None:
    """Two nodes at 0 with targets 1 and 3, step 1/2: 1/2 and 3/2; then both mean 1, less half of -1/2 and -3/2."""
    task, data = scalar([1.0], [3.0])
    pair = Graph([(0, 1)], 2)
    after = [federation.run(dpsgd(task, batch=1, lr=0.5), data, rounds=k, graph=pair).state.w_k.values for k in (1, 2)]
    assert [[float(w["weight"]) for w in w_k] for w_k in after] == [[0.5, 1.5], [1.25, 1.75]]


def test_an_epoch_first_is_dfedavg() -> None:
    local: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2}
    found = federation.run(dpsgd(federation.task(), adapt_first=True, **local), rounds=3)
    assert_same(found.aggregate, federation.run(dfedavg(federation.task(), **local), rounds=3).aggregate)


def test_on_a_complete_graph_its_mean_takes_the_mean_step_from_wherever_the_nodes_are() -> None:
    """From one point, full batches: one round of both orders is a step of gradient descent, FedAvg's of one step."""
    data, complete = federation.shards([4] * 5), Graph([(i, j) for i in range(5) for j in range(i)], 5)
    expected = federation.run(fedavg(federation.task(), batch=4, lr=0.3), data, rounds=1).aggregate
    for adapt_first in (True, False):
        method = dpsgd(federation.task(), batch=4, lr=0.3, adapt_first=adapt_first)
        assert_close(federation.run(method, data, rounds=1, graph=complete).aggregate, expected)


def test_the_orders_differ() -> None:
    first, together = (
        federation.run(dpsgd(federation.task(), adapt_first=order), rounds=2).aggregate["0.weight"]
        for order in (True, False)
    )
    assert not torch.allclose(first, together, rtol=1e-4)


def test_wrong_values_are_one_clear_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"^`epochs` must not be negative; got -1\. Use 0 for a gradient of one batch\.$"
    ):
        dpsgd(federation.task(), epochs=-1)
