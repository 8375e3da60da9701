from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent.training import losses
from fedtangent.training.losses import Loss

N, C = 5, 4
LOGITS = torch.tensor([[0.3, -1.2, 2.1, 0.7], [1.1, 0.2, -0.4, -3.0], [0.5, 0.6, 0.9, -0.8], [2.2, -2.3, 0.1, 1.4]])
F_ = torch.cat([LOGITS, 30 * LOGITS[:1]]).double()
LABELS = torch.tensor([2, 0, 3, 1, 1])
TARGETS = torch.roll(F_, 1, 0) / 2 + 0.25
HUBER = losses.custom(partial(F.huber_loss, delta=0.4), "huber")
CASES = [
    (losses.cross_entropy, LABELS),
    (losses.squared, LABELS),
    (losses.squared, TARGETS),
    (losses.custom(F.smooth_l1_loss), TARGETS),
    (losses.custom(F.cross_entropy), LABELS),
    (HUBER, TARGETS),
]


@pytest.mark.parametrize(("loss", "y"), CASES)
def test_the_residual_is_the_derivative(loss: Loss, y: Tensor) -> None:
    f = F_.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss.per_sample(f, y).sum(), f)
    torch.testing.assert_close(loss.residual(F_, y), expected, rtol=1e-12, atol=1e-12)
    assert loss.per_sample(F_, y).shape == (N,)


@pytest.mark.parametrize(("loss", "y"), CASES)
def test_leading_axes_are_handled_one_by_one(loss: Loss, y: Tensor) -> None:
    f, y = torch.stack([F_, F_.flip(0), F_ / 3]), torch.stack([y, y, y.flip(0)])
    for fn in (loss.per_sample, loss.residual):
        torch.testing.assert_close(fn(f, y), torch.stack([fn(a, b) for a, b in zip(f, y, strict=True)]))


@pytest.mark.parametrize(("loss", "y"), CASES)
def test_the_mean_is_over_rows(loss: Loss, y: Tensor) -> None:
    torch.testing.assert_close(losses.mean(loss, F_, y), loss.per_sample(F_, y).sum() / N)


def test_the_two_conventions() -> None:
    torch.testing.assert_close(losses.mean(losses.cross_entropy, F_, LABELS), F.cross_entropy(F_, LABELS))
    torch.testing.assert_close(losses.mean(losses.squared, F_, TARGETS), F.mse_loss(F_, TARGETS) / 2)
    one_hot = F.one_hot(LABELS, C).double()
    torch.testing.assert_close(losses.mean(losses.squared, F_, LABELS), F.mse_loss(F_, one_hot) / 2)
    assert {"cross_entropy": losses.cross_entropy, "squared": losses.squared} == losses.NAMES
    assert [loss.name for loss in losses.NAMES.values()] == list(losses.NAMES)


def largest_curvature(loss: Loss, f: Tensor, label: int) -> float:
    hessian = torch.func.jacrev(torch.func.jacrev(lambda row: loss.per_sample(row[None], torch.tensor([label]))[0]))(f)
    return float(torch.linalg.eigvalsh(hessian)[-1])


@pytest.mark.parametrize("loss", losses.NAMES.values(), ids=losses.NAMES)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6))
def test_the_curvature_bounds_the_hessian(loss: Loss, f: list[float]) -> None:
    assert loss.curvature is not None
    assert largest_curvature(loss, torch.tensor(f, dtype=torch.float64), 1) <= loss.curvature(len(f)) * (1 + 1e-9)


@pytest.mark.parametrize("loss", losses.NAMES.values(), ids=losses.NAMES)
def test_the_curvature_is_reached(loss: Loss) -> None:
    assert loss.curvature is not None
    undecided = torch.tensor([0.0, 0.0, -60.0], dtype=torch.float64)
    assert largest_curvature(loss, undecided, 0) == pytest.approx(loss.curvature(3))


@pytest.mark.parametrize(
    ("loss", "y"), [*CASES, (losses.custom(partial(F.cross_entropy, label_smoothing=0.2)), LABELS)]
)
def test_the_curvatures_root_squared_is_the_hessian(loss: Loss, y: Tensor) -> None:
    root = losses.curvature_root(loss, F_, y)
    assert root.shape == (N, C, C)
    for n in range(N):
        f = F_[n].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss.per_sample(f[None], y[n : n + 1])[0], f, create_graph=True)
        rows = [torch.autograd.grad(one, f, retain_graph=True, materialize_grads=True)[0] for one in slope]
        torch.testing.assert_close(root[n] @ root[n].T, torch.stack(rows), rtol=1e-10, atol=1e-12)


def test_the_root_of_cross_entropy_by_hand() -> None:
    """p = (1, 1) / 2, so (1 - p 1^T) diag(sqrt p) = [[1, -1], [-1, 1]] / sqrt 8."""
    root = losses.curvature_root(losses.cross_entropy, torch.zeros(1, 2).double(), torch.tensor([1]))
    torch.testing.assert_close(root, torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]).double() / 8**0.5)


def test_what_is_negative_of_a_hessian_is_left_out() -> None:
    """f_0^2 - f_1^2 + 3 f_2 has the Hessian diag(2, -2, 0)."""
    saddle = losses.custom(lambda f, y: (f[:, 0] ** 2 - f[:, 1] ** 2 + 3 * f[:, 2]) + 0 * y.sum())
    root = losses.curvature_root(saddle, F_[:, :3], torch.zeros(N, 3).double())
    expected = torch.diag(torch.tensor([2.0, 0.0, 0.0]).double()).expand(N, -1, -1)
    torch.testing.assert_close(root @ root.mT, expected, rtol=1e-12, atol=1e-12)


def test_the_root_of_a_sure_prediction_is_finite() -> None:
    f = torch.tensor([[800.0, 0.0, -800.0]])
    assert losses.curvature_root(losses.cross_entropy, f, torch.tensor([2])).isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_loss_that_is_not_finite_never_wins(bad: float) -> None:
    f = F_.clone()
    f[1, 0] = bad
    real = torch.tensor([True, False, True, True, False])
    kept = [0, 2, 3]
    expected = losses.cross_entropy.per_sample(F_, LABELS)[kept].mean()
    torch.testing.assert_close(losses.mean(losses.cross_entropy, f, LABELS, real), expected)
    torch.testing.assert_close(losses.mean(losses.squared, f, torch.where(real[:, None], F_, bad), real), expected * 0)
    assert losses.mean(losses.cross_entropy, f, LABELS) == torch.inf
    assert losses.mean(losses.cross_entropy, f, LABELS, ~real) == torch.inf
    assert losses.mean(losses.cross_entropy, F_, LABELS, torch.zeros(N, dtype=torch.bool)) == torch.inf


@pytest.mark.parametrize(
    ("fn", "y"),
    [
        (F.cross_entropy, LABELS),
        (partial(F.cross_entropy, label_smoothing=0.2), LABELS),
        (torch.nn.SmoothL1Loss(), TARGETS),
        (F.mse_loss, TARGETS),
        (lambda f, y: (f - y).abs(), TARGETS),  # one that does not reduce
    ],
)
def test_a_custom_loss_is_the_mean_of_the_users(fn: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> None:
    torch.testing.assert_close(losses.mean(losses.custom(fn), F_, y), fn(F_, y).mean())


@pytest.mark.parametrize("fn", [F.smooth_l1_loss, F.mse_loss, F.huber_loss])
def test_a_custom_loss_scores_many_candidates_of_many_nodes_at_once(fn: Callable[[Tensor, Tensor], Tensor]) -> None:
    f, y = torch.linspace(-2, 3, 4 * 3 * N * C).reshape(4, 3, N, C), torch.linspace(1, -1, 4 * N * C).reshape(4, N, C)
    loss = losses.custom(fn)
    tries = torch.func.vmap(lambda f, y: torch.func.vmap(lambda f: loss.per_sample(f, y))(f))
    expected = fn(f, y[:, None].expand_as(f), reduction="none").mean(-1)  # type: ignore[call-arg]
    torch.testing.assert_close(tries(f, y), expected)


W = torch.tensor([10.0, 1.0, 0.1, 3.0], dtype=torch.float64)


def dice(f: Tensor, y: Tensor) -> Tensor:
    p, t = f.softmax(-1), torch.nn.functional.softmax(30 * y, -1)
    return 1 - (2 * (p * t).sum(0) / (p.sum(0) + t.sum(0))).mean()


@pytest.mark.parametrize(
    "fn",
    [
        nn.CrossEntropyLoss(weight=W),
        nn.CrossEntropyLoss(weight=W, label_smoothing=0.1),
        nn.NLLLoss(weight=W.float()),
        partial(F.cross_entropy, weight=W),
        nn.CrossEntropyLoss(ignore_index=3),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.MSELoss(reduction="sum"),
        lambda f, y: F.mse_loss(f, y).sqrt(),
        dice,
    ],
)
def test_a_loss_that_is_no_mean_of_rows_is_an_error(fn: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(
        ValueError, match=r"^`loss` must be the mean of what it gives .* Pass reduction='none', and wei"
    ):
        losses.custom(fn)


def test_a_class_is_no_function() -> None:
    with pytest.raises(TypeError, match=r"^`loss` must be a function; got the class MSELoss\. Give MSELoss\(\)\.$"):
        losses.custom(nn.MSELoss)


def test_a_row_alone_that_gives_nothing() -> None:
    """The share of a variance: of one row there is none."""
    with pytest.raises(ValueError, match=r"^`loss` must be the mean of .*; got NaN or infinity for a row alone\."):
        losses.custom(lambda f, y: ((f - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())


@pytest.mark.parametrize("call", ["per_sample", "residual"])
def test_what_is_hidden_in_a_function_shows_when_it_is_called(call: str) -> None:
    """Its five weights do not fit what is tried first; outputs all alike tell nothing but by their gradient."""
    w = torch.tensor([10.0, 1.0, 0.1, 3.0, 1.0])
    loss = losses.custom(lambda f, y: F.cross_entropy(f, y, weight=w))
    with pytest.raises(ValueError, match=r"^`loss` must be the mean of .* differs by .* on 4 rows\. Pass"):
        getattr(loss, call)(torch.zeros(4, 5), torch.tensor([0, 1, 2, 2]))
    assert loss.per_sample(torch.zeros(3, 5), torch.tensor([2, 2, 2])).shape == (3,)  # there they do cancel, rightly


@pytest.mark.parametrize(
    ("fn", "y"),
    [
        (nn.CrossEntropyLoss(weight=W, reduction="none"), LABELS),
        (nn.CrossEntropyLoss(ignore_index=1, reduction="none"), LABELS),
        (nn.MSELoss(reduction="none"), TARGETS),
        (nn.BCEWithLogitsLoss(pos_weight=W), TARGETS.sigmoid()),
    ],
)
def test_losses_of_rows_are_taken(fn: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> None:
    loss = losses.custom(fn)
    expected = torch.stack([fn(F_[n : n + 1], y[n : n + 1]).mean() for n in range(N)])
    torch.testing.assert_close(loss.per_sample(F_, y), expected)
    f = F_.clone().requires_grad_()
    whole = fn(f, y)
    (slope,) = torch.autograd.grad(whole.mean() if whole.dim() else whole, f)
    torch.testing.assert_close(loss.residual(F_, y) / N, slope)


def test_a_function_of_one_row_alone_is_taken() -> None:
    def fn(f: Tensor, y: Tensor) -> Tensor:
        (f,), (y,) = f, y
        return (f - y).pow(2).sum()

    found = losses.custom(fn).residual(F_, TARGETS)
    torch.testing.assert_close(found, 2 * (F_ - TARGETS))


def test_targets_are_never_broadcast() -> None:
    for fn in (F.mse_loss, lambda f, y: ((f - y) ** 2).mean()):
        loss = losses.custom(fn)
        for f, y in ((F_, TARGETS[:, :1]), (F_[:, :1], TARGETS), (F_, TARGETS[:, 0])):
            with pytest.raises(
                ValueError, match=r"^`y` must have the outputs' shape, .*; got targets \(5.*custom\(fn, out"
            ):
                loss.per_sample(f, y)


def test_a_loss_may_state_another_width_than_the_targets() -> None:
    def gaussian(f: Tensor, y: Tensor) -> Tensor:
        return ((f[:, :1] - y) ** 2 / f[:, 1:].exp() + f[:, 1:]).mean() / 2

    loss = losses.custom(gaussian, outputs=2)
    f, y = F_[:, :2] / 9, TARGETS[:, :1]
    assert loss.outputs == 2
    expected = torch.stack([gaussian(f[n : n + 1], y[n : n + 1]) for n in range(N)])
    torch.testing.assert_close(loss.per_sample(f, y), expected)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.squared, losses.custom(F.cross_entropy, curvature=0.5)])
def test_weights_of_classes(loss: Loss) -> None:
    """The value and its derivatives, row by row; and all that a step in the tangent space asks of a loss."""
    found = losses.weighted(loss, W.tolist())
    torch.testing.assert_close(found.per_sample(F_, LABELS), loss.per_sample(F_, LABELS) * W[LABELS])
    torch.testing.assert_close(found.residual(F_, LABELS), loss.residual(F_, LABELS) * W[LABELS][:, None])
    prepared = found.prepared(F_, LABELS)
    torch.testing.assert_close(found.residual(F_, prepared), found.residual(F_, LABELS))
    root = losses.curvature_root(found, F_, LABELS)
    second = torch.stack(
        [torch.func.jacrev(lambda f, n=n: found.residual(f[None], LABELS[n : n + 1])[0])(F_[n]) for n in range(N)]
    )
    torch.testing.assert_close(root @ root.mT, second)
    assert found.curvature is not None and loss.curvature is not None
    assert found.curvature(C) == loss.curvature(C) * 10
    assert (found.name, found.quadratic) == (loss.name, loss is losses.squared)
    f, y = torch.stack([F_, F_ / 3]), torch.stack([LABELS, LABELS.flip(0)])
    torch.testing.assert_close(torch.func.vmap(found.per_sample)(f, y)[1], found.per_sample(f[1], y[1]))
    torch.testing.assert_close(found.residual(f, y)[1], found.residual(f[1], y[1]))
    assert found.per_sample(F_.float(), LABELS).dtype == torch.float32


def test_weights_that_average_to_one_are_torchs_objective() -> None:
    rows = W[LABELS]
    found = losses.weighted(losses.cross_entropy, W * N / rows.sum()).per_sample(F_, LABELS).mean()
    torch.testing.assert_close(found, F.cross_entropy(F_, LABELS, weight=W))


@pytest.mark.parametrize("by_class", [[1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [[1.0, 2.0]], 3.0])
def test_weights_that_are_none(by_class: Any) -> None:
    with pytest.raises(ValueError, match=r"^`by_class` must be one weight a class, none of them negative; got .*Give"):
        losses.weighted(losses.cross_entropy, by_class)


def test_targets_have_no_class_to_be_weighted_by() -> None:
    with pytest.raises(ValueError, match=r"^`y` must be labels to be weighted by class; got torch.float64\."):
        losses.weighted(losses.squared, W).per_sample(F_, TARGETS)


def test_a_name_makes_no_loss_quadratic() -> None:
    assert losses.squared.quadratic and not losses.cross_entropy.quadratic
    assert not losses.custom(F.smooth_l1_loss, "squared", curvature=1.0).quadratic


def test_a_custom_loss_takes_its_name_from_the_function_or_the_user() -> None:
    assert losses.custom(F.smooth_l1_loss).name == "smooth_l1_loss"
    assert losses.custom(torch.nn.SmoothL1Loss()).name == "SmoothL1Loss"
    assert HUBER.name == "huber"
    assert HUBER.curvature is None
    bounded = losses.custom(F.mse_loss, curvature=0.7).curvature
    assert bounded is not None
    assert bounded(5) == 0.7
