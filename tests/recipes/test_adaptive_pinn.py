"""Weights that balance the terms: against the traces of explicit Jacobians and a plain loop; the full size."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.recipes import adaptive_pinn as recipe
from fedtangent.recipes._poisson import LR, Poisson
from tests.recipes.records import kept
from tests.recipes.test_poisson_pinn import terms, theta

SMALL: dict[str, Any] = {"width": 6, "seeds": 2, "steps": 5, "every": 2}


def literal_weights(at: np.ndarray) -> tuple[float, float]:
    """tr K / tr K_uu and tr K / tr K_rr, from the rows of both Jacobians; the solution has no part in them."""
    parts = (
        torch.autograd.functional.jacobian(lambda t, i=i: terms("code", t, 4)[i], torch.tensor(at)) for i in (0, 1)
    )
    u, r = (float(part.square().sum()) for part in parts)
    return (u + r) / u, (u + r) / r


def test_the_weights_are_the_traces() -> None:
    assert recipe.balanced(Poisson(7, frequency=4), theta()) == pytest.approx(literal_weights(theta()), rel=1e-10)


@pytest.mark.parametrize("weights", recipe.KINDS)
def test_the_rows_are_those_of_a_plain_loop(weights: str) -> None:
    """Every second step the weights are taken anew; the last step has a row of its own."""
    rows = [row for row in recipe.adaptive_pinn(**SMALL) if (row["weights"], row["seed"]) == (weights, 1)]
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    problem, row_at = Poisson(6, frequency=4), {row["step"]: row for row in rows}
    at, weight = problem.start(1), (1.0, 1.0)
    for step in range(6):
        if step in row_at:
            weight = literal_weights(at) if weights == "adaptive" else (1.0, 1.0)
            row = row_at[step]
            assert (row["weight_u"], row["weight_r"]) == pytest.approx(weight, rel=1e-8)
            assert row["relative_error"] == pytest.approx(problem.error(at), rel=1e-8)
            assert (row["boundary_loss"], row["residual_loss"]) == pytest.approx(problem.losses(at), rel=1e-8)
        at = at - LR * problem.gradient(at, weight)


def test_the_functions_of_the_first_seed_are_recorded() -> None:
    rows = [row for row in recipe.adaptive_pinn(**SMALL, seed=3) if row["kind"] == "solution"]
    assert {(row["weights"], row["seed"]) for row in rows} == {("equal", 3), ("adaptive", 3)}
    problem = Poisson(6, frequency=4)
    at = problem.descended(problem.start(3), 5)
    own = [row for row in rows if row["weights"] == "equal"]
    assert [row["u"] for row in own] == pytest.approx(problem.values(at, np.linspace(0, 1, 101)).tolist())


def test_it_goes_on_where_it_was_stopped() -> None:
    rows = list(recipe.adaptive_pinn(**SMALL))
    for there in (1, 50, 108, len(rows)):
        assert rows[:there] + list(recipe.adaptive_pinn(rows[:there], **SMALL)) == rows


def test_the_table_by_hand() -> None:
    same = {"kind": "curve", "width": 100, "weight_u": 70.0, "weight_r": 1.25}
    rows = [
        {**same, "weights": "adaptive", "seed": seed, "step": step, "relative_error": 0.01 * (1 + seed) + step / 1e6}
        for seed in (0, 1)
        for step in (0, 40_000)
    ]
    (row,) = recipe.table(rows)
    assert row == pytest.approx(
        {
            "weights": "adaptive",
            "seeds": 2,
            "relative_error": 0.055,
            "deviation": math.sqrt(5e-5),
            "in_the_paper": 1.63e-3,
            "weight_u": 70.0,
            "weight_r": 1.25,
        }
    )
    (short,) = recipe.table([row for row in rows if row["step"] == 0 and row["seed"] == 0])
    assert math.isnan(short["in_the_paper"]) and math.isnan(short["deviation"])


def test_the_figure_shows_both_kinds() -> None:
    errors, functions = recipe.figure(list(recipe.adaptive_pinn(**SMALL))).axes
    assert [text.get_text() for text in errors.get_legend().get_texts()] == ["equal weights", "adaptive weights"]
    assert len(errors.lines) == 4 and len(functions.lines) == 3
    np.testing.assert_allclose(functions.lines[0].get_ydata(), np.sin(4 * math.pi * functions.lines[0].get_xdata()))


@pytest.mark.parametrize("options", [{"width": 0}, {"seeds": 0}, {"steps": 0}, {"every": 0}], ids=str)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^`width`, `seeds`, `steps` and `every` must be positive; got .*. Give such"):
        list(recipe.adaptive_pinn(**{**SMALL, **options}))


def as_in_the_paper(rows: list[dict[str, Any]]) -> None:
    """From about 1.5e-1 to about 3e-3."""
    equal, adaptive = recipe.table(rows)
    assert 0.1 < equal["relative_error"] < 0.25
    assert 1.5e-3 < adaptive["relative_error"] < 5e-3
    assert equal["relative_error"] / adaptive["relative_error"] > 30


def test_the_record_is_as_in_the_paper() -> None:
    as_in_the_paper(kept("adaptive_pinn"))


@pytest.mark.slow
def test_full_size_is_as_in_the_paper() -> None:
    as_in_the_paper(list(recipe.adaptive_pinn()))
