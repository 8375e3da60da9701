"""What the methods with a server have in common: where each of them is FedAvg, or another of them."""

from typing import Any

import pytest
import torch

from fedtangent.catalog import load
from tests import tiny_federation as federation
from tests.methods.literal_server import ENGINES
from tests.tiny_federation import assert_close

LOCAL: dict[str, Any] = {"participation": 0.5, "epochs": 2, "batch": 3, "lr": 0.2}
MOMENTUM: dict[str, Any] = LOCAL | {"momentum": 0.7}
ADAM: dict[str, Any] = LOCAL | {"lr": 0.01, "optimizer": "adam"}
UNEQUAL, EQUAL = federation.ROWS, (5,) * 6


def weights(name: str, rows: tuple[int, ...], rounds: int, engine: str = "sequential", **options: Any) -> Any:
    method, data = load("methods", name)(federation.task(), **options), federation.shards(rows)
    return federation.run(method, data, rounds=rounds, engine=federation.engine(engine, 3)).aggregate


FEDAVG: list[tuple[str, dict[str, Any], dict[str, Any], tuple[int, ...], int]] = [
    ("fedprox", {"mu": 0.0}, MOMENTUM, UNEQUAL, 3),
    ("fedprox", {"mu": 0.0}, ADAM, UNEQUAL, 3),
    ("moon", {"mu": 0.0}, MOMENTUM, UNEQUAL, 3),
    ("moon", {"mu": 0.0}, ADAM, UNEQUAL, 3),
    ("fednova", {}, MOMENTUM, EQUAL, 3),
    ("scaffold", {}, LOCAL, EQUAL, 1),
    ("scaffold", {"aggregation": "weighted"}, LOCAL, UNEQUAL, 1),
    ("fedopt", {"optimizer": "momentum", "beta1": 0.0, "server_lr": 1.0}, MOMENTUM, UNEQUAL, 3),
]


@pytest.mark.few(6)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "own", "local", "rows", "rounds"), FEDAVG)
def test_is_fedavg(
    name: str, own: dict[str, Any], local: dict[str, Any], rows: tuple[int, ...], rounds: int, engine: str
) -> None:
    assert_close(weights(name, rows, rounds, engine, **own, **local), weights("fedavg", rows, rounds, **local), 1e-11)


OTHERWISE: list[tuple[str, dict[str, Any], tuple[int, ...], int]] = [
    ("fedprox", {"mu": 0.1}, UNEQUAL, 1),
    ("moon", {"mu": 0.1}, UNEQUAL, 3),
    ("fednova", {}, UNEQUAL, 1),
    ("scaffold", {}, EQUAL, 3),
    ("feddyn", {"penalty": 0.1}, EQUAL, 1),
    ("fedopt", {"optimizer": "momentum", "beta1": 0.1}, UNEQUAL, 3),
    ("fedopt", {"optimizer": "momentum", "beta1": 0.0, "server_lr": 0.9}, UNEQUAL, 1),
]


@pytest.mark.parametrize(("name", "own", "rows", "rounds"), OTHERWISE)
def test_is_fedavg_no_longer(name: str, own: dict[str, Any], rows: tuple[int, ...], rounds: int) -> None:
    options = LOCAL | {"participation": 1.0}
    found, expected = weights(name, rows, rounds, **own, **options), weights("fedavg", rows, rounds, **options)
    assert not torch.allclose(found["0.weight"], expected["0.weight"], rtol=1e-4)


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_feddyn_without_its_regulariser_overshoots_in_round_one(participation: float) -> None:
    """penalty -> 0 is not FedAvg: w <- mean + C (mean - w), server momentum's first step of 1 + C."""
    local = MOMENTUM | {"participation": participation}
    twice = {"optimizer": "momentum", "beta1": 0.0, "server_lr": 1 + participation}
    expected = weights("fedopt", EQUAL, 1, **twice, **local)
    assert_close(weights("feddyn", EQUAL, 1, penalty=1e-9, **local), expected, 1e-7)


def test_feddyn_without_its_regulariser_sums_all_moves() -> None:
    """And then, with all clients: w <- mean + the sum of all rounds' (mean - w)."""
    local, w, total = MOMENTUM | {"participation": 1.0}, [federation.task().w_0], 0.0
    for rounds in (1, 2, 3):
        w.append(weights("feddyn", EQUAL, rounds, penalty=1e-9, **local))
        move = w[-1]["0.weight"] - w[-2]["0.weight"] - total  # of the clients: what is not the sum before, twice
        total = total + move / 2
    fresh = federation.task()
    object.__setattr__(fresh, "w_0", w[2])
    step = load("methods", "fedavg")(fresh, **local)
    data, fleet = federation.shards(EQUAL), federation.fleet(len(EQUAL), round=3)
    state, _ = step.round(fleet, step.init(fleet, fleet.each(data)), fleet.each(data), 3)
    assert_close(state.w.value["0.weight"] - w[2]["0.weight"], move / 2, 1e-6)


@pytest.mark.parametrize("aggregation", ["plain", "weighted"])
def test_scaffold_with_one_full_batch_step_is_gradient_descent(aggregation: str) -> None:
    """With all clients and one step c - c_k is as large as the drift, and vanishes in the mean."""
    options: dict[str, Any] = {"batch": 100, "lr": 0.2}
    rows = EQUAL if aggregation == "plain" else UNEQUAL
    found = weights("scaffold", rows, 3, aggregation=aggregation, **options)
    assert_close(found, weights("central", rows, 3, **options), 1e-11)


def test_plain_and_weighted_differ_where_shards_do() -> None:
    plain, weighted = (weights("scaffold", UNEQUAL, 1, aggregation=how) for how in ("plain", "weighted"))
    assert not torch.allclose(plain["0.weight"], weighted["0.weight"], rtol=1e-4)
