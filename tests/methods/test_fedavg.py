from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.catalog import load
from fedtangent.federation import SERVER
from fedtangent.methods.central import central
from fedtangent.methods.fedavg import fedavg
from tests import tiny_federation as federation
from tests.methods.literal_sgd import train
from tests.tiny_federation import ROWS, assert_close, philox

K = len(ROWS)
OPTIONS: list[dict[str, Any]] = [
    {"participation": 1.0, "epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.0},
    {"participation": 0.5, "epochs": 1, "batch": 4, "lr": 0.1, "momentum": 0.8},
    {"participation": 0.1, "epochs": 3, "batch": 100, "lr": 0.2, "momentum": 0.5},  # one client
    {"participation": 0.7, "epochs": 2, "batch": 3, "lr": 0.01, "momentum": 0.0, "optimizer": "adam"},
]


def transcript(
    rounds: int, participation: float, epochs: int, batch: int, lr: float, momentum: float, optimizer: str = "sgd"
) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Algorithm 1 of McMahan et al. 2017; and the clients of every round."""
    data, w, drawn = federation.shards(), federation.network().state_dict(), []
    for k in range(1, rounds + 1):
        m = max(int(participation * K), 1)
        clients = sorted(philox("cohort", k).choice(K, m, replace=False).tolist())
        n = sum(ROWS[client] for client in clients)
        average = {part: torch.zeros_like(value) for part, value in w.items()}
        for client in clients:
            model, (x, y, _) = federation.network(), data[client]
            model.load_state_dict(w)
            train(model, x, y, philox("batches", k, client), epochs, batch, lr, momentum, optimizer)
            for part, value in model.state_dict().items():
                average[part] += ROWS[client] / n * value
        w = average
        drawn.append(clients)
    return w, drawn


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(fedavg(federation.task(), **options), rounds=3, engine=federation.engine(engine, 3))
    expected, drawn = transcript(3, **options)
    assert_close(found.aggregate, dict(expected))
    visits = [sum(node in clients for clients in drawn) for node in range(K)]
    payload = trees.payload_bytes(federation.task().w_0)
    assert {node: found.ledger.received[node] for node in range(K)} == {n: v * payload for n, v in enumerate(visits)}
    assert {node: found.ledger.sent[node] for node in range(K)} == {n: v * (payload + 8) for n, v in enumerate(visits)}
    assert found.ledger.sent[SERVER] == sum(visits) * payload


def test_one_client_with_one_full_batch_is_central_training() -> None:
    data = federation.shards([7])
    alone = federation.run(fedavg(federation.task(), batch=100, lr=0.2), data, rounds=3)
    whole = federation.run(central(federation.task(), batch=100, lr=0.2), data, rounds=3)
    assert_close(alone.aggregate, whole.aggregate)


def test_one_full_batch_step_on_every_client_is_central_training() -> None:
    clients = federation.run(fedavg(federation.task(), batch=100, lr=0.2), rounds=3)
    whole = federation.run(central(federation.task(), batch=100, lr=0.2), rounds=3)
    assert_close(clients.aggregate, whole.aggregate)


@pytest.mark.parametrize(("participation", "nodes", "clients"), [(0.29, 100, 29), (0.05, 7, 1), (0.5, 7, 3)])
def test_participation_counts_whole_clients(participation: float, nodes: int, clients: int) -> None:
    data = federation.shards([1] * nodes)
    ledger = federation.run(fedavg(federation.task(), participation=participation), data, rounds=1).ledger
    assert len([node for node in ledger.sent if node != SERVER]) == clients


@pytest.mark.parametrize("participation", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_outside_its_range_is_an_error(participation: float) -> None:
    with pytest.raises(ValueError, match=r"^`participation` must be in \(0, 1\]; got .*\. Use 1 for all clients.$"):
        fedavg(federation.task(), participation=participation)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "moon"])
def test_a_local_optimiser_is_one_of_two_and_adam_has_no_momentum(name: str) -> None:
    with pytest.raises(ValueError, match=r"^`optimizer` must be 'sgd' or 'adam'; got 'yogi'. Choose one of the two.$"):
        load("methods", name)(federation.task(), optimizer="yogi")
    with pytest.raises(
        ValueError, match=r"^`momentum` must be 0 with adam, which has its own; got 0.9. Drop it, .*\.$"
    ):
        load("methods", name)(federation.task(), optimizer="adam", momentum=0.9)
