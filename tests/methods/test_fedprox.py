from typing import Any

import pytest

from fedtangent.methods.fedprox import fedprox
from tests import tiny_federation as federation
from tests.methods.literal_server import (
    ENGINES,
    P,
    Weights,
    assert_bytes,
    average,
    by_hand,
    drawn,
    scalar,
    trained,
    weights_0,
)
from tests.tiny_federation import ROWS, assert_close

OPTIONS: list[dict[str, Any]] = [
    {"mu": 0.7, "participation": 1.0, "epochs": 3, "batch": 3, "lr": 0.3, "momentum": 0.0},
    {"mu": 2.0, "participation": 0.5, "epochs": 2, "batch": 4, "lr": 0.1, "momentum": 0.8},
    {"mu": 0.4, "participation": 0.7, "epochs": 2, "batch": 3, "lr": 0.01, "optimizer": "adam"},
]


def transcript(rounds: int, mu: float, participation: float, **local: Any) -> Weights:
    """Algorithm 2 of Li et al. 2020, clients weighted by their rows."""
    w = weights_0()
    for k in range(1, rounds + 1):

        def term(model: Any, x: Any, anchor: Weights = w) -> Any:
            return mu / 2 * sum(((p - anchor[name]) ** 2).sum() for name, p in model.named_parameters())

        clients = drawn(k, participation)
        w = average([trained(w, k, c, term, **local) for c in clients], [ROWS[c] for c in clients])
    return w


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(fedprox(federation.task(), **options), rounds=3, engine=federation.engine(engine, 3))
    assert_close(found.aggregate, transcript(3, **options), 1e-11)
    assert_bytes(found.ledger, [drawn(k, options["participation"]) for k in (1, 2, 3)], P + 8, P)


def test_by_hand() -> None:
    """Of the gradients (w - 1) + (w - w_t) the second step's is zero: 0, 1/2, 1/2; and then 1/2, 3/4, 3/4."""
    task, data = scalar([1.0])
    assert by_hand(fedprox(task, mu=1.0, epochs=2, batch=1, lr=0.5), data, 2) == [0.5, 0.75]
    assert by_hand(fedprox(task, mu=0.0, epochs=2, batch=1, lr=0.5), data, 2) == [0.75, 0.9375]


@pytest.mark.parametrize("mu", [-0.1, float("nan")])
def test_a_negative_mu_is_an_error(mu: float) -> None:
    with pytest.raises(ValueError, match=rf"^`mu` must not be negative; got {mu}. Use 0 for FedAvg.$"):
        fedprox(federation.task(), mu=mu)
