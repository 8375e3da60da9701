from functools import partial

import pytest
import torch

from fedtangent.shard import Shard
from fedtangent.training import labels, losses
from tests import tiny_federation as federation
from tests.tiny_federation import assert_close, assert_same

EVERYWHERE = torch.tensor([50.0, 30.0, 20.0, 0.0]).double()


def shard(y: torch.Tensor, real: list[bool]) -> Shard:
    return Shard(torch.zeros(len(y), 2).double(), y, torch.tensor(real))


def test_counts_real_rows_and_no_targets() -> None:
    like = torch.zeros(4).double()
    assert labels.counts(shard(torch.tensor([2, 0, 2, 1]), [True, True, True, False]), like).tolist() == [1, 0, 2, 0]
    assert labels.counts(shard(torch.ones(3, 4), [True] * 3), like).tolist() == [0] * 4


def test_first_counts_know_the_outputs_of_the_model() -> None:
    found = labels.first_counts(federation.task(), federation.shards()[2])
    assert found.shape == (federation.OUTPUTS,)
    assert int(found.sum()) == federation.ROWS[2]


@pytest.mark.parametrize(
    ("here", "most", "ratio"),
    [
        ((10, 10, 10, 0), 10.0, (1.5, 0.9, 0.6)),
        ((10, 10, 10, 0), 1.25, (1.25, 0.9, 0.8)),
        ((18, 1, 1, 0), 3.0, (0.5 / 0.9, 3.0, 3.0)),
        ((0, 30, 10, 10), 10.0, (10.0, 0.5, 1.0, 0.1)),  # a class that is nowhere else
        ((5, 3, 2, 0), 1.0, (1.0, 1.0, 1.0)),
    ],
)
def test_a_row_weighs_the_ratio_of_the_shares(here: tuple[int, ...], most: float, ratio: tuple[float, ...]) -> None:
    """And on average over the rows that are here 1."""
    rows = torch.tensor(here).double()
    mean = sum(n * r for n, r in zip(here, ratio, strict=False)) / sum(here)
    found = labels.weights(EVERYWHERE, rows, most)
    assert_close(found[: len(ratio)], torch.tensor(ratio, dtype=torch.float64) / mean)
    assert float(found @ rows) == pytest.approx(sum(here))


def test_without_labels_everything_weighs_the_same() -> None:
    zero, ones = torch.zeros(4), torch.ones(4)
    assert_same(labels.weights(zero, zero, 10.0), ones)
    assert_same(labels.weights(ones, zero, 10.0), ones)


@pytest.mark.parametrize(
    "loss", [losses.cross_entropy, losses.squared, losses.custom(torch.nn.functional.cross_entropy)]
)
def test_a_weighted_loss_is_the_loss_times_the_weight(loss: losses.Loss) -> None:
    f = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, by_class = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([0.3, 2.0, 1.7]).double()
    weight, found = by_class[y], labels.weighted(loss, by_class)
    assert_close(found.per_sample(f, y), loss.per_sample(f, y) * weight)
    assert_close(found.residual(f, y), loss.residual(f, y) * weight[:, None])
    r, plain = losses.curvature_root(found, f, y), losses.curvature_root(loss, f, y)
    assert_close(r @ r.mT, plain @ plain.mT * weight[:, None, None])
    mapped = torch.func.vmap(partial(found.per_sample))(f[:, None], y[:, None])[:, 0]
    assert_close(mapped, loss.per_sample(f, y) * weight)


def test_targets_weigh_the_same() -> None:
    f, y = torch.ones(2, 3), torch.zeros(2, 3)
    found = labels.weighted(losses.squared, torch.tensor([0.1, 5.0, 2.0]))
    assert_same(found.per_sample(f, y), losses.squared.per_sample(f, y))
    assert_same(found.residual(f, y), losses.squared.residual(f, y))


def test_no_weights_leave_the_task() -> None:
    task = federation.task()
    assert labels.balanced(task, torch.zeros(0)) is task
    assert labels.balanced(task, torch.ones(3)) is not task


def test_log_shares_are_those_of_real_rows_and_a_class_without_any_is_rare() -> None:
    y, real = torch.tensor([2, 0, 2, 1]), torch.tensor([True, True, True, False])
    data = Shard(torch.zeros(4, federation.INPUTS).double(), y, real)
    expected = torch.tensor([1.001 / 3, 0.001 / 3, 2.001 / 3], dtype=torch.float64).log()
    assert_close(labels.log_shares(federation.task(), data), expected)


def test_outputs_that_are_no_logits_and_targets_are_not_shifted() -> None:
    data, zeros = federation.shards()[0], torch.zeros(federation.OUTPUTS).double()
    squared = federation.task().under(losses.squared)
    assert_same(labels.log_shares(squared, data), zeros)
    targets = data._replace(y=torch.ones(len(data.y), federation.OUTPUTS).double())
    assert_same(labels.log_shares(federation.task(), targets), zeros)


@pytest.mark.parametrize("balance", [0.99, 0.0, -2.0, float("nan")])
def test_a_bound_below_one_is_an_error(balance: float) -> None:
    with pytest.raises(ValueError, match=r"^`balance` must be at least 1; got .*\. Use 1 to weigh all rows alike\.$"):
        labels.check(balance)
