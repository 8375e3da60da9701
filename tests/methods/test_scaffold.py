from typing import Any

import pytest
import torch

from fedtangent.methods.scaffold import scaffold
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
from tests.tiny_federation import ROWS, assert_close

OPTIONS: list[dict[str, Any]] = [
    {"server_lr": 1.0, "participation": 1.0, "epochs": 2, "batch": 3, "lr": 0.3},
    {"server_lr": 0.6, "participation": 0.5, "epochs": 3, "batch": 4, "lr": 0.1},
    {"server_lr": 0.8, "participation": 0.7, "epochs": 2, "batch": 3, "lr": 0.2, "aggregation": "weighted"},
]


def transcript(
    rounds: int, server_lr: float, participation: float, aggregation: str = "plain", **local: Any
) -> tuple[Weights, Weights, list[Weights]]:
    """Algorithm 1 of Karimireddy et al. 2020, option II."""
    x = weights_0()
    c = each(torch.zeros_like, x)
    c_i = [c] * K
    for t in range(1, rounds + 1):
        clients, dy, dc = drawn(t, participation), [], []
        for i in clients:

            def term(model: Any, _: Any, c: Weights = c, c_i: Weights = c_i[i]) -> Any:
                return sum(((c[name] - c_i[name]) * p).sum() for name, p in model.named_parameters())

            y = trained(x, t, i, term, **local)
            steps = local["epochs"] * -(-ROWS[i] // local["batch"])
            c_plus = each(lambda c_i, c, x, y: c_i - c + (x - y) / (steps * local["lr"]), c_i[i], c, x, y)  # noqa: B023
            dy.append(each(torch.sub, y, x))
            dc.append(each(torch.sub, c_plus, c_i[i]))
            c_i[i] = c_plus
        n = [ROWS[i] for i in clients] if aggregation == "weighted" else None
        x = each(lambda x, dy: x + server_lr * dy, x, average(dy, n))
        c = each(lambda c, dc: c + len(clients) / K * dc, c, average(dc, n))  # noqa: B023
    return x, c, c_i


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(scaffold(federation.task(), **options), rounds=4, engine=federation.engine(engine, 3))
    x, c, c_i = transcript(4, **options)
    assert_close(found.aggregate, x, 1e-11)
    assert_close(found.state.c.value, c, 1e-11)
    assert_close(found.state.c_k.values, c_i, 1e-11)
    up = 2 * P + 8 * ("aggregation" in options)
    assert_bytes(found.ledger, [drawn(k, options["participation"]) for k in (1, 2, 3, 4)], up, 2 * P)


def test_the_servers_variate_is_the_mean_of_the_clients() -> None:
    state = federation.run(scaffold(federation.task(), participation=0.5), rounds=3).state
    assert_close(state.c.value, average(state.c_k.values))


def test_by_hand() -> None:
    """Clients at 1 and 3, one step of 1/2: 1/2 and 3/2, so c_k = -1, -3 and c = -2; then both see the gradient -1."""
    task, data = scalar([1.0], [3.0])
    found = federation.run(scaffold(task, batch=1, lr=0.5), data, rounds=1).state
    assert [float(c["weight"]) for c in [found.c.value, *found.c_k.values]] == [-2, -1, -3]
    assert by_hand(scaffold(task, batch=1, lr=0.5), data, 2) == [1, 1.5]
    assert by_hand(scaffold(task, batch=1, lr=0.5, server_lr=2.0), data, 1) == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"server_lr": 0.0},
            "`server_lr` must be positive and finite; got 0.0. Use 1 to move as far as the clients' mean.",
        ),
        ({"aggregation": "rows"}, "`aggregation` must be 'plain' or 'weighted'; got 'rows'. Choose one of the two."),
        ({"lr": 0.0}, "`lr` must be positive and finite; got 0.0. Give a learning rate such as 0.1."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        scaffold(federation.task(), **options)
    assert str(caught.value) == message
