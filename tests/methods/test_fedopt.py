from typing import Any

import pytest
import torch

from fedtangent.methods.fedopt import fedopt
from tests import tiny_federation as federation
from tests.methods.literal_server import (
    ENGINES,
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
from tests.tiny_federation import ROWS, assert_close

LOCAL: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.4}
OPTIONS: list[dict[str, Any]] = [
    {"optimizer": "momentum", "server_lr": 0.7, "beta1": 0.6, "participation": 0.5},
    {"optimizer": "adagrad", "server_lr": 0.2, "beta1": 0.3, "tau": 0.05, "participation": 1.0},
    {"optimizer": "adam", "server_lr": 0.1, "beta1": 0.8, "beta2": 0.7, "tau": 0.02, "participation": 0.7},
    {"optimizer": "yogi", "server_lr": 0.3, "beta1": 0.7, "beta2": 0.6, "tau": 0.1, "participation": 0.5},
]


def adaptive(
    rounds: int, optimizer: str, server_lr: float, beta1: float, tau: float, participation: float, beta2: float = 0.0
) -> tuple[Weights, Weights, Weights]:
    """Algorithm 2 of Reddi et al. 2021, clients weighted by their rows."""
    x = weights_0()
    m, v = each(torch.zeros_like, x), each(lambda x: torch.full_like(x, tau**2), x)
    for t in range(1, rounds + 1):
        clients = drawn(t, participation)
        moves = [each(torch.sub, trained(x, t, i, **LOCAL), x) for i in clients]
        delta = average(moves, [ROWS[i] for i in clients])
        m = each(lambda m, d: beta1 * m + (1 - beta1) * d, m, delta)
        if optimizer == "adagrad":
            v = each(lambda v, d: v + d**2, v, delta)
        if optimizer == "yogi":
            v = each(lambda v, d: v - (1 - beta2) * d**2 * torch.sign(v - d**2), v, delta)
        if optimizer == "adam":
            v = each(lambda v, d: beta2 * v + (1 - beta2) * d**2, v, delta)
        x = each(lambda x, m, v: x + server_lr * m / (torch.sqrt(v) + tau), x, m, v)
    return x, m, v


def fedavgm(rounds: int, server_lr: float, beta1: float, participation: float) -> tuple[Weights, Weights]:
    """Server momentum of Hsu et al. 2019: v <- beta v + dw, w <- w - v, with dw uphill."""
    w = weights_0()
    v = each(torch.zeros_like, w)
    for t in range(1, rounds + 1):
        clients = drawn(t, participation)
        uphill = average([each(torch.sub, w, trained(w, t, i, **LOCAL)) for i in clients], [ROWS[i] for i in clients])
        v = each(lambda v, dw: beta1 * v + dw, v, uphill)
        w = each(lambda w, v: w - server_lr * v, w, v)
    return w, each(torch.neg, v)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["optimizer"])
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    made = fedopt(federation.task(), **options, **LOCAL)
    found = federation.run(made, rounds=4, engine=federation.engine(engine, 3))
    if options["optimizer"] == "momentum":
        w, m = fedavgm(4, **{name: value for name, value in options.items() if name != "optimizer"})
    else:
        w, m, v = adaptive(4, **options)
        assert_close(found.state.v.value, v, 1e-11)
    assert_close(found.aggregate, w, 1e-11)
    assert_close(found.state.m.value, m, 1e-11)
    assert_bytes(found.ledger, [drawn(k, options["participation"]) for k in (1, 2, 3, 4)], P + 8, P)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": "momentum", "beta1": 0.5}, [0.5, 1.0]),  # d = 1/2, then 1/4 and m = 1/4 + 1/4
        ({"optimizer": "adagrad", "tau": 1.0, "server_lr": 1.0}, [0.5 / (1.25**0.5 + 1)]),
        ({"optimizer": "adam", "beta1": 0.5, "beta2": 0.75, "tau": 1.0, "server_lr": 2.0}, [0.5 / (0.8125**0.5 + 1)]),
        ({"optimizer": "yogi", "beta1": 0.5, "beta2": 0.75, "tau": 1.0, "server_lr": 2.0}, [0.5 / (0.9375**0.5 + 1)]),
    ],
    ids=lambda options: options["optimizer"] if isinstance(options, dict) else "",
)
def test_by_hand(options: dict[str, Any], expected: list[float]) -> None:
    """One client at 1, one step of 1/2: d = 1/2, d^2 = 1/4; v begins at 1."""
    task, data = scalar([1.0])
    assert by_hand(fedopt(task, lr=0.5, **options), data, len(expected)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("left_out", "given"),
    [
        ({"optimizer": "momentum"}, {"server_lr": 1.0, "beta1": 0.9}),
        ({"optimizer": "adagrad"}, {"server_lr": 0.01, "beta1": 0.0, "tau": 0.001}),
        ({}, {"optimizer": "adam", "server_lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}),
        ({"optimizer": "yogi"}, {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}),
    ],
)
def test_what_is_left_out_is_as_documented(left_out: dict[str, Any], given: dict[str, Any]) -> None:
    found = federation.run(fedopt(federation.task(), **left_out)).aggregate
    federation.assert_same(found, federation.run(fedopt(federation.task(), **{**left_out, **given})).aggregate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimizer": "adamw"},
            "`optimizer` must be one of momentum, adagrad, adam, yogi; got 'adamw'. Choose one of these.",
        ),
        (
            {"server_lr": 0.0},
            "`server_lr` must be positive and finite; got 0.0. Give a step such as 0.01, or 1 for momentum.",
        ),
        ({"beta1": 1.0}, "`beta1` must be in [0, 1); got 1.0. Use 0.9, or leave it out."),
        ({"beta2": -0.1}, "`beta2` must be in [0, 1); got -0.1. Use 0.9, or leave it out."),
        ({"tau": 0.0}, "`tau` must be positive; got 0.0. Use 0.001."),
        (
            {"optimizer": "adagrad", "beta2": 0.9},
            "`beta2` must be left out for adagrad, which has none; got 0.9. Drop it.",
        ),
        (
            {"optimizer": "momentum", "beta2": 0.9},
            "`beta2` must be left out for momentum, which has none; got 0.9. Drop it.",
        ),
        (
            {"optimizer": "momentum", "tau": 0.1},
            "`tau` must be left out for momentum, which has none; got 0.1. Drop it.",
        ),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        fedopt(federation.task(), **options)
    assert str(caught.value) == message
