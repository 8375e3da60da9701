"""A flow by a kernel matrix that is of low rank within a step: K = B B^T + E, where what E adds moves slowly.

A few large eigenvalues of K ask for nearly all of a flow's products. Within a step those are products with B B^T, 4 N r
operations a column in place of 2 N^2, and E alpha is extrapolated from the last three ends of steps. K itself is
multiplied once a step, and the error remains that of the step, as long as E alone is not stiff within it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedtangent.tangents.spectrum import largest_eigenvalue

# r, and from how many rows on its products are cheaper by enough.
RANK = 48
LEAST = 4 * RANK
# What the longest step times the bound of E's stiffness may be: above ten the extrapolation's errors begin to grow.
FAR = 5.0
# Products with E for an estimate of its largest eigenvalue.
_PRODUCTS = 6


class Split(NamedTuple):
    """K = B B^T + E of problems along a first axis. b: B (P, N, r). rest: the largest eigenvalue of E, (P,)."""

    b: Tensor
    rest: Tensor

    def times(self, alpha: Tensor) -> Tensor:
        """B B^T alpha, (P, N, C)."""
        return ((alpha.mT @ self.b) @ self.b.mT).mT


def split(matrix: Tensor, real: Tensor) -> Split:
    """K (P, N, N) on its real rows, by Nystroem's method on the range of r of its columns, spread evenly.

    `rest` is not finite where there are fewer than `LEAST` real rows, or where K is not finite.
    """
    rows = real.sum(-1, keepdim=True)
    places = torch.arange(RANK, device=real.device) * rows // RANK
    order = (~real).to(torch.int8).argsort(dim=-1, stable=True)  # real rows first: padding changes nothing
    which = order.gather(-1, places)[:, None].expand(-1, matrix.shape[1], -1)
    fine = (rows >= LEAST)[..., None]
    columns = torch.where(fine & real[..., None], matrix.gather(-1, which), 0)
    # a basis of their span: with many problems at once a QR decomposition would take one after the other on a GPU
    double = columns.to(torch.float64)
    q = _over_root(double, double.mT @ double)[0].to(columns.dtype)
    y = torch.where(fine & real[..., None], matrix @ q, 0)
    b, failed = _over_root(y, q.mT @ y)
    found = Split(b, b[:, 0, 0])
    rest = largest_eigenvalue(lambda v: (v.mT @ matrix).mT - found.times(v), b[..., :1], real, _PRODUCTS)
    return Split(b, torch.where(fine[:, 0, 0] & (failed == 0), rest, torch.inf))


def _over_root(y: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """y L^-T, where L L^T is the square, with what rounding may have taken from one of lower rank; and whether not."""
    size = square.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    more = torch.diag_embed((8 * torch.finfo(square.dtype).eps * size).expand(-1, RANK))
    lower, failed = torch.linalg.cholesky_ex((square + square.mT) / 2 + more)
    return torch.linalg.solve_triangular(lower, y.mT, upper=False).mT, failed


class SplitCourse:
    """d alpha / ds as `force` of the outputs f_0 - K alpha; within a step f_0 - E alpha is extrapolated."""

    def __init__(
        self, force: Callable[[Tensor], Tensor], f_0: Tensor, times: Callable[[Tensor], Tensor], near: Split
    ) -> None:
        self.force, self.f_0, self.times, self.near = force, f_0, times, near
        self.ends: list[tuple[float, Tensor]] = []

    def end(self, u: Tensor, now: float) -> Tensor:
        """With K itself."""
        f = self.f_0 - self.times(u)
        self.ends = [*self.ends[-2:], (now, f + self.near.times(u))]
        return self.force(f)

    def within(self) -> Callable[[Tensor, float], Tensor]:
        """With B B^T, and f_0 - E alpha as a polynomial through its last values."""
        first, second, third = _polynomial(self.ends)
        b = self.near.b

        def force(u: Tensor, time: float) -> Tensor:
            rest = first.add(second, alpha=time).add_(third, alpha=time**2)
            return self.force(torch.baddbmm(rest.mT, u.mT @ b, b.mT, alpha=-1).mT)

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
