"""The dual state alpha (N, C) of training in the tangent space: w_t = w_0 - J^T alpha_t, f_t = f_0 - K alpha_t.

`flow` is the continuous clock, d alpha / ds = 1/N dL/df at f(s), with s = lr * t, its integral exact up to the stated
tolerance, as in NTK-FL and NTK-DFL. `descent` is the discrete one, t explicit steps: with the full kernel, it is
gradient descent on the linearised network.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.multiply_adds import repeated
from fedtangent.outside_vmap import outside_vmap
from fedtangent.tangents.capture.kernel_operator import Factored, Full, Trace
from fedtangent.tangents.numerics.integrate import (
    check_reach,
    phi_series,
    series_products,
    stabilised,
    stabilised_products,
    trusted,
)
from fedtangent.tangents.numerics.split import FAR, LowRank, SplitCourse, split, splits
from fedtangent.tangents.spectrum import largest_eigenvalue
from fedtangent.training.losses import Loss, curvature_root

T = TypeVar("T")
Kernel = Trace | Full | Factored

# Products with the kernel that a flow may take: half a minute with a thousand rows, in every round and on every node.
# Enough for curvature lambda_max s / N up to 10^7, where a usual one is a thousand.
PRODUCTS = 2**14
# A flow's stiffness as a multiple of that at the start, for fewer products than its bound asks for; and the estimated
# error of a step, as a part of alpha, beyond which that was too little and the bound is taken. Where it is enough the
# estimates are below 0.01, and where it is not above 0.05.
_MARGIN, _TRUSTED = 1.3, 0.02


class _Start(NamedTuple):
    """Problems along a first axis: kernels, outputs at the start, labels or targets, and which rows are real."""

    kernel: Kernel
    f_0: Tensor
    y: Tensor
    real: Tensor


def flow(
    kernel: Kernel, f_0: Tensor, y: Tensor, real: Tensor, loss: Loss, s: Sequence[float], growth: float = 1.3
) -> Tensor:
    """alpha at every time s (T, N, C) under the gradient flow of the mean loss over the real rows.

    A quadratic loss in closed form, the squared one's alpha = (1 - exp(-c K s)) / K (f_0 - y) with c = 1 / (N C), by a
    Chebyshev series of the phi-function: no inverse, so a zero eigenvalue does no harm. Other losses by a stabilised
    method of order two with steps that grow by `growth`, in some 6 sqrt(curvature lambda_max s / N) products with K,
    however many times. Of these a kernel of many rows takes one a step, and the rest of low rank.

    Args:
        kernel: From `kernel_of_factors` or `kernel_of_jacobian`.
        f_0: The outputs at the start, (N, C).
        y: Labels (N,) or targets (N, C).
        real: Which rows are real, (N,).
        loss: Its `curvature` bounds the stiffness.
        s: Increasing positive times, lr * t.
        growth: Of the steps, above 1; the error, some 2e-3 of alpha at 1.3, falls with the square of its logarithm.

    Raises:
        ValueError: A loss without curvature; times that do not increase; a last one that takes more than 2^14 products.
    """
    if loss.curvature is None:
        raise SettingError(
            f"`loss` must state its curvature for a flow; got none for {loss.name!r}. "
            "Pass curvature= to losses.custom, or use descent."
        )
    if not all(before < time for before, time in zip([0.0, *s], s, strict=False)):
        raise SettingError(
            f"`s` must be positive and increasing; got {list(s)}. Sort the times and drop repeated ones."
        )
    return outside_vmap(_Flow(loss, loss.curvature(f_0.shape[-1]), s, growth).several, kernel, f_0, y, real)


@dataclass(frozen=True)
class _Flow:
    """Ways to solve problems, each by a plan of its own, whoever shares the batch; NaN where a way does not serve."""

    loss: Loss
    curvature: float
    s: Sequence[float]
    growth: float

    def several(self, kernel: Kernel, f_0: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """alpha (problems, T, N, C): by every way in turn those that none before it has solved."""
        ways = [self.closed] if self.loss.quadratic else [self.bounded]
        if not self.loss.quadratic and self.loss.root is not None:
            ways.insert(0, self.trusted)
            if splits(kernel, f_0.shape[1]):
                ways.insert(0, self.split)
        start = _Start(kernel, f_0, y, real)
        found = ways[0](start)
        for way in ways[1:]:
            left = torch.nonzero(found[:, -1].isnan().flatten(1).any(1))[:, 0]
            if len(left):
                found[left] = way(_some(start, left))
        return found

    def closed(self, start: _Start) -> Tensor:
        """Of a quadratic loss."""

        def solve(start: _Start, stiffness: float) -> Tensor:
            force = _force(*start, self.loss)
            b = force(torch.zeros_like(start.f_0))
            return phi_series(lambda alpha: b - force(alpha), b, stiffness, self.s)

        return self.by_stiffness(start, _bound(start, self.curvature), solve)

    def bounded(self, start: _Start) -> Tensor:
        """With what no stiffness exceeds."""

        def solve(start: _Start, stiffness: float) -> Tensor:
            return stabilised(_force(*start, self.loss), torch.zeros_like(start.f_0), stiffness, self.s, self.growth)

        return self.by_stiffness(start, _bound(start, self.curvature), solve)

    def trusted(self, start: _Start) -> Tensor:
        """With the stiffness at the start, and a little more."""
        return self.by_stiffness(start, _MARGIN * _stiffness(start, self.loss, start.kernel.times), self._trusted)

    def split(self, start: _Start) -> Tensor:
        """The same with a kernel that is of low rank within a step, where the rest of it is not stiff."""
        assert not isinstance(start.kernel, Full)
        near, largest = split(start.kernel, start.f_0, start.real)
        rest = self.curvature * largest / start.real.sum(-1)
        stiffness = _MARGIN * (_stiffness(start, self.loss, near.times) + rest)
        fits = rest * self.s[-1] * (1 - 1 / self.growth) <= FAR
        return self.by_stiffness(start, torch.where(fits, stiffness, torch.inf), self._trusted, near)

    def _trusted(self, start: _Start, stiffness: float, near: LowRank | Factored | None = None) -> Tensor:
        kernel, f_0, y, real = start
        course: Any = _force(*start, self.loss)
        if near is not None:
            course = SplitCourse(_slope(f_0, y, real, self.loss), f_0, kernel.times, near)
        return trusted(course, torch.zeros_like(start.f_0), stiffness, self.s, self.growth, _TRUSTED)

    def by_stiffness(self, start: _Start, stiffness: Tensor, solve: Callable[..., Tensor], *more: Any) -> Tensor:
        """Solves problems of like stiffness together."""
        f_0 = start.f_0
        found = f_0.new_full((len(f_0), len(self.s), *f_0.shape[1:]), torch.nan)
        plans = [_round_up(value) for value in stiffness.tolist()]
        for plan in sorted({plan for plan in plans if plan is not None}):
            check_reach("`lr` times the last of `times`", partial(self.products, plan, f_0.dtype), self.s[-1], PRODUCTS)
            group = torch.tensor([i for i, its in enumerate(plans) if its == plan], device=f_0.device)
            found[group] = solve(_some(start, group), plan, *(_some(one, group) for one in more)).movedim(0, 1)
        return found

    def products(self, stiffness: float, dtype: torch.dtype, end: float) -> float:
        """How many a flow takes up to a time."""
        if self.loss.quadratic:
            return series_products(stiffness, end, dtype)
        return stabilised_products(stiffness, end, self.growth)


def _some(problems: T, group: Tensor) -> T:
    if len(group) == len(trees.leaves(problems)[0]):
        return problems
    return trees.map(lambda leaf: leaf[group], problems)  # type: ignore[no-any-return]


def _bound(start: _Start, curvature: float) -> Tensor:
    """What no stiffness of a flow exceeds: that of the largest curvature at every row."""
    return curvature * largest_eigenvalue(start.kernel.times, start.f_0, start.real) / start.real.sum(-1)


def _stiffness(start: _Start, loss: Loss, times: Callable[[Tensor], Tensor]) -> Tensor:
    """The largest eigenvalue of R^T K R / N at the start, where R R^T is the loss's curvature at every row.

    A softmax between many classes, or sure of one, is less curved than the bound says, by a factor of 2.5 to 8 in runs
    of 784-100-10, and along a flow it mostly falls. `times` is K's product, or one near it.
    """
    _, f_0, y, real = start
    root = curvature_root(loss, f_0.flatten(0, 1), y.flatten(0, 1)).reshape(*f_0.shape, -1)
    # (problems, C, C, N): sums over outputs go along rows, thrice as fast as a small product a row
    root = torch.where(real[..., None, None], root, 0).movedim(1, -1).contiguous()

    def of_outputs(v: Tensor) -> Tensor:
        moved = times((root * v.mT[:, None]).sum(2).mT)
        return (root * moved.mT[:, :, None]).sum(1).mT

    return largest_eigenvalue(of_outputs, f_0, real) / real.sum(-1)


def descent(
    kernel: Kernel, f_0: Tensor, y: Tensor, real: Tensor, loss: Loss, lr: float, times: Sequence[int]
) -> Tensor:
    """alpha after each number of steps in `times` (T, N, C): alpha <- alpha + lr / N dL/df; a product with K a step."""
    force = _force(kernel, f_0, y, real, loss)
    alpha = torch.zeros_like(f_0)
    found = []
    for t in repeated(range(1, max(times) + 1)):
        alpha = alpha + lr * force(alpha)
        if t in times:
            found.append(alpha)
    return torch.stack(found)


def stable_step(kernel: Kernel, f_0: Tensor, real: Tensor, loss: Loss) -> Tensor:
    """The largest lr for which `descent` cannot grow: 2 N / (curvature * lambda_max)."""
    if loss.curvature is None:
        raise SettingError(f"`loss` must state its curvature; got none for {loss.name!r}. Pass it to losses.custom.")
    return 2 * real.sum(-1) / (loss.curvature(f_0.shape[-1]) * largest_eigenvalue(kernel.times, f_0, real))


def _force(kernel: Kernel, f_0: Tensor, y: Tensor, real: Tensor, loss: Loss) -> Callable[[Tensor], Tensor]:
    """d alpha / ds, a function of alpha."""
    slope = _slope(f_0, y, real, loss)
    f_0 = f_0.mT.contiguous().mT
    return lambda alpha: slope(f_0 - kernel.times(alpha))


def _slope(f_0: Tensor, y: Tensor, real: Tensor, loss: Loss) -> Callable[[Tensor], Tensor]:
    """d alpha / ds, a function of f: 1/N dL/df, zero in padded rows."""
    weight = (real / real.sum(-1, keepdim=True, dtype=f_0.dtype))[..., None]
    # a column of alpha is one piece of memory, which is how the kernel's products leave it
    y = loss.prepared(f_0.mT.contiguous().mT, y)
    return lambda f: torch.where(real[..., None], loss.residual(f, y), 0) * weight


def _round_up(stiffness: float) -> float | None:
    """The next power of 2^(1/4), so that rounding errors do not change a plan; None where no plan can help."""
    if not math.isfinite(stiffness):
        return None
    return float(2 ** (math.ceil(4 * math.log2(max(stiffness, 1e-9))) / 4))
