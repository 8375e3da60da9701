"""The pieces of a tangent step that its methods' transcripts do not pin down alone."""

import numpy as np
import pytest
import torch

from fedtangent import trees
from fedtangent.shard import Shard
from fedtangent.tangent_steps import anew, primal
from fedtangent.tangent_steps.step import (
    Rows,
    Score,
    Step,
    choose,
    countable,
    held_out,
    linearised_rows,
    plausible,
    rows_of_losses,
    whole_loss,
)
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.tiny_federation import assert_close

W = {"p": torch.tensor([7.0, 8.0])}
TRIES = {"p": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
TIMES = (10, 20, 40)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("loss", "time", "p"),
    [
        ([0.5, 0.2, 0.3], 20, [3.0, 4.0]),
        ([0.2, 0.2, 0.3], 10, [1.0, 2.0]),
        ([0.5, 0.2, 0.2 - 1e-9], 20, [3.0, 4.0]),  # rounding does not choose
        ([NAN, 0.2, -INF], 20, [3.0, 4.0]),  # a loss of minus infinity is a failure too
        ([NAN, NAN, 0.9], 40, [5.0, 6.0]),
        ([NAN, INF, NAN], 0, [7.0, 8.0]),
    ],
)
def test_the_lowest_finite_loss_wins(loss: list[float], time: int, p: list[float]) -> None:
    found, clock = choose(W, TRIES, torch.tensor(loss), TIMES)
    assert int(clock) == time
    assert found["p"].tolist() == p


@pytest.mark.parametrize(("rows", "held"), [(1, 0), (2, 1), (9, 1), (10, 1), (39, 3)])
def test_a_tenth_is_held_out(rows: int, held: int) -> None:
    data = Shard(torch.arange(rows * 2.0).view(rows, 2), torch.arange(rows), torch.ones(rows, dtype=torch.bool))
    kept, out = held_out(np.random.default_rng(0), data)
    assert (len(kept.x), len(out.x)) == (rows - held, held)
    assert sorted([*kept.y.tolist(), *out.y.tolist()]) == list(range(rows))
    assert torch.equal(kept.x[:, 0], 2.0 * kept.y)


@pytest.mark.parametrize("kernel", ["trace", "full"])
@pytest.mark.parametrize("clock", ["flow", "descent"])
@pytest.mark.parametrize("loss", losses.NAMES)
def test_padding_changes_nothing(kernel: str, clock: str, loss: str) -> None:
    task, (data, *_) = Task(federation.network(), losses.NAMES[loss]), federation.shards()
    rows = linearised_rows(task, task.w_0, data)
    real = torch.cat([rows.real, torch.zeros(2, dtype=torch.bool)])
    step = Step(kernel, clock, (2, 5), 0.3, selection="linearised")  # type: ignore[arg-type]
    spoilt = torch.full((2, federation.INPUTS), NAN).double()
    padded = linearised_rows(task, task.w_0, Shard(torch.cat([data.x, spoilt]), torch.cat([data.y, data.y[:2]]), real))
    assert_close(step.candidates(task, task.w_0, padded, 0.3), step.candidates(task, task.w_0, rows, 0.3), 1e-12)


@pytest.mark.parametrize("found_anew", [False, True])
@pytest.mark.parametrize("padding", [0.0, NAN])
def test_padding_changes_nothing_where_zero_has_no_slope(
    padding: float, found_anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if found_anew:
        monkeypatch.setattr(anew, "ROW", 0)
    task, (data, *_) = Task(federation.Divided()), federation.shards()
    real = torch.tensor([False, *[True] * len(data.y), False])
    spoilt = torch.full((1, federation.INPUTS), padding).double()
    more = Shard(torch.cat([spoilt, data.x, spoilt]), torch.cat([data.y[:1], data.y, data.y[:1]]), real)
    alpha = torch.from_numpy(np.random.default_rng(5).normal(size=(2, len(data.y), federation.OUTPUTS)))
    wide = torch.zeros(2, len(real), federation.OUTPUTS).double()
    wide[:, 1:-1] = alpha
    assert_close(primal.moved(task, task.w_0, wide, more), primal.moved(task, task.w_0, alpha, data), 1e-12)
    for kernel in ("trace", "full"):
        step = Step(kernel, "flow", (2, 5), 0.3)  # type: ignore[arg-type]
        found, expected = (
            step.candidates(task, task.w_0, linearised_rows(task, task.w_0, its), 0.3) for its in (more, data)
        )
        assert_close(found, expected, 1e-12)


def test_the_rate_decays() -> None:
    assert Step(lr=0.01, lr_decay=0.07).rate(1) == 0.01
    assert Step(lr=0.01, lr_decay=0.07).rate(21) == pytest.approx(0.01 * 0.24659696394)


def test_a_rate_that_decays_to_nothing_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"^`lr_decay` must leave a positive lr; got 800.0, and 0 in round 2\. Lower it\.$"
    ):
        Step(lr=0.01, lr_decay=800.0).rate(2)


def own_rows(whole: bool = True) -> tuple[Task, Rows]:
    task = federation.task()
    return task, linearised_rows(task, task.w_0, federation.shards()[5], whole=whole)


def test_honest_rows_are_plausible_in_float32_too() -> None:
    for dtype in (torch.float64, torch.float32):
        task = federation.task().to("cpu", dtype)
        data = federation.shards()[5]
        rows = linearised_rows(task, task.w_0, data._replace(x=data.x.to(dtype)), whole=True)
        assert plausible(task, task.w_0, rows).real.all()


def test_rows_whose_outputs_are_not_their_jacobian_s_are_told_one_by_one() -> None:
    task, rows = own_rows()
    f = rows.f.clone()
    f[2, 1] += 0.5
    assert plausible(task, task.w_0, rows._replace(f=f)).real.tolist() == [place != 2 for place in range(len(f))]
    flipped = trees.map(lambda leaf: -leaf if leaf.is_floating_point() else leaf, rows)
    assert not plausible(task, task.w_0, flipped).real.any()
    padded = rows._replace(real=torch.arange(len(f)) < 5)
    assert plausible(task, task.w_0, padded).real.tolist() == padded.real.tolist()


def test_of_rows_without_factors_the_inputs_tell() -> None:
    task, rows = own_rows()
    data = federation.shards()[5]
    bare = rows._replace(factors={}, like=data.x)
    assert plausible(task, task.w_0, bare).real.all()
    assert not plausible(task, task.w_0, bare._replace(f=-rows.f)).real.any()


def test_negative_losses_count_for_no_rows_where_a_loss_is_never_negative() -> None:
    task, score = federation.task(), Score(torch.tensor([1.0, -0.1]), torch.tensor(7))
    assert int(rows_of_losses(task, countable(score))) == 0
    assert int(rows_of_losses(task, countable(score._replace(total=torch.tensor([1.0, 0.0]))))) == 7
    own = Task(federation.network(), losses.custom(lambda f, y: -f.mean(-1), "own"))
    assert int(rows_of_losses(own, countable(score))) == 7


def test_a_loss_that_some_rows_make_infinite_is_infinite() -> None:
    found = countable(Score(torch.tensor([6.0, torch.nan, torch.inf]), torch.tensor(3)))
    assert whole_loss(found).tolist() == [2.0, torch.inf, torch.inf]
