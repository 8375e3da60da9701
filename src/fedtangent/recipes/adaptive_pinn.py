"""adaptive_pinn: weights that balance the terms' kernels let a physics-informed network learn what it fails at.

Wang, Yu, Perdikaris. When and why PINNs fail to train: a neural tangent kernel perspective. J. Comput. Phys. 2022,
section 7.2, algorithm 1 and figures 4 and 5.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedtangent.errors import SettingError
from fedtangent.recipes._poisson import Array, Poisson, Weighted
from fedtangent.tangents import pinn

FREQUENCY = 4
KINDS = ("equal", "adaptive")
PAPER = {"equal": 2.40e-1, "adaptive": 1.63e-3}  # of one run


def adaptive_pinn(
    done: Sequence[dict[str, Any]] = (),
    *,
    width: int = 100,
    seeds: int = 3,
    steps: int = 40_000,
    every: int = 1_000,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """With the loss's terms weighted by the traces of their kernels the error falls by some fifty times.

    The Poisson equation in one dimension with the solution sin(4πx), one hidden layer of tanh, 100 points inside and
    100 on the boundary, full-batch gradient descent of step 1e-5 on weight_u times the boundary's loss plus weight_r
    times the residual's: both 1, or tr K / tr K_uu and tr K / tr K_rr. Conventions are those of the authors' program.

    Args:
        done: Rows that are there already.
        width: Of the hidden layer.
        seeds: Random starts, the same for both.
        steps: How many gradient steps.
        every: After how many of them the weights are taken anew, and the error is measured.
        seed: The first of the seeds.
    """
    if min(width, seeds, steps, every) < 1:
        raise SettingError(
            f"`width`, `seeds`, `steps` and `every` must be positive; got {width}, {seeds}, {steps} and {every}. "
            "Give such whole numbers."
        )
    there = {_key(row) for row in done}
    for own, weights in product(range(seed, seed + seeds), KINDS):
        if ("curve", weights, own, steps) not in there:
            rows = trained(Poisson(width, frequency=FREQUENCY), weights, own, steps, every, solution=own == seed)
            whole = (row | {"weights": weights, "seed": own, "width": width} for row in rows)
            yield from (row for row in whole if _key(row) not in there)


def trained(
    problem: Poisson, weights: str, seed: int, steps: int, every: int, solution: bool
) -> Iterator[dict[str, Any]]:
    """The rows of one training; the last is the curve's last point."""
    theta, step, weight = problem.start(seed), 0, (1.0, 1.0)
    for until in (*range(0, steps, every), steps):
        theta, step = problem.descended(theta, until - step, weight), until
        weight = balanced(problem, theta) if weights == "adaptive" else (1.0, 1.0)
        if solution and step == steps:
            x = np.linspace(0, 1, 101)
            for at, u in zip(x, problem.values(theta, x), strict=True):
                yield {"kind": "solution", "x": float(at), "u": float(u)}
        boundary, residual = problem.losses(theta)
        yield {
            "kind": "curve",
            "step": step,
            "relative_error": problem.error(theta),
            "boundary_loss": boundary,
            "residual_loss": residual,
            "weight_u": weight[0],
            "weight_r": weight[1],
        }


def balanced(problem: Poisson, theta: Array) -> Weighted:
    """The weights of the boundary's loss and the residual's, from the kernel's traces at theta."""
    by_term = pinn.weights(problem.network(theta), problem.terms)
    return by_term["u"], by_term["r"]


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal and adaptive weights: the relative error at the last step over the seeds, and the paper's."""
    summary_rows = []
    for weights, own in _curves(rows).items():
        last = max(row["step"] for row in own)
        ends = [row for row in own if row["step"] == last]
        errors = [row["relative_error"] for row in ends]
        same = last == 40_000 and ends[0]["width"] == 100
        summary_rows.append(
            {
                "weights": weights,
                "seeds": len(ends),
                "relative_error": float(np.mean(errors)),
                "deviation": float(np.std(errors, ddof=1)) if len(errors) > 1 else math.nan,
                "in_the_paper": PAPER[weights] if same else math.nan,
                "weight_u": float(np.mean([row["weight_u"] for row in ends])),
                "weight_r": float(np.mean([row["weight_r"] for row in ends])),
            }
        )
    return summary_rows


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """The error as training goes on, and the first seed's functions beside the solution."""
    drawn = Figure(figsize=(12.8, 4.6), layout="constrained")
    errors, functions = drawn.subplots(1, 2)
    x = np.linspace(0, 1, 401)
    functions.plot(x, np.sin(FREQUENCY * math.pi * x), color="C7", linewidth=5, alpha=0.35, label="solution")
    for colour, (weights, own) in enumerate(_curves(rows).items()):
        for seed in sorted({row["seed"] for row in own}):
            one = [row for row in own if row["seed"] == seed]
            label = f"{weights} weights" if seed == own[0]["seed"] else None
            points = [row["step"] for row in one], [row["relative_error"] for row in one]
            errors.plot(*points, color=f"C{colour}", linewidth=1.6, label=label)
        u = [row for row in rows if row["kind"] == "solution" and row["weights"] == weights]
        functions.plot([row["x"] for row in u], [row["u"] for row in u], color=f"C{colour}", linewidth=1.6)
    errors.set(title="Relative error", xlabel="gradient steps", yscale="log", xlim=(0, None))
    errors.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    errors.locator_params(axis="x", nbins=4)
    errors.legend(loc="upper right")
    functions.set(title="The network and the solution", xlabel="x")
    functions.legend(loc="lower left")
    return drawn


def _curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    curves = [row for row in rows if row["kind"] == "curve"]
    by_kind = {weights: [row for row in curves if row["weights"] == weights] for weights in KINDS}
    return {weights: own for weights, own in by_kind.items() if own}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["kind"], row["weights"], row["seed"], row["step"] if row["kind"] == "curve" else row["x"]
