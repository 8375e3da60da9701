"""Multiply-adds against counts by hand: forward, gradients of activations and of weights, through any transform."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedtangent import multiply_adds
from fedtangent.federation import Central
from fedtangent.multiply_adds import Counting, repeated, run, tallied
from tests import tiny_federation as federation

DENSE = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2))
DENSE_FORWARD = [7 * 5, 5 * 3, 3 * 2]
# 6 x 6 stays, then 3 x 2 windows in steps of 2 and 3 leave 2 x 2; three groups of 2 channels to 1 each
CONVOLUTIONAL = nn.Sequential(
    nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, (3, 2), (2, 3), groups=3), nn.Flatten(), nn.Linear(12, 5)
)
CONVOLUTIONAL_FORWARD = [36 * 6 * 4 * 9, 4 * 3 * 2 * 6, 12 * 5]
TRANSPOSED = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 3, 2, 2), nn.Flatten())
TRANSPOSED_FORWARD = [3 * 8, 8 * 3 * 4]
ROWS = 11
Layers = list[int]


def counted(fn: Callable[..., Any], *args: Any) -> int:
    with Counting() as counting:
        fn(*args)
    return counting.total


def weights(model: nn.Module, *begin: str) -> dict[str, Tensor]:
    every = {name: p.detach() for name, p in model.named_parameters()}
    return {name: p for name, p in every.items() if not begin or name.startswith(begin)}


def gradient(model: nn.Module, frozen: dict[str, Tensor]) -> Callable[..., Any]:
    return grad(lambda w, x: functional_call(model, {**frozen, **w}, (x,)).pow(2).sum())


NETWORKS = pytest.mark.parametrize(
    ("model", "inputs", "forward"),
    [
        (DENSE, (7,), DENSE_FORWARD),
        (CONVOLUTIONAL, (4, 6, 6), CONVOLUTIONAL_FORWARD),
        (TRANSPOSED, (3,), TRANSPOSED_FORWARD),
    ],
    ids=["dense", "convolutional", "transposed"],
)


@NETWORKS
def test_a_forward_pass(model: nn.Module, inputs: tuple[int, ...], forward: Layers) -> None:
    x = torch.ones(ROWS, *inputs)
    assert counted(model, x) == ROWS * sum(forward)
    with torch.inference_mode():
        assert counted(model, x) == ROWS * sum(forward)


@NETWORKS
def test_a_gradient_costs_two_more_but_for_the_inputs_of_the_first_layer(
    model: nn.Module, inputs: tuple[int, ...], forward: Layers
) -> None:
    x = torch.ones(ROWS, *inputs)
    expected = ROWS * (3 * sum(forward) - forward[0])
    assert counted(gradient(model, {}), weights(model), x) == expected
    assert counted(lambda: model(x).sum().backward()) == expected
    stacked = {name: torch.stack([w] * 3) for name, w in weights(model).items()}
    assert counted(vmap(gradient(model, {})), stacked, torch.stack([x] * 3)) == 3 * expected
    assert counted(vmap(gradient(model, {}), (None, 0)), weights(model), torch.stack([x] * 3)) == 3 * expected


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(
    ("model", "inputs", "forward", "names"),
    [(DENSE, (7,), DENSE_FORWARD, "024"), (CONVOLUTIONAL, (4, 6, 6), CONVOLUTIONAL_FORWARD, "024")],
)
def test_the_backward_pass_stops_at_the_lowest_layer_that_is_trained(
    model: nn.Module, inputs: tuple[int, ...], forward: Layers, names: str, layer: int, stacked: bool
) -> None:
    """All layers forward, activations down to the layer above it, and one gradient of weights."""
    x = torch.ones(ROWS, *inputs)
    own = weights(model, names[layer])
    frozen = {name: w for name, w in weights(model).items() if name not in own}
    expected = ROWS * (sum(forward) + sum(forward[layer + 1 :]) + forward[layer])
    if stacked:
        own = {name: torch.stack([w] * 2) for name, w in own.items()}
        assert counted(vmap(gradient(model, frozen)), own, torch.stack([x] * 2)) == 2 * expected
    else:
        assert counted(gradient(model, frozen), own, x) == expected


def test_attention_however_torch_runs_it() -> None:
    q, k, v = torch.ones(2, 3, 5, 8, requires_grad=True), torch.ones(2, 3, 7, 8), torch.ones(2, 3, 7, 8)
    products = 2 * 3 * 5 * 7 * 8
    assert counted(nn.functional.scaled_dot_product_attention, q, k, v) == 2 * products
    out = nn.functional.scaled_dot_product_attention(q, k, v)
    assert counted(out.sum().backward) == 5 * products  # the scores again, and gradients for scores, q, k and v


@pytest.mark.parametrize(
    ("fn", "shapes", "expected"),
    [
        (torch.mv, [(5, 7), (7,)], 35),
        (torch.dot, [(9,), (9,)], 9),
        (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (torch.addmv, [(5,), (5, 7), (7,)], 35),
        (partial(torch.einsum, "nij,njk->nik"), [(2, 3, 4), (2, 4, 5)], 120),
        (torch.add, [(5, 7), (7,)], 0),
    ],
)
def test_products(fn: Callable[..., Any], shapes: list[tuple[int, ...]], expected: int) -> None:
    assert counted(fn, *(torch.ones(shape) for shape in shapes)) == expected


def test_nothing_changes_while_it_counts() -> None:
    x = torch.randn(ROWS, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    expected = gradient(CONVOLUTIONAL, {})(weights(CONVOLUTIONAL), x)
    with Counting():
        found = gradient(CONVOLUTIONAL, {})(weights(CONVOLUTIONAL), x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_call_is_counted_once_for_each_of_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []
    enter = Counting.__enter__
    monkeypatch.setattr(Counting, "__enter__", lambda self: entered.append(1) or enter(self))

    def product(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    costs: dict[str, int] = {}
    with tallied(costs) as tally:
        for rows in (2, 3, 2, 3, 2):
            run(product, torch.ones(rows, 4), torch.ones(4, 5))
    assert (len(entered), tally.total) == (2, 20 * (2 + 3 + 2 + 3 + 2))
    with tallied(costs) as tally:
        run(product, torch.ones(3, 4), torch.ones(4, 5), times=7)
    assert (len(entered), tally.total) == (2, 7 * 60)
    run(product, torch.ones(9, 4), torch.ones(4, 5))
    assert len(entered) == 2  # nobody asks


def test_the_code_and_the_plain_values_that_it_encloses_tell_functions_apart() -> None:
    def steps(count: int) -> Callable[[Tensor], Tensor]:
        def repeated(a: Tensor) -> Tensor:
            for _ in range(count):
                a = a @ a
            return a

        return repeated

    with tallied({}) as tally:
        run(steps(2), torch.ones(3, 3))
        run(steps(5), torch.ones(3, 3))
        run(lambda a: a, torch.ones(3, 3))
        run(partial(torch.mul, 2.0), torch.ones(3, 3))
    assert tally.total == 7 * 27
    assert multiply_adds._key(steps(2), (torch.ones(3, 3),)) == multiply_adds._key(steps(2), (torch.zeros(3, 3),))


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_first_of_repeated_steps_is_counted_for_all(steps: int) -> None:
    seen: list[int] = []

    def loop(a: Tensor) -> Tensor:
        for step in repeated(range(steps)):
            for inner in repeated(range(3)):
                seen.append(10 * step + inner)
                a = a @ a
        return a @ a

    a = torch.eye(4) / 2
    assert counted(loop, a) == (3 * steps + 1) * 64
    assert seen == [10 * step + inner for step in range(steps) for inner in range(3)]
    assert torch.equal(loop(a), a.matrix_power(2 ** (3 * steps + 1)))
    stacked = torch.stack([a] * 2)
    assert counted(vmap(loop), stacked) == 2 * (3 * steps + 1) * 64


@pytest.mark.parametrize("end", ["break", "error"])
def test_a_loop_that_ends_early_leaves_nothing_behind(end: str) -> None:
    def loop(a: Tensor) -> Tensor:
        for step in repeated(range(7)):
            a = a @ a
            if step == 4:
                if end == "error":
                    raise KeyError(step)
                break
        return a @ a

    with pytest.raises(KeyError) if end == "error" else nullcontext():
        assert counted(loop, torch.eye(3)) == 6 * 27
    assert counted(torch.mm, torch.eye(3), torch.eye(3)) == 27
    with Counting() as counting:
        pass
    torch.eye(3) @ torch.eye(3)
    assert counting.total == 0


@pytest.mark.parametrize(("engine", "budget"), [("sequential", 1), ("vectorized", 1), ("vectorized", 6)])
def test_a_fleet_books_what_its_nodes_run_padding_included(engine: str, budget: int) -> None:
    fleet = federation.fleet(engine=federation.engine(engine, budget))
    data_k = fleet.each(federation.shards())
    w = torch.ones(federation.INPUTS, 4, dtype=torch.float64)
    for _ in range(2):
        _ = fleet.map(lambda data: data.x @ w, data_k).values
    longest = max(federation.ROWS)
    rows = [longest] * len(federation.ROWS) if budget > 1 else federation.ROWS
    assert [fleet.ledger.work[node] for node in fleet.nodes] == [2 * n * federation.INPUTS * 4 for n in rows]
    fleet.at_server(lambda x: x @ x.T, Central(w))
    assert fleet.ledger.work[-1] == federation.INPUTS**2 * 4
    assert fleet.ledger.multiply_adds == sum(fleet.ledger.work.values())
