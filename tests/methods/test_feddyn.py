from typing import Any

import pytest
import torch

from fedtangent.methods.feddyn import feddyn
from tests import tiny_federation as federation
from tests.methods.literal_server import (
    ENGINES,
    K,
    P,
    Weights,
    assert_bytes,
    average,
    by_hand,
    drawn,
    each,
    scalar,
    trained,
    weights_0,
)
from tests.tiny_federation import assert_close

OPTIONS: list[dict[str, Any]] = [
    {"penalty": 0.7, "participation": 1.0, "epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.0},
    {"penalty": 0.2, "participation": 0.5, "epochs": 3, "batch": 4, "lr": 0.1, "momentum": 0.6},
]


def transcript(
    rounds: int, penalty: float, participation: float, **local: Any
) -> tuple[Weights, Weights, list[Weights], list[list[int]]]:
    """Algorithm 1 of Acar et al. 2021, every local problem solved by some steps of SGD."""
    alpha = penalty
    theta = weights_0()
    h = each(torch.zeros_like, theta)
    gradient = [h] * K
    for t in range(1, rounds + 1):
        clients, found = drawn(t, participation), []
        for k in clients:

            def term(model: Any, _: Any, own: Weights = gradient[k], theta: Weights = theta) -> Any:
                linear = sum((own[name] * p).sum() for name, p in model.named_parameters())
                return alpha / 2 * sum(((p - theta[name]) ** 2).sum() for name, p in model.named_parameters()) - linear

            found.append(trained(theta, t, k, term, **local))
            gradient[k] = each(lambda g, new, old: g - alpha * (new - old), gradient[k], found[-1], theta)
        for new in found:
            h = each(lambda h, new, old: h - alpha / K * (new - old), h, new, theta)
        theta = each(lambda mean, h: mean - h / alpha, average(found), h)
    return theta, h, gradient, [drawn(t, participation) for t in range(1, rounds + 1)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(feddyn(federation.task(), **options), rounds=3, engine=federation.engine(engine, 3))
    theta, h, gradient, clients = transcript(3, **options)
    assert_close(found.aggregate, theta, 1e-11)
    assert_close(found.state.h.value, h, 1e-11)
    assert_close(found.state.g_k.values, gradient, 1e-11)
    assert_bytes(found.ledger, clients, P, P)


def test_the_servers_memory_is_the_mean_of_the_clients() -> None:
    state = federation.run(feddyn(federation.task(), participation=0.5), rounds=3).state
    assert_close(state.h.value, average(state.g_k.values))


def test_by_hand() -> None:
    """Clients at 1 and 3, one step of 1/2, a penalty of 1.

    From 0 they come to 1/2 and 3/2, so g = -1/2, -3/2, h = -1 and w = 1 + 1. There they see the gradients 1 + 1/2 and
    -1 + 3/2, come to 5/4 and 7/4, so h = -1 + 1/2 and w = 3/2 + 1/2.
    """
    task, data = scalar([1.0], [3.0])
    assert by_hand(feddyn(task, penalty=1.0, batch=1, lr=0.5), data, 2) == [2, 2]
    state = federation.run(feddyn(task, penalty=1.0, batch=1, lr=0.5), data, rounds=2).state
    assert [float(g["weight"]) for g in [state.h.value, *state.g_k.values]] == [-0.5, 0.25, -1.25]


def test_the_clients_come_to_stop_where_the_mean_loss_is_lowest() -> None:
    """The mean loss of clients at 1 and 3 is lowest at 2; their gradients there are what they remember."""
    task, data = scalar([1.0], [3.0])
    state = federation.run(feddyn(task, penalty=0.5, epochs=40, batch=1, lr=0.5), data, rounds=60).state
    found = [float(part["weight"]) for part in [state.w.value, *state.g_k.values]]
    assert found == pytest.approx([2, 1, -1], abs=1e-9)


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_the_penalty_is_positive(penalty: float) -> None:
    with pytest.raises(ValueError) as caught:
        feddyn(federation.task(), penalty=penalty)
    assert str(caught.value) == (f"`penalty` must be positive; got {penalty}. Use 0.01, or the method fedavg for none.")
