from typing import Any

import pytest

from fedtangent.methods.fednova import fednova
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

OPTIONS: list[dict[str, Any]] = [
    {"participation": 1.0, "epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.0},
    {"participation": 0.5, "epochs": 3, "batch": 2, "lr": 0.1, "momentum": 0.8},
]


def length(steps: int, momentum: float) -> float:
    """|a_k|_1, gathered step by step as a client of Wang et al. 2020 would."""
    counter = total = 0.0
    for _ in range(steps):
        counter = momentum * counter + 1
        total += counter
    return total


def transcript(rounds: int, participation: float, **local: Any) -> Weights:
    """Equations 5 to 8 of Wang et al. 2020."""
    x, eta = weights_0(), local["lr"]
    for t in range(1, rounds + 1):
        clients, d, a = drawn(t, participation), [], []
        for i in clients:
            a.append(length(local["epochs"] * -(-ROWS[i] // local["batch"]), local["momentum"]))
            y = trained(x, t, i, **local)
            d.append(each(lambda x, y: (x - y) / (eta * a[-1]), x, y))  # noqa: B023
        n = [ROWS[i] for i in clients]
        tau = sum(n_i * a_i for n_i, a_i in zip(n, a, strict=True)) / sum(n)
        x = each(lambda x, d: x - tau * eta * d, x, average(d, n))  # noqa: B023
    return x


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(fednova(federation.task(), **options), rounds=3, engine=federation.engine(engine, 3))
    assert_close(found.aggregate, transcript(3, **options), 1e-11)
    one_scalar_more = P + 8 + 8
    assert_bytes(found.ledger, [drawn(k, options["participation"]) for k in (1, 2, 3)], one_scalar_more, P)


def test_by_hand() -> None:
    """One step to 1/2; two steps to 3/2 and 9/4: 5/3 mean steps times the mean move a step, (1/2 + 2 * 9/8) / 3."""
    task, data = scalar([1.0], [3.0, 3.0])
    assert by_hand(fednova(task, batch=1, lr=0.5), data, 1) == [pytest.approx(5 / 3 * 11 / 12, rel=1e-14)]


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_has_a_range(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"^`momentum` must be in \[0, 1\); got {momentum}. Use 0.9, or 0 for none.$"):
        fednova(federation.task(), momentum=momentum)
