"""jacobian_cost: time and memory of Jacobian work against the hidden width, with J written out and from its factors.

A question that NTK-FL (arXiv 2110.03681) and NTK-DFL (arXiv 2410.01922), whose nodes exchange and multiply J, leave
open: both report rounds and bytes, at one width. The network is theirs, 784-width-10, on random samples.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.profiler import ProfilerActivity, profile

from fedtangent.errors import SettingError
from fedtangent.models.mlp import mlp
from fedtangent.tangents import jacobian, kernel
from fedtangent.timing import seconds

INPUTS, OUTPUTS = 784, 10

Work = Callable[[], Tensor]


def jacobian_cost(
    done: Sequence[dict[str, Any]] = (),
    *,
    widths: tuple[int, ...] = (10, 50, 100, 500),
    samples: int = 100,
    repeats: int = 5,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Seconds and peak bytes of a kernel, and of a product with it, for 784-width-10 on random samples.

    `kernel` is the full kernel of the samples, (n, 10, n, 10): from per-sample Jacobians by vmap(jacrev), (n, 10, P),
    or from the factors of every layer. `product` is J (J^T alpha), of which an evolution takes hundreds: with J in
    memory, or by passes through the network. Peak bytes are those of all tensors, J included, but for the network and
    the samples.

    Args:
        done: Rows that are there already.
        widths: Of the hidden layer; written out, J takes 40 n P bytes, P = 795 width + 10.
        samples: n, the rows whose Jacobian is taken.
        repeats: The least time of so many is kept.
        seed: Of the network and the samples.
    """
    if not widths or min(widths) < 1 or min(samples, repeats) < 1:
        raise SettingError(
            f"`widths`, `samples` and `repeats` must be positive; got {widths}, {samples} and {repeats}. "
            "Give such whole numbers."
        )
    there = {(row["width"], row["work"], row["way"]) for row in done}
    for width, (work, way) in product(widths, WAYS):
        if (width, work, way) in there:
            continue
        rng = np.random.default_rng([seed, width])
        model = mlp((INPUTS,), OUTPUTS, rng, hidden=(width,))
        x, alpha = (torch.from_numpy(rng.standard_normal((samples, size))).float() for size in (INPUTS, OUTPUTS))
        prepare = WAYS[work, way]
        yield {
            "width": width,
            "work": work,
            "way": way,
            "seconds": seconds(prepare(model, x, alpha), repeats, min),
            "peak_bytes": peak_bytes(partial(_prepared, prepare, model, x, alpha)),
        }


def written_out(model: nn.Module, x: Tensor) -> list[Tensor]:
    """J by parameter, (n, C, size), from vmap(jacrev)."""
    w = {name: part.detach() for name, part in model.named_parameters()}
    one = jacrev(lambda w, row: functional_call(model, w, (row[None],))[0])
    return [part.flatten(2) for part in vmap(one, (None, 0))(w, x).values()]


def explicit_kernel(model: nn.Module, x: Tensor, alpha: Tensor) -> Work:
    """J J^T, (n, C, n, C), parameter by parameter."""

    def contracted() -> Tensor:
        parts = written_out(model, x)
        total = torch.zeros(alpha.numel(), alpha.numel(), dtype=x.dtype)
        while parts:
            flat = parts.pop().flatten(0, 1)
            total.addmm_(flat, flat.T)
        return total.view(*alpha.shape, *alpha.shape)

    return contracted


def factored_kernel(model: nn.Module, x: Tensor, alpha: Tensor) -> Work:
    """The same from the layers' factors."""
    return lambda: kernel(model, x).movedim(1, 2)


def explicit_product(model: nn.Module, x: Tensor, alpha: Tensor) -> Work:
    """J (J^T alpha), (n, C), with J in memory."""
    parts = [part.flatten(0, 1) for part in written_out(model, x)]
    return lambda: sum((part @ (alpha.flatten() @ part) for part in parts), torch.zeros(())).view_as(alpha)


def free_product(model: nn.Module, x: Tensor, alpha: Tensor) -> Work:
    """The same by passes through the network."""
    j = jacobian(model, x)
    return lambda: j.times(alpha)


WAYS: dict[tuple[str, str], Callable[[nn.Module, Tensor, Tensor], Work]] = {
    ("kernel", "explicit"): explicit_kernel,
    ("kernel", "factorised"): factored_kernel,
    ("product", "explicit"): explicit_product,
    ("product", "factorised"): free_product,
}


def peak_bytes(work: Work) -> int:
    """The most that a call has allocated for tensors at any time, as torch counts it on the CPU."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler else announces on the terminal that it runs
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(changes), default=0))


def _prepared(prepare: Callable[[nn.Module, Tensor, Tensor], Work], *given: Any) -> Tensor:
    return prepare(*given)()


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A width and a work a row: milliseconds and MiB of both ways, and their ratios."""
    summary_rows = []
    for work, width in product(("kernel", "product"), sorted({row["width"] for row in rows})):
        both = {row["way"]: row for row in rows if (row["work"], row["width"]) == (work, width)}
        if len(both) < 2:
            continue
        explicit, ours = both["explicit"], both["factorised"]
        summary_rows.append(
            {
                "work": work,
                "width": width,
                "explicit_ms": 1000 * explicit["seconds"],
                "factorised_ms": 1000 * ours["seconds"],
                "faster": explicit["seconds"] / ours["seconds"],
                "explicit_MiB": explicit["peak_bytes"] / 2**20,
                "factorised_MiB": ours["peak_bytes"] / 2**20,
                "smaller": explicit["peak_bytes"] / ours["peak_bytes"],
            }
        )
    return summary_rows


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Time and memory against the width, on logarithmic axes."""
    drawn = Figure(figsize=(10.4, 4.6), layout="constrained")
    axes = drawn.subplots(1, 2)
    widths = sorted({row["width"] for row in rows})
    for panel, key, unit, title in (
        (axes[0], "seconds", 1e-3, "Time, ms"),
        (axes[1], "peak_bytes", 2**20, "Peak, MiB"),
    ):
        for colour, way in enumerate(("explicit", "factorised")):
            for work, line in (("kernel", "-"), ("product", "--")):
                points = sorted(
                    (row["width"], row[key] / unit) for row in rows if (row["way"], row["work"]) == (way, work)
                )
                panel.plot(
                    *zip(*points, strict=True),
                    color=f"C{colour}",
                    linestyle=line,
                    marker="o",
                    markersize=5,
                    label=f"{work}, {way}",
                )
        panel.set(xscale="log", yscale="log", title=title, xlabel="hidden width")
        panel.set_xticks(widths, [str(width) for width in widths])
        panel.set_xticks([], minor=True)
    axes[0].legend(handlelength=2.4)
    return drawn
