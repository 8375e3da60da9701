"""The Poisson problem against torch's autograd and cases by hand; its recipe; the published changes."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent.recipes import poisson_pinn
from fedtangent.recipes._poisson import LR, Conventions, Poisson, split
from tests.recipes.records import kept

SMALL: dict[str, Any] = {"widths": (3, 7), "seeds": 2, "steps": 6}
BOTH = pytest.mark.parametrize("conventions", ["code", "text"])
# Wang, Yu, Perdikaris 2022, figure 2, as another implementation measured it: changes of parameters and kernel.
TARGETS = {10: (0.30, 0.57), 100: (0.059, 0.041), 500: (0.013, 0.0034)}


@cache
def small() -> list[dict[str, Any]]:
    return list(poisson_pinn.poisson_pinn(**SMALL))


def literal(conventions: Conventions, theta: Tensor, x: Tensor) -> Tensor:
    """u at x (n,), as the docstring writes it."""
    width = len(theta) // 3
    w, b, v, c = theta.split([width, width, width, 1])
    points = torch.linspace(0, 1, 100, dtype=torch.float64)
    shift, spread = (points.mean(), points.std(correction=0)) if conventions == "code" else (0.0, 1.0)
    scale = 1.0 if conventions == "code" else width**-0.5
    return scale * torch.tanh((x[:, None] - shift) / spread * w + b) @ v + c


def terms(conventions: Conventions, theta: Tensor, frequency: int) -> tuple[Tensor, Tensor]:
    """u at the 100 points of the boundary, and u_xx - f at the 100 points inside, by autograd."""
    x = torch.linspace(0, 1, 100, dtype=torch.float64, requires_grad=True)
    (u_x,) = torch.autograd.grad(literal(conventions, theta, x).sum(), x, create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    f = -((frequency * math.pi) ** 2) * torch.sin(frequency * math.pi * x.detach())
    return literal(conventions, theta, torch.tensor([0.0] * 50 + [1.0] * 50, dtype=torch.float64)), u_xx - f


def losses(conventions: Conventions, theta: Tensor, frequency: int) -> tuple[Tensor, Tensor]:
    u, r = terms(conventions, theta, frequency)
    return (u.square().mean(), r.square().mean()) if conventions == "code" else (u @ u / 2, r @ r / 2)


def theta(width: int = 7) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(3 * width + 1)


@BOTH
def test_losses_and_gradient_are_those_of_autograd(conventions: Conventions) -> None:
    problem, at = Poisson(7, conventions, 3), torch.tensor(theta(), requires_grad=True)
    boundary, residual = losses(conventions, at, 3)
    assert problem.losses(theta()) == pytest.approx((boundary.item(), residual.item()), rel=1e-11)
    for weights in ((1.7, 0.0), (0.0, 0.6), (1.7, 0.6)):
        total = weights[0] * boundary + weights[1] * residual
        (expected,) = torch.autograd.grad(total, at, retain_graph=True)
        np.testing.assert_allclose(problem.gradient(theta(), weights), expected, rtol=1e-9, atol=1e-9)


@BOTH
def test_the_kernel_is_that_of_autograd(conventions: Conventions) -> None:
    problem = Poisson(4, conventions, 3)
    found = problem.kernel(theta(4))
    jacobian = torch.autograd.functional.jacobian(
        lambda at: torch.cat(terms(conventions, at, 3)), torch.from_numpy(theta(4))
    )
    torch.testing.assert_close(found.matrix, jacobian @ jacobian.T, rtol=1e-10, atol=1e-10)
    assert found.sizes == {"u": 100, "r": 100}
    assert torch.linalg.matrix_rank(found.blocks["u", "u"]) == 2  # two ends


@BOTH
def test_the_network_for_the_kernels_is_the_same_function(conventions: Conventions) -> None:
    problem, x = Poisson(7, conventions), torch.rand(9, generator=torch.manual_seed(1), dtype=torch.float64)
    expected = literal(conventions, torch.from_numpy(theta()), x)
    np.testing.assert_allclose(problem.values(theta(), x.numpy()), expected, rtol=1e-12)
    torch.testing.assert_close(problem.network(theta())(x[:, None]).detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("conventions", "residual"), [("code", 0.495), ("text", 24.75)])
def test_a_network_that_is_zero(conventions: Conventions, residual: float) -> None:
    """u = 0: the residual is f, whose squares sin^2(k pi x) pi^4 k^4 sum to 99 / 2 of that over the 100 points."""
    problem, zero = Poisson(5, conventions, 2), np.zeros(16)
    assert problem.losses(zero) == pytest.approx((0, residual * (2 * math.pi) ** 4), rel=1e-12)
    assert problem.error(zero) == 1


def test_the_start_has_the_same_draws_in_both_conventions() -> None:
    code, text = (split(Poisson(9, each).start(3)) for each in ("code", "text"))
    for own, other, factor in zip(code, text, (1, 1, 1 / 3, 1), strict=True):
        np.testing.assert_allclose(own, other * factor, rtol=1e-15)
    assert abs(np.concatenate([Poisson(400, "text").start(s) for s in range(9)]).std() - 1) < 0.02
    assert not np.array_equal(Poisson(9).start(3), Poisson(9).start(4))


def test_descent_steps_against_the_gradient() -> None:
    problem, expected = Poisson(7, "code", 3), theta()
    for _ in range(3):
        expected = expected - LR * problem.gradient(expected, (1.7, 0.6))
    np.testing.assert_array_equal(problem.descended(theta(), 3, (1.7, 0.6)), expected)


def test_the_rows_are_those_of_plain_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poisson_pinn, "CURVE", 5)
    rows = list(poisson_pinn.poisson_pinn(widths=(5,), seeds=1, steps=10, seed=3))
    problem = Poisson(5)
    first = now = problem.start(3)
    matrix, curve = problem.kernel(first).matrix, {row["step"]: row for row in rows if row["kind"] == "curve"}
    assert list(curve) == list(range(0, 11, 2))
    for step in range(11):
        if step in curve:
            row, kernel = curve[step], problem.kernel(now)
            assert row["parameter_change"] == pytest.approx(np.linalg.norm(now - first) / np.linalg.norm(first))
            assert row["kernel_change"] == pytest.approx(float((kernel.matrix - matrix).norm() / matrix.norm()))
            assert row["trace_ratio"] == pytest.approx(kernel.traces["r"] / kernel.traces["u"])
            assert (row["boundary_loss"], row["residual_loss"]) == pytest.approx(problem.losses(now))
        now = now - LR * problem.gradient(now, (1.0, 1.0))
    assert curve[10]["kernel_change"] > curve[2]["kernel_change"] > curve[0]["kernel_change"] == 0


def test_eigenvalues_are_of_the_first_seed_at_both_ends_without_rounding() -> None:
    rows = [row for row in small() if row["kind"] == "eigenvalue"]
    assert {(row["seed"], row["step"]) for row in rows} == {(0, 0), (0, 6)}
    own = [row["eigenvalue"] for row in rows if (row["width"], row["block"], row["step"]) == (7, "K_uu", 6)]
    problem = Poisson(7)
    block = problem.kernel(problem.descended(problem.start(0), 6)).blocks["u", "u"]
    assert own == pytest.approx(torch.linalg.eigvalsh(block).flip(0)[:2].tolist())  # of rank 2


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped() -> None:
    rows = small()
    for kept_rows in (1, len(rows) // 2, len(rows)):
        assert rows[:kept_rows] + list(poisson_pinn.poisson_pinn(rows[:kept_rows], **SMALL)) == rows


def test_the_table_holds_medians_and_ranges_at_the_last_step() -> None:
    same = {"kind": "curve", "width": 10, "conventions": "code", "trace_ratio": 2.0, "relative_error": 0.5}
    rows = [
        {**same, "seed": seed, "step": step, "parameter_change": seed / 8 + step / 1e4, "kernel_change": 0.1 * seed}
        for seed in (1, 2, 5)
        for step in (0, 10_000)
    ]
    assert poisson_pinn.table(rows) == [
        {
            "width": 10,
            "parameter_change": "1.25 [1.1, 1.6]",
            "parameter_elsewhere": 0.30,
            "kernel_change": "0.2 [0.1, 0.5]",
            "kernel_elsewhere": 0.57,
            "trace_ratio": 2.0,
            "relative_error": 0.5,
        }
    ]
    (other,) = poisson_pinn.table([row for row in rows if row["step"] == 0])
    assert math.isnan(other["kernel_elsewhere"])  # for 10,000 steps


def test_the_figure_shows_every_width() -> None:
    rows = small()
    parameters, kernel, spectrum = poisson_pinn.figure(rows).axes
    assert [text.get_text() for text in parameters.get_legend().get_texts()] == ["width 3", "width 7"]
    for axes in (parameters, kernel):
        bottom, top = axes.get_ylim()
        assert len(axes.lines) == 2 * (2 + 1)  # both seeds and the median
        assert all(bottom <= y <= top for line in axes.lines for y in line.get_ydata())
    assert spectrum.get_title() == "Eigenvalues at width 7"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"widths": ()},
            r"^`widths`, `seeds` and `steps` must be positive; got \(\), 2 and 6. Give such whole numbers",
        ),
        ({"widths": (3, 0)}, r"^`widths`, `seeds` and `steps` must be positive; got \(3, 0\)"),
        ({"seeds": 0}, "must be positive"),
        ({"steps": 0}, "must be positive"),
        (
            {"widths": (6000,)},
            "^`widths` must keep steps of 1e-05 stable; got 6000, where the largest stable one is .*. Choose n",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        list(poisson_pinn.poisson_pinn(**{**SMALL, **options}))


def close_to_published(rows: list[dict[str, Any]]) -> None:
    """Parameters within a sixth, and the kernel, which scatters far more over the starts, within half."""
    assert {row["seed"] for row in rows} == set(range(5))
    for width, targets in TARGETS.items():
        ends = [row for row in rows if row["kind"] == "curve" and (row["width"], row["step"]) == (width, 10_000)]
        for key, target, factor in zip(("parameter_change", "kernel_change"), targets, (7 / 6, 1.5), strict=True):
            assert target / factor < np.median([row[key] for row in ends]) < target * factor, (width, key)


def test_the_record_is_close_to_the_published_changes() -> None:
    close_to_published(kept("poisson_pinn"))


@pytest.mark.slow
def test_full_size_comes_close_to_the_published_changes() -> None:
    close_to_published(list(poisson_pinn.poisson_pinn()))
