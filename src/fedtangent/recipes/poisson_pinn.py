"""poisson_pinn: the tangent kernel of a physics-informed network stays as it is when the network is wide.

Wang, Yu, Perdikaris. When and why PINNs fail to train: a neural tangent kernel perspective. J. Comput. Phys. 2022,
section 7.1 and figures 2 and 3.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtangent.errors import SettingError
from fedtangent.recipes._poisson import LR, Conventions, Poisson
from fedtangent.tangents import pinn

CURVE = 20  # measurements after the first
# Medians of five seeds of another implementation, since the paper has curves only: changes of parameters and kernel
# after 10,000 steps, by conventions and width.
REFERENCE = {
    ("code", 10): (0.30, 0.57),
    ("code", 100): (0.059, 0.041),
    ("code", 500): (0.0126, 0.0034),
    ("text", 10): (0.89, 29.0),
    ("text", 100): (0.33, 4.2),
    ("text", 500): (0.163, 0.86),
}


def poisson_pinn(
    done: Sequence[dict[str, Any]] = (),
    *,
    widths: tuple[int, ...] = (10, 100, 500),
    seeds: int = 5,
    steps: int = 10_000,
    conventions: Conventions = "code",
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """The wider a physics-informed network, the less training moves its parameters, and still less its kernel.

    The Poisson equation in one dimension with the solution sin(πx), one hidden layer of tanh, 100 points inside and 100
    on the boundary, full-batch gradient descent of step 1e-5. Changes are relative, in the Euclidean norm.

    The article and its authors' program differ. In the program inputs are standardised, the last layer's weights come
    from N(0, 1/width), and losses are means of squares; in the article inputs are as they are, weights from N(0, 1)
    with 1/sqrt(width) before the last layer, and losses half of sums. Only the program's conventions, the default,
    show what the article's figures do, a kernel that hardly moves and K_rr far above K_uu.

    Args:
        done: Rows that are there already.
        widths: Numbers of units of the hidden layer.
        seeds: Random starts of each width.
        steps: How many gradient steps.
        conventions: Those of the authors' program (code) or of their article (text).
        seed: The first of the seeds.
    """
    if not widths or min(widths) < 1 or min(seeds, steps) < 1:
        raise SettingError(
            f"`widths`, `seeds` and `steps` must be positive; got {widths}, {seeds} and {steps}. "
            "Give such whole numbers."
        )
    there = {_key(row) for row in done}
    for width, own in product(widths, range(seed, seed + seeds)):
        if ("curve", width, own, steps) not in there:
            rows = trained(Poisson(width, conventions), own, steps, spectra=own == seed)
            same = {"width": width, "seed": own, "conventions": conventions}
            whole = (row | same for row in rows)
            yield from (row for row in whole if _key(row) not in there)


def trained(problem: Poisson, seed: int, steps: int, spectra: bool) -> Iterator[dict[str, Any]]:
    """The rows of one training; the last is the curve's last point."""
    first = theta = problem.start(seed)
    start = problem.kernel(first)
    _check_stable(problem, start)
    step = 0
    for until in np.unique(np.linspace(0, steps, CURVE + 1).round().astype(int)):
        theta, step = problem.descended(theta, int(until) - step), int(until)
        now = problem.kernel(theta)
        if spectra and step in (0, steps):
            yield from _eigenvalues(now, step)
        boundary, residual = problem.losses(theta)
        yield {
            "kind": "curve",
            "step": step,
            "parameter_change": float(np.linalg.norm(theta - first) / np.linalg.norm(first)),
            "kernel_change": float((now.matrix - start.matrix).norm() / start.matrix.norm()),
            "trace_ratio": now.traces["r"] / now.traces["u"],
            "largest_eigenvalue": float(now.eigenvalues()[0]),
            "boundary_loss": boundary,
            "residual_loss": residual,
            "relative_error": problem.error(theta),
        }


def _check_stable(problem: Poisson, start: pinn.Blocks) -> None:
    # the mean of squares is twice the loss that belongs to `weighted`
    operator = 2 * start.weighted() if problem.code else start.matrix
    part = LR * float(torch.linalg.eigvalsh(operator)[-1]) / 2
    if part >= 1:
        raise SettingError(
            f"`widths` must keep steps of {LR:g} stable; got {problem.width}, where the largest stable one is "
            f"{LR / part:.2g}. Choose narrower networks."
        )


def _eigenvalues(kernel: pinn.Blocks, step: int) -> Iterator[dict[str, Any]]:
    """Of K and its diagonal blocks, as far as they are more than rounding."""
    for block, name in (("K", None), ("K_uu", "u"), ("K_rr", "r")):
        values = kernel.eigenvalues(name)
        rounding = len(values) * torch.finfo(values.dtype).eps * values[0]
        for index, value in enumerate(values[values > rounding].tolist(), 1):
            yield {"kind": "eigenvalue", "step": step, "block": block, "index": index, "eigenvalue": value}


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A width a row: medians and ranges over the seeds at the last step, and another implementation's."""
    summary_rows = []
    for width, own in _by_width(rows).items():
        last = max(row["step"] for row in own)
        ends = [row for row in own if row["step"] == last]
        known = REFERENCE.get((ends[0]["conventions"], width)) if last == 10_000 else None
        summary: dict[str, Any] = {"width": width}
        for key, reference in zip(("parameter_change", "kernel_change"), known or (math.nan, math.nan), strict=True):
            values = [row[key] for row in ends]
            summary[key] = f"{np.median(values):.3g} [{min(values):.2g}, {max(values):.2g}]"
            summary[key.replace("change", "elsewhere")] = reference
        for key in ("trace_ratio", "relative_error"):
            summary[key] = float(np.median([row[key] for row in ends]))
        summary_rows.append(summary)
    return summary_rows


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """How far parameters and kernel move by width, and the widest network's eigenvalues before and after."""
    drawn = Figure(figsize=(12.8, 4.6), layout="constrained")
    parameters, kernel, spectrum = drawn.subplots(1, 3)
    kernel.sharey(parameters)
    for colour, (width, own) in enumerate(_by_width(rows).items()):
        for axes, key in ((parameters, "parameter_change"), (kernel, "kernel_change")):
            for seed in sorted({row["seed"] for row in own}):
                one = [row for row in own if row["seed"] == seed and row["step"] > 0]
                _line(axes, one, key, color=f"C{colour}", linewidth=0.9, alpha=0.35)
            _line(axes, _medians(own, key), key, color=f"C{colour}", label=f"width {width}")
    for axes, title in ((parameters, "Change of the parameters"), (kernel, "Change of the kernel")):
        axes.set(title=title, xlabel="gradient steps", yscale="log", xlim=(0, None))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=4)
    parameters.legend(loc="lower right")
    _draw_spectrum(spectrum, rows)
    return drawn


def _draw_spectrum(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    values = [row for row in rows if row["kind"] == "eigenvalue"]
    width = max((row["width"] for row in values), default=0)
    values = [row for row in values if row["width"] == width]
    for colour, block in enumerate(("K", "K_rr", "K_uu")):
        for step, look in ((0, {"linewidth": 4.5, "alpha": 0.35}), (None, {"linewidth": 1.4, "label": block})):
            last = max((row["step"] for row in values), default=0)
            own = [row for row in values if row["block"] == block and row["step"] == (last if step is None else step)]
            points = [row["index"] for row in own], [row["eigenvalue"] for row in own]
            axes.plot(*points, color=f"C{colour + 3}", **look)
    axes.set(title=f"Eigenvalues at width {width}", xlabel="index", xscale="log", yscale="log")
    axes.legend(loc="lower left")


def _line(axes: Axes, rows: Sequence[dict[str, Any]], key: str, **look: Any) -> None:
    axes.plot([row["step"] for row in rows], [row[key] for row in rows], **look)


def _medians(rows: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    steps = sorted({row["step"] for row in rows if row["step"] > 0})
    return [{"step": step, key: float(np.median([row[key] for row in rows if row["step"] == step]))} for step in steps]


def _by_width(rows: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """The points of the curves."""
    curves = [row for row in rows if row["kind"] == "curve"]
    return {width: [row for row in curves if row["width"] == width] for width in sorted({r["width"] for r in curves})}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    own = (row["block"], row["index"]) if row["kind"] == "eigenvalue" else ()
    return row["kind"], row["width"], row["seed"], row["step"], *own
