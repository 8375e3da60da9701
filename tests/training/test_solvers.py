from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.training import losses, solvers
from fedtangent.training.solvers import Batches
from fedtangent.training.task import Augmentation, Task
from tests import tiny_federation as federation
from tests.tiny_federation import assert_close, assert_same

OPTIONS = [
    {"lr": 0.3},
    {"lr": 0.2, "momentum": 0.9},
    {"lr": 0.2, "weight_decay": 0.3},
    {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.2},
]


def data(rows: int = 7) -> solvers.Shard:
    return federation.shards([rows])[0]


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@given(st.integers(1, 17), st.integers(1, 4), st.integers(1, 9))
def test_every_epoch_takes_every_row_once(rows: int, epochs: int, batch: int) -> None:
    drawn = solvers.shuffled(epochs, batch)(rng(), data(rows))
    assert drawn.rows.shape == (epochs * -(-rows // batch), min(batch, rows))
    assert drawn.real.all()
    for epoch in drawn.rows.reshape(epochs, -1):
        assert sorted(epoch[epoch > 0].tolist()) == list(range(1, rows + 1))
        assert (epoch[:rows] > 0).all()  # only the last batch may not be full


def test_every_epoch_has_an_order_of_its_own() -> None:
    drawn = solvers.shuffled(3, 4)(rng(), data(12))
    orders = {tuple(epoch.flatten().tolist()) for epoch in drawn.rows.reshape(3, -1)}
    assert len(orders) == 3
    assert_same(drawn, solvers.shuffled(3, 4)(rng(), data(12)))


def test_full_batch_takes_all_rows_in_order_at_every_step() -> None:
    drawn = solvers.full_batch(2)(rng(), data(3))
    assert drawn.rows.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert drawn.real.tolist() == [True, True]


ADAM = [
    {"lr": 0.02},
    {"lr": 0.01, "betas": (0.7, 0.9), "eps": 0.1},
]
EVERY = [(solvers.sgd, options) for options in OPTIONS] + [(solvers.adam, options) for options in ADAM]


def by_torch(steps: list[list[int]], options: dict[str, Any], by: Any = torch.optim.SGD) -> dict[str, Tensor]:
    """torch's own optimiser on the given rows, counted from 0."""
    model, (x, y, _) = federation.network(), data()
    optimizer = by(model.parameters(), **options)
    for rows in steps:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("options", OPTIONS)
def test_sgd_is_torchs(options: dict[str, float]) -> None:
    task, batches = federation.task(), solvers.shuffled(3, 4)(rng(), data())
    steps = [[row - 1 for row in step if row > 0] for step in batches.rows.tolist()]
    assert [len(step) for step in steps] == [4, 3] * 3
    assert_close(solvers.sgd(task, **options)(task.w_0, data(), batches), by_torch(steps, options))


@pytest.mark.parametrize("options", ADAM)
def test_adam_is_torchs(options: dict[str, Any]) -> None:
    task, batches = federation.task(), solvers.shuffled(3, 4)(rng(), data())
    steps = [[row - 1 for row in step if row > 0] for step in batches.rows.tolist()]
    assert_close(solvers.adam(task, **options)(task.w_0, data(), batches), by_torch(steps, options, torch.optim.Adam))


def test_adam_in_float32_is_torchs() -> None:
    """After one step, where 1 - 0.999 in float32 would cost four digits."""
    task = federation.task().to("cpu", torch.float32)
    here = trees.to(data(), dtype=torch.float32)
    found = solvers.adam(task, lr=0.5)(task.w_0, here, solvers.full_batch(1)(rng(), here))
    expected = by_torch([list(range(7))], {"lr": 0.5}, torch.optim.Adam)
    assert found["0.weight"].dtype == torch.float32
    torch.testing.assert_close(found["0.weight"].double(), expected["0.weight"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("solver", "options"), EVERY)
def test_a_step_that_is_not_real_moves_nothing(solver: Any, options: dict[str, Any]) -> None:
    task, train = federation.task(), solver(federation.task(), **options)
    rows = torch.tensor([[1, 5, 2], [7, 0, 3], [4, 6, 0]])
    two = train(task.w_0, data(), Batches(rows[[0, 2]], torch.tensor([True, True])))
    assert_same(train(task.w_0, data(), Batches(rows, torch.tensor([True, False, True]))), two)
    padded = Batches(torch.cat([rows[[0, 2]], 0 * rows]), torch.tensor([True] * 2 + [False] * 3))
    assert_same(train(task.w_0, data(), padded), two)
    late = Batches(torch.cat([0 * rows, rows[[0, 2]]]), torch.tensor([False] * 3 + [True] * 2))
    assert_same(train(task.w_0, data(), late), two)


@pytest.mark.parametrize(("solver", "options"), EVERY)
def test_a_step_may_be_real_on_one_node_and_not_on_another(solver: Any, options: dict[str, Any]) -> None:
    task, train = federation.task(), solver(federation.task(), **options)
    rows = torch.tensor([[1, 5, 2], [7, 0, 3], [4, 6, 0]])
    masks = torch.tensor([[True, True, True], [True, False, True]])

    def trained(real: Tensor) -> Any:
        return train(task.w_0, data(), Batches(rows, real))

    many = trees.unstack(torch.func.vmap(trained)(masks), 2)
    for found, real in zip(many, masks, strict=True):
        assert_close(found, trained(real))
    twice = torch.func.vmap(torch.func.vmap(trained))(masks[:, None])
    assert_close(trees.unstack(twice, 2), [trees.map(lambda leaf: leaf[None], found) for found in many])


@pytest.mark.parametrize(("solver", "options"), EVERY[1::2])
@pytest.mark.parametrize("draw", [solvers.full_batch(2), solvers.shuffled(2, 3)])
def test_padding_changes_nothing(draw: object, solver: Any, options: dict[str, Any]) -> None:
    """What an engine appends to the smaller of two nodes: rows, steps and places in a batch."""
    task, small, large = federation.task(), *federation.shards([2, 7])
    train = solver(task, **options)
    batches = [draw(rng(), small), draw(rng(), large)]  # type: ignore[operator]
    padded = trees.unstack(trees.stack([small, large]), 2)[0]._replace(real=torch.arange(7) < 2)
    assert_close(train(task.w_0, padded, trees.unstack(trees.stack(batches), 2)[0]), train(task.w_0, small, batches[0]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_method_may_add_to_the_gradient_or_to_the_loss(optimizer: str) -> None:
    """<a, w> in the loss is a in the gradient; both take what the solver is given after the batches."""
    task, here, batches = federation.task(), data(), solvers.shuffled(2, 3)(rng(), data())
    a = trees.map(lambda leaf: leaf.cos() / 9, task.w_0)

    def objective(w: Any, x: Tensor, y: Tensor, a: Any) -> Tensor:
        return task.loss.per_sample(task.predict(w, x), y) + trees.inner(a, w)

    by_gradient = solvers.local(task, optimizer, lr=0.1, pull=lambda w, a: a)
    by_loss = solvers.local(task, optimizer, lr=0.1, objective=objective)
    found = by_gradient(task.w_0, here, batches, a)
    assert_close(found, by_loss(task.w_0, here, batches, a))
    without = solvers.local(task, optimizer, lr=0.1)(task.w_0, here, batches)
    assert not torch.allclose(found["0.weight"], without["0.weight"])


def test_a_pull_is_taken_at_the_weights_of_the_step() -> None:
    """With a loss that is always 0 and the pull w, every step of 1/4 leaves three quarters."""
    task, batches = federation.task(), solvers.full_batch(2)(rng(), data())
    train = solvers.sgd(task, lr=0.25, pull=lambda w: w, objective=lambda w, x, y: 0 * task.predict(w, x).sum(-1))
    assert_close(train(task.w_0, data(), batches), trees.scale(task.w_0, 9 / 16))


def test_the_choice_is_sgd_or_adam() -> None:
    task, batches = federation.task(), solvers.shuffled(2, 3)(rng(), data())
    chosen = [
        (solvers.local(task, "sgd", lr=0.1, momentum=0.4), solvers.sgd(task, lr=0.1, momentum=0.4)),
        (solvers.local(task, "adam", lr=0.1), solvers.adam(task, lr=0.1)),
    ]
    for found, expected in chosen:
        assert_same(found(task.w_0, data(), batches), expected(task.w_0, data(), batches))


def test_a_solver_leaves_its_arguments_alone() -> None:
    task, here, batches = federation.task(), data(), solvers.shuffled(2, 3)(rng(), data())
    before = trees.map(torch.clone, (task.w_0, here, batches))
    moved = solvers.sgd(task, lr=0.2, momentum=0.5)(task.w_0, here, batches)
    assert_same((task.w_0, here, batches), before)
    assert not torch.equal(moved["0.bias"], task.w_0["0.bias"])


def test_mean_loss_is_over_real_rows_and_never_nan() -> None:
    task, here = federation.task(), data(4)
    real = torch.tensor([True, False, True, True])
    expected = losses.mean(task.loss, task.predict(task.w_0, here.x[real]), here.y[real])
    assert_close(solvers.mean_loss(task, task.w_0, here._replace(real=real)), expected)
    here.x[0] = torch.nan
    assert solvers.mean_loss(task, task.w_0, here) == torch.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solvers.shuffled(0, 3), "`epochs` must be at least 1; got 0. Give a positive number."),
        (lambda: solvers.shuffled(2, 0), "`batch` must be at least 1; got 0. Give a positive number of rows."),
        (lambda: solvers.full_batch(0), "`steps` must be at least 1; got 0. Give a positive number."),
        (
            lambda: solvers.sgd(federation.task(), lr=0),
            "`lr` must be positive and finite; got 0. Give a learning rate such as 0.1.",
        ),
        (
            lambda: solvers.sgd(federation.task(), lr=float("nan")),
            "`lr` must be positive and finite; got nan. Give a learning rate such as 0.1.",
        ),
        (
            lambda: solvers.sgd(federation.task(), lr=0.1, momentum=1.0),
            "`momentum` must be in [0, 1); got 1.0. Use 0.9, or 0 for none.",
        ),
        (
            lambda: solvers.sgd(federation.task(), lr=0.1, momentum=-0.1),
            "`momentum` must be in [0, 1); got -0.1. Use 0.9, or 0 for none.",
        ),
        (
            lambda: solvers.sgd(federation.task(), lr=0.1, weight_decay=-0.1),
            "`weight_decay` must not be negative; got -0.1. Use 0 for none.",
        ),
        (
            lambda: solvers.adam(federation.task(), lr=-1.0),
            "`lr` must be positive and finite; got -1.0. Give a learning rate such as 0.1.",
        ),
        (
            lambda: solvers.adam(federation.task(), lr=0.1, betas=(0.9, 1.0)),
            "`betas` must be two numbers in [0, 1); got (0.9, 1.0). Use 0.9 and 0.999.",
        ),
        (
            lambda: solvers.adam(federation.task(), lr=0.1, eps=0.0),
            "`eps` must be positive; got 0.0. Use 1e-8.",
        ),
        (
            lambda: solvers.local(federation.task(), "adamw", lr=0.1),
            "`optimizer` must be 'sgd' or 'adam'; got 'adamw'. Choose one of the two.",
        ),
        (
            lambda: solvers.local(federation.task(), "adam", lr=0.1, momentum=0.9),
            "`momentum` must be 0 with adam, which has its own; got 0.9. Drop it, or use sgd.",
        ),
    ],
)
def test_wrong_values_are_one_clear_sentence(call: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()  # type: ignore[operator]
    assert str(caught.value) == message


def test_an_augmentation_is_drawn_after_the_order_of_the_rows_and_used_or_asked_for() -> None:
    twice = Augmentation(lambda rng, rows: torch.from_numpy(rng.integers(1, 3, rows)), lambda x, by: x * by[:, None])
    plain, drawn = (solvers.shuffled(2, 3, augment)(rng(), data()) for augment in (None, twice))
    assert_same(plain.rows, drawn.rows)
    assert drawn.changes.shape == drawn.rows.shape
    task = replace(federation.task(), augment=twice)
    x, y, real = data()
    moved = solvers.Shard(torch.cat([x, 2 * x]), torch.cat([y, y]), torch.cat([real, real]))
    by_hand = Batches(torch.where(drawn.rows > 0, drawn.rows + 7 * (drawn.changes - 1), 0), drawn.real)
    train, plainly = (solvers.sgd(one, lr=0.2, momentum=0.9) for one in (task, federation.task()))
    assert_close(train(task.w_0, data(), drawn), plainly(task.w_0, moved, by_hand), 1e-12)
    with pytest.raises(
        ValueError, match=r"^`batches` must hold what the task's augmentation has drawn; got none of it"
    ):
        train(task.w_0, data(), plain)


def test_dropout_takes_its_masks_from_the_keys() -> None:
    """A step's key is all: the same batches with other keys, and steps that are not real between them."""
    first, *rest = federation.network()
    task = Task(nn.Sequential(first, nn.Dropout(0.4), *rest))
    train, drawn = solvers.sgd(task, lr=0.3, momentum=0.5), solvers.shuffled(2, 3)(rng(), data())
    found = train(task.w_0, data(), drawn)
    assert drawn.keys.dtype == torch.int64 and len(set(drawn.keys.tolist())) == len(drawn.rows) == 6
    assert_same(train(task.w_0, data(), drawn), found)
    gap = torch.tensor([0, 1, 2, 2, 3, 4, 5])
    spread = Batches(drawn.rows[gap], torch.arange(7) != 2, (), drawn.keys[gap])
    assert_same(train(task.w_0, data(), spread), found)
    other = train(task.w_0, data(), drawn._replace(keys=drawn.keys + 1))
    assert not torch.allclose(other["0.weight"], found["0.weight"], rtol=1e-3)
    with pytest.raises(
        ValueError, match=r"^`batches` must hold the keys of the model's dropout; got none\. Use shuffled\(epochs, "
    ):
        train(task.w_0, data(), drawn._replace(keys=()))


def test_keys_are_drawn_after_all_else() -> None:
    generator = rng()
    drawn = solvers.shuffled(1, 3)(generator, data())
    again = rng()
    again.permutation(7)
    assert drawn.keys.tolist() == again.integers(-(2**63), 2**63, 3).tolist()
    assert solvers.full_batch(3)(rng(), data()).keys.tolist() == rng().integers(-(2**63), 2**63, 3).tolist()
