from typing import Any

import pytest
import torch

from fedtangent.federation import Graph
from fedtangent.methods.gradient_tracking import gradient_tracking
from tests import tiny_federation as federation
from tests.methods.literal_gossip import K, batches, gossip, gradient, stepped
from tests.methods.literal_server import ENGINES, P, Weights, average, each, scalar, weights_0
from tests.tiny_federation import GRAPH, ROWS, assert_close

OPTIONS: list[dict[str, Any]] = [
    {"batch": 3, "lr": 0.3},
    {"batch": 4, "lr": 0.1, "momentum": 0.8},
]


def transcript(rounds: int, batch: int, lr: float, momentum: float = 0.0) -> tuple[list[Weights], list[Weights]]:
    """Pu and Nedic 2021: x <- W (x - lr y), y <- W y + the change of the gradient; of its momentum where there is one.

    Takezawa et al. 2023 track that momentum.
    """
    x = [weights_0() for _ in ROWS]
    zero = [each(torch.zeros_like, w) for w in x]
    mixed_y, u = zero, zero
    for k in range(1, rounds + 1):
        g = [gradient(x[i], i, batches(k, i, 0, batch)[0]) for i in range(K)]
        new_u = [each(lambda u, g: momentum * u + g, u[i], g[i]) for i in range(K)]
        y = [each(lambda y, new, u: y + new - u, mixed_y[i], new_u[i], u[i]) for i in range(K)]
        x = gossip([each(lambda x, y: x - lr * y, x[i], y[i]) for i in range(K)])
        mixed_y, u = gossip(y), new_u
    return x, [each(torch.sub, u[i], mixed_y[i]) for i in range(K)]


def local_transcript(rounds: int, epochs: int, batch: int, lr: float) -> tuple[list[Weights], list[Weights]]:
    """K-GT of Liu et al. 2023 without a step size of its own for the average; its c has the other sign."""
    x = [weights_0() for _ in ROWS]
    c = [each(torch.zeros_like, w) for w in x]
    for t in range(1, rounds + 1):
        z, ahead = [], []
        for i in range(K):

            def move(x: Weights, g: Weights, c: Weights = c[i]) -> Weights:
                return each(lambda x, g, c: x - lr * (g + c), x, g, c)

            end = stepped(x[i], t, i, epochs, batch, move)
            steps = len(batches(t, i, epochs, batch))
            z.append(each(lambda x, end: (x - end) / (steps * lr), x[i], end))  # noqa: B023
            ahead.append(end)
        mean_z = gossip(z)
        c = [each(lambda c, z, mean: c - z + mean, c[i], z[i], mean_z[i]) for i in range(K)]
        x = gossip(ahead)
    return x, [each(torch.neg, part) for part in c]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    made = gradient_tracking(federation.task(), **options)
    found = federation.run(made, rounds=4, engine=federation.engine(engine, 3))
    x, c = transcript(4, **options)
    assert_close(found.state.w_k.values, x, 1e-10)
    assert_close(found.state.c_k.values, c, 1e-10)
    assert_close(found.aggregate, average(x), 1e-10)
    assert {node: found.ledger.sent[node] for node in range(K)} == {i: 8 * P * GRAPH.degree(i) for i in range(K)}


@pytest.mark.parametrize("engine", ENGINES)
def test_with_local_epochs_it_is_k_gt(engine: str) -> None:
    options: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2}
    made = gradient_tracking(federation.task(), **options)
    state = federation.run(made, rounds=4, engine=federation.engine(engine, 3)).state
    x, c = local_transcript(4, **options)
    assert_close(state.w_k.values, x, 1e-10)
    assert_close(state.c_k.values, c, 1e-10)


@pytest.mark.parametrize("options", [*OPTIONS, {"epochs": 2, "batch": 3, "lr": 0.1}])
def test_the_corrections_cancel_where_gossip_keeps_the_mean(options: dict[str, Any]) -> None:
    made = gradient_tracking(federation.task(), **options)
    c = average(federation.run(made, rounds=3, gossip_weights="metropolis").state.c_k.values)
    assert_close(c, each(torch.zeros_like, c), 1e-12)


def test_nodes_come_to_the_optimum_of_all_where_dpsgd_does_not() -> None:
    """By hand: targets 1 and 3; from 1 both go on by half of the mean gradient, -1, until they are at 2."""
    task, data = scalar([1.0], [3.0])
    method, pair = gradient_tracking(task, batch=1, lr=0.5), Graph([(0, 1)], 2)
    found = [federation.run(method, data, rounds=k, graph=pair).state.w_k.values for k in (1, 2, 3, 60)]
    assert [[float(w["weight"]) for w in w_k] for w_k in found] == [[1, 1], [1.5, 1.5], [1.75, 1.75], [2, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1}, "`momentum` must be in [0, 1); got 1. Use 0.9, or 0 for none."),
        (
            {"momentum": 0.9, "epochs": 1},
            "`momentum` must be 0 with local epochs, which Momentum Tracking does not have; got 0.9. Use epochs 0, or "
            "no momentum.",
        ),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        gradient_tracking(federation.task(), **options)
    assert str(caught.value) == message
