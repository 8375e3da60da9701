from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.federation import Graph
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.pooled import pooled
from tests import tiny_federation as federation
from tests.methods.literal_sgd import train
from tests.tiny_federation import GRAPH, ROWS, assert_close, philox

OPTIONS: list[dict[str, Any]] = [
    {"epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.0},
    {"epochs": 1, "batch": 100, "lr": 0.1, "momentum": 0.8},
    {"epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.0, "averaging": False},
]


def transcript(rounds: int, averaging: bool = True, **options: Any) -> list[dict[str, Tensor]]:
    """Every node averages with its neighbours, and trains on all their rows, its own first."""
    data, w_k = federation.shards(), [federation.network().state_dict() for _ in ROWS]
    for k in range(1, rounds + 1):
        now = []
        for node in range(len(ROWS)):
            near = [node, *GRAPH.neighbours[node]]
            model = federation.network()
            averaged = near if averaging else [node]
            model.load_state_dict({p: sum(w_k[j][p] for j in averaged) / len(averaged) for p in w_k[node]})
            x, y = (torch.cat([getattr(data[j], part) for j in near]) for part in ("x", "y"))
            train(model, x, y, philox("batches", k, node), **options)
            now.append(dict(model.state_dict()))
        w_k = now
    return w_k


@pytest.mark.parametrize("options", OPTIONS)
def test_trains_on_the_neighbourhoods_rows(options: dict[str, Any]) -> None:
    found = federation.run(pooled(federation.task(), **options), rounds=3)
    expected = transcript(3, **options)
    assert_close(found.state.w_k.values, expected)
    assert_close(found.aggregate, {p: sum(w[p] for w in expected) / len(ROWS) for p in expected[0]})


def test_weights_and_rows_are_billed() -> None:
    """Weights and one's rows to every neighbour; no question is asked for them."""
    sent = federation.run(pooled(federation.task(), **OPTIONS[0]), rounds=2).ledger.sent
    weights = trees.payload_bytes(federation.task().w_0)
    for node, rows in enumerate(ROWS):
        assert sent[node] == 2 * GRAPH.degree(node) * (weights + rows * (federation.INPUTS + 1) * 8)


def test_a_lonely_node_trains_on_its_own_rows() -> None:
    """Where nobody has neighbours a round is DFedAvg's, which then only trains."""
    alone = Graph([], len(ROWS))
    found = federation.run(pooled(federation.task(), **OPTIONS[0]), graph=alone, rounds=1)
    assert_close(
        found.state.w_k.values,
        federation.run(dfedavg(federation.task(), **OPTIONS[0]), graph=alone, rounds=1).state.w_k.values,
    )
