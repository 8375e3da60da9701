"""kernel_constancy: the tangent kernel of a network is random and moves as it trains, both less the wider it is.

Jacot, Gabriel, Hongler. Neural Tangent Kernel: Convergence and Generalization in Neural Networks. NeurIPS 2018,
section 6.1 and figure 1. arXiv 1806.07572.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, grad

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.recipes._ntk_mlp import NtkMlp
from fedtangent.tangents import infinite, jacobian
from fedtangent.training import losses

HIDDEN, BETA, LR = 3, 0.1, 1.0
GAMMAS = [i * math.pi / 8 for i in range(-8, 9)]
# Another implementation's inflation by width, with 200 steps and draws of its own.
REFERENCE = {100: 1.83, 500: 1.18, 2000: 1.045}

Weights = dict[str, Tensor]


def kernel_constancy(
    done: Sequence[dict[str, Any]] = (),
    *,
    widths: tuple[int, ...] = (50, 100, 200, 500),
    inits: int = 10,
    steps: int = 200,
    points: int = 100,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """How the kernel scatters over random networks and how far training moves it, by width, beside its limit.

    The kernel between x0 = (1, 0) and x = (cos γ, sin γ) of networks with three hidden layers of ReLU in the NTK
    parameterisation, biases scaled by 0.1: at their random start, and after full-batch gradient descent of step 1.0 on
    the product x1 x2 of two inputs from N(0, 1). The limit is computed in closed form.

    Args:
        done: Rows that are there already.
        widths: Of the hidden layers; a width of 2000 takes most of a minute an initialisation.
        inits: Random initialisations of each width.
        steps: How many gradient steps.
        points: Inputs to train on, the same for all networks; the paper does not say how many.
        seed: Of the networks and the inputs.
    """
    if not widths or min(widths) < 1 or min(inits, points) < 1 or steps < 0:
        raise SettingError(
            f"`widths`, `inits` and `points` must be positive, and `steps` at least 0; got {widths}, {inits}, {points} "
            f"and {steps}. Give such whole numbers."
        )
    there = {(row["width"], row["init"], row["gamma"]) for row in done}
    x = torch.tensor([[math.cos(gamma), math.sin(gamma)] for gamma in GAMMAS])
    limit = infinite.kernel(HIDDEN, "relu", 1.0, BETA)(torch.tensor([[1.0, 0.0]]), x).ntk[0]
    data = torch.from_numpy(np.random.default_rng(seed).standard_normal((points, 2))).float()
    for width, init in product(widths, range(inits)):
        if there.issuperset((width, init, gamma) for gamma in GAMMAS):
            continue
        sizes = (2, *[width] * HIDDEN, 1)
        model = NtkMlp(sizes, np.random.default_rng([seed, width, init]), 1.0, BETA)
        w_0 = {name: p.detach() for name, p in model.named_parameters()}
        w = trained(model, w_0, data, steps)
        start, end = (around(model, x, weights) for weights in (w_0, w))
        for i, gamma in enumerate(GAMMAS):
            if (width, init, gamma) not in there:
                yield {
                    "width": width,
                    "init": init,
                    "steps": steps,
                    "gamma": gamma,
                    "kernel_start": start[i].item(),
                    "kernel_end": end[i].item(),
                    "kernel_limit": limit[i].item(),
                    "kernel_change": ((end - start).norm() / start.norm()).item(),
                    "weight_change": moved(w, w_0),
                }


def trained(model: nn.Module, w: Weights, x: Tensor, steps: int) -> Weights:
    """The weights after that many gradient steps on x1 x2, from w; the loss is half the mean squared error."""
    y = x.prod(1, keepdim=True)
    slope = grad(lambda w: losses.mean(losses.squared, functional_call(model, w, (x,)), y))
    for _ in range(steps):
        w = trees.add_scaled(w, slope(w), -LR)
    return w


def around(model: nn.Module, x: Tensor, w: Weights) -> Tensor:
    """The kernel between x0 = (1, 0) and each of x (n, 2), as J(x) J(x0)^T."""
    return jacobian(model, x, w=w).jvp(jacobian(model, torch.tensor([[1.0, 0.0]]), w=w).vjp(torch.ones(1, 1)))[:, 0]


def moved(w: Weights, w_0: Weights) -> float:
    """|w - w_0| / |w_0|."""
    change = trees.subtract(w, w_0)
    return float((trees.inner(change, change) / trees.inner(w_0, w_0)).sqrt())


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A width a row: the kernel of x0 with itself over the initialisations, and what training did to it."""
    summary_rows: list[dict[str, Any]] = []
    for width, per_init in _by_width(rows).items():
        own = [row for row in per_init if row["gamma"] == 0]
        start, end = (np.array([row[key] for row in own]) for key in ("kernel_start", "kernel_end"))
        summary_rows.append(
            {
                "width": width,
                "kernel": float(start.mean()),
                "deviation": float(start.std(ddof=1)) if len(own) > 1 else math.nan,
                "inflation": float(end.mean() / start.mean()),
                "inflation_elsewhere": REFERENCE.get(width, math.nan) if own[0]["steps"] == 200 else math.nan,
                "kernel_change": float(np.mean([row["kernel_change"] for row in own])),
                "weight_change": float(np.mean([row["weight_change"] for row in own])),
            }
        )
    limit = next(row["kernel_limit"] for row in rows if row["gamma"] == 0)
    infinite = {"width": "∞", "kernel": limit, "deviation": 0.0, "inflation": 1.0}
    return [*summary_rows, {**infinite, "kernel_change": 0.0, "weight_change": 0.0}]


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """The kernel against the angle, at the start and after training, and its change against the width."""
    drawn = Figure(figsize=(12.8, 4.6), layout="constrained")
    start, end, change = drawn.subplots(1, 3)
    end.sharey(start)
    for colour, (width, per_init) in enumerate(_by_width(rows).items()):
        for axes, key in ((start, "kernel_start"), (end, "kernel_end")):
            mean, deviation = _curve(per_init, key)
            gammas = sorted({row["gamma"] for row in per_init})
            axes.fill_between(gammas, mean - deviation, mean + deviation, color=f"C{colour}", alpha=0.14, linewidth=0)
            axes.plot(gammas, mean, color=f"C{colour}", label=f"width {width}")
    for axes, title in ((start, "Kernel at the start"), (end, "Kernel after training")):
        limit = sorted({(row["gamma"], row["kernel_limit"]) for row in rows})
        axes.plot(
            *zip(*limit, strict=True),
            linestyle="--",
            linewidth=1.4,
            color=rcParams["text.color"],
            label="infinite width",
        )
        axes.set(
            title=title, xlabel="angle of x", xticks=[-math.pi, 0, math.pi], xticklabels=["\N{MINUS SIGN}π", "0", "π"]
        )
    start.legend(loc="upper left", handlelength=1.2)
    finite = [row for row in table(rows) if row["width"] != "∞"]
    for colour, (key, label) in enumerate((("kernel_change", "kernel"), ("weight_change", "weights"))):
        points = [row["width"] for row in finite], [row[key] for row in finite]
        change.plot(*points, color=f"C{colour}", marker="o", markersize=5, label=label)
    widths = [row["width"] for row in finite]
    change.set(xscale="log", yscale="log", title="Relative change in training", xlabel="width")
    change.set_xticks(widths, [str(width) for width in widths])
    change.set_xticks([], minor=True)
    change.legend()
    return drawn


def _by_width(rows: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    return {
        width: [row for row in rows if row["width"] == width] for width in sorted({int(row["width"]) for row in rows})
    }


def _curve(rows: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation over the initialisations, at every angle."""
    values = [[row[key] for row in rows if row["gamma"] == gamma] for gamma in sorted({row["gamma"] for row in rows})]
    return np.array([np.mean(draws) for draws in values]), np.array([np.std(draws) for draws in values])
