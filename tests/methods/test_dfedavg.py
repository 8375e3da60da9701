from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.federation import Graph
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.fedavg import fedavg
from tests import tiny_federation as federation
from tests.methods.literal_sgd import train
from tests.tiny_federation import GRAPH, ROWS, assert_close, philox

K = len(ROWS)
OPTIONS: list[dict[str, Any]] = [
    {"epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.0},
    {"epochs": 1, "batch": 4, "lr": 0.1, "momentum": 0.8},
    {"epochs": 3, "batch": 100, "lr": 0.2, "momentum": 0.5},
]


def transcript(
    rounds: int, uniform: bool, epochs: int, batch: int, lr: float, momentum: float
) -> list[dict[str, Tensor]]:
    """Algorithm 1 of Sun et al. 2023: every node's weights."""
    data, w_k = federation.shards(), [federation.network().state_dict() for _ in ROWS]
    for k in range(1, rounds + 1):
        z_k = []
        for node in range(K):
            model, (x, y, _) = federation.network(), data[node]
            model.load_state_dict(w_k[node])
            train(model, x, y, philox("batches", k, node), epochs, batch, lr, momentum)
            z_k.append(model.state_dict())
        w_k = []
        for node in range(K):
            near, degree = GRAPH.neighbours[node], GRAPH.degree(node)
            weight = {j: 1 / (1 + (degree if uniform else max(degree, GRAPH.degree(j)))) for j in near}
            own = 1 - sum(weight.values())
            w_k.append({p: own * z + sum(weight[j] * z_k[j][p] for j in near) for p, z in z_k[node].items()})
    return w_k


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], weights: str) -> None:
    found = federation.run(dfedavg(federation.task(), **options), rounds=3, gossip_weights=weights)
    expected = transcript(3, weights == "uniform", **options)
    assert_close(found.state.w_k.values, expected)
    assert_close(found.aggregate, {p: sum(w[p] for w in expected) / K for p in expected[0]})
    payload = trees.payload_bytes(federation.task().w_0)
    each = {node: 3 * GRAPH.degree(node) * payload for node in range(K)}
    assert dict(found.ledger.sent) == dict(found.ledger.received) == each


def test_the_final_model_may_be_weighted_by_rows() -> None:
    found = federation.run(dfedavg(federation.task(), aggregation="weighted"))
    w_k, n = found.state.w_k.values, sum(ROWS)
    expected = {p: sum(rows / n * w[p] for rows, w in zip(ROWS, w_k, strict=True)) for p in w_k[0]}
    assert_close(found.aggregate, expected)


def test_on_a_complete_graph_with_equal_shards_it_is_fedavg() -> None:
    data = federation.shards([4] * 5)
    options: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.6}
    complete = Graph([(i, j) for i in range(5) for j in range(i)], 5)
    gossip = federation.run(dfedavg(federation.task(), **options), data, rounds=3, graph=complete)
    server = federation.run(fedavg(federation.task(), **options), data, rounds=3)
    assert_close(gossip.aggregate, server.aggregate)
    assert_close(gossip.state.w_k.values, [server.aggregate] * 5)


def test_momentum_goes_to_none() -> None:
    """DFedAvgM(0) = DFedAvg, approached from the side of DFedAvgM."""
    plain, tiny = (federation.run(dfedavg(federation.task(), momentum=theta)) for theta in (0.0, 1e-15))
    assert_close(tiny.state.w_k.values, plain.state.w_k.values)
    assert not torch.allclose(
        federation.run(dfedavg(federation.task(), momentum=0.5)).aggregate["0.weight"], plain.aggregate["0.weight"]
    )


def test_an_unknown_aggregation_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^`aggregation` must be 'plain' or 'weighted'; got 'wieghted'. Choose .*\.$"):
        dfedavg(federation.task(), aggregation="wieghted")  # type: ignore[arg-type]
