"""A flow by a kernel that is of low rank within a step: K = K_r + E, where what E adds moves slowly.

A few large eigenvalues of K ask for nearly all of a flow's products. Within a step those are products with K_r, and
E alpha is extrapolated from the last three ends of steps. K itself is multiplied once a step, and the error remains
that of the step, as long as E alone is not stiff within it.

A trace kernel is a matrix, and K_r = B B^T: 4 N r operations a column in place of 2 N^2. A full kernel of dense layers
multiplies with the products of all rows' inputs, a matrix for every layer, and in K_r those are B B^T: E is positive
semi-definite as they are, since a product of entries of two such matrices is one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedtangent.tangents.capture.kernel_operator import Factored, Trace
from fedtangent.tangents.spectrum import largest_eigenvalue

# r, of a trace kernel and of a layer's products of inputs, which a longer flow asks more of.
RANK, INPUTS_RANK = 48, 128
# How many times as many rows there are where products of that rank are cheaper by enough.
FEWER = 4
# What the longest step times the bound of E's stiffness may be: above ten the extrapolation's errors begin to grow.
FAR = 5.0
# Products with E for an estimate of its largest eigenvalue.
_PRODUCTS = 6


class LowRank(NamedTuple):
    """B B^T as an operator on alpha (P, N, C). b: B (P, N, r)."""

    b: Tensor

    def times(self, alpha: Tensor) -> Tensor:
        """B B^T alpha, (P, N, C)."""
        return ((alpha.mT @ self.b) @ self.b.mT).mT


class Split(NamedTuple):
    """K = K_r + E of problems along a first axis. near: K_r. rest: the largest eigenvalue of E, (P,)."""

    near: LowRank | Factored
    rest: Tensor


def splits(kernel: object, rows: int) -> bool:
    """Whether a kernel of so many rows is one to be split."""
    if isinstance(kernel, Factored):
        return rows >= FEWER * INPUTS_RANK and bool(kernel.grams)
    return rows >= FEWER * RANK and isinstance(kernel, Trace)


def split(kernel: Trace | Factored, like: Tensor, real: Tensor) -> Split:
    """K on its real rows.

    `rest` is not finite where there are too few real rows, or where K is not finite.

    Args:
        kernel: K of problems along a first axis.
        like: A tensor like alpha, (P, N, C), for device and dtype.
        real: Which rows are real, (P, N).
    """
    near: LowRank | Factored
    if isinstance(kernel, Trace):
        b, fine = _low_rank(kernel.matrix, real, RANK)
        near, like = LowRank(b), like[..., :1]
    else:
        parts = {key: _low_rank(gram, real, INPUTS_RANK) for key, gram in kernel.grams.items()}
        fine = torch.stack([each for _, each in parts.values()]).all(0)
        near = kernel._replace(grams={}, inputs=kernel.inputs | {key: b for key, (b, _) in parts.items()})
    rest = largest_eigenvalue(lambda v: kernel.times(v) - near.times(v), like, real, _PRODUCTS)
    return Split(near, torch.where(fine, rest, torch.inf))


def _low_rank(matrix: Tensor, real: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B (P, N, r) of (P, N, N), by Nystroem's method on the range of r spread columns; and where there is one."""
    rows = real.sum(-1, keepdim=True)
    places = torch.arange(rank, device=real.device) * rows // rank
    order = (~real).to(torch.int8).argsort(dim=-1, stable=True)  # real rows first: padding changes nothing
    which = order.gather(-1, places)[:, None].expand(-1, matrix.shape[1], -1)
    fine = (rows >= FEWER * rank)[..., None]
    columns = torch.where(fine & real[..., None], matrix.gather(-1, which), 0)
    # a basis of their span: with many problems at once a QR decomposition would take one after the other on a GPU
    double = columns.to(torch.float64)
    q = _over_root(double, double.mT @ double)[0].to(columns.dtype)
    y = torch.where(fine & real[..., None], matrix @ q, 0)
    b, failed = _over_root(y, q.mT @ y)
    return b, fine[:, 0, 0] & (failed == 0)


def _over_root(y: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """y L^-T, where L L^T is the square, with what rounding may have taken from one of lower rank; and whether not."""
    size = square.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    more = torch.diag_embed((8 * torch.finfo(square.dtype).eps * size).expand(-1, square.shape[-1]))
    lower, failed = torch.linalg.cholesky_ex((square + square.mT) / 2 + more)
    return torch.linalg.solve_triangular(lower, y.mT, upper=False).mT, failed


class SplitCourse:
    """d alpha / ds as `force` of the outputs f_0 - K alpha; within a step f_0 - E alpha is extrapolated."""

    def __init__(
        self,
        force: Callable[[Tensor], Tensor],
        f_0: Tensor,
        times: Callable[[Tensor], Tensor],
        near: LowRank | Factored,
    ) -> None:
        self.force, self.f_0, self.times, self.near = force, f_0, times, near
        self.ends: list[tuple[float, Tensor]] = []

    def end(self, u: Tensor, now: float) -> Tensor:
        """With K itself."""
        f = self.f_0 - self.times(u)
        self.ends = [*self.ends[-2:], (now, f + self.near.times(u))]
        return self.force(f)

    def within(self) -> Callable[[Tensor, float], Tensor]:
        """With K_r, and f_0 - E alpha as a polynomial through its last values."""
        first, second, third = _polynomial(self.ends)
        near = self.near

        def force(u: Tensor, time: float) -> Tensor:
            rest = first.add(second, alpha=time).add_(third, alpha=time**2)
            if isinstance(near, LowRank):
                return self.force(torch.baddbmm(rest.mT, u.mT @ near.b, near.b.mT, alpha=-1).mT)
            return self.force(rest.sub_(near.times(u)))

        return force


def _polynomial(points: list[tuple[float, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients in t of the polynomial through up to three points, t from the last of them."""
    now, value = points[-1]
    if len(points) == 1:
        return value, torch.zeros_like(value), torch.zeros_like(value)
    before, old = points[-2]
    h = now - before
    slope = (value - old) / h
    if len(points) == 2:
        return value, slope, torch.zeros_like(value)
    first, oldest = points[-3]
    bend = (slope - (old - oldest) / (before - first)) / (now - first)
    return value, slope + h * bend, bend
