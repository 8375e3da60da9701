"""A step within the span of a few directions, where the Gauss-Newton matrix is known exactly from a few sums.

Martens, Grosse. Optimizing Neural Networks with Kronecker-factored Approximate Curvature. ICML 2015, section 7, where
the directions are one damped step and the last displacement; here there is one for every damping.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.shard import Shard
from fedtangent.tangent_steps import of_task, once, slices
from fedtangent.tangent_steps.kfac import Moments, directions
from fedtangent.tangent_steps.step import choose
from fedtangent.tangents.capture.derivatives import FASTEST, known_ways, push
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.kernel_operator import pushforward
from fedtangent.tangents.capture.uses import Uses
from fedtangent.training import losses
from fedtangent.training.task import Task


class Curvature(NamedTuple):
    """total: Along k directions, summed over rows (k, k). rows: How many. Any sum of these is one."""

    total: Tensor
    rows: Tensor


def rows_of_curvature(found: Curvature) -> Tensor:
    """How many rows a curvature is of; 0 where it is negative along a direction, which no sum of squares is."""
    return torch.where((found.total.diagonal() >= 0).all(), found.rows, 0)


@dataclass(frozen=True)
class Span:
    """The directions of a step, and the combinations of them that are tried.

    Args:
        dampings: Of the Kronecker factors, in units of their mean eigenvalue; a direction each.
        ridges: m, relative to the curvature along every direction.
        scales: s, parts of the way.
        momentum: Whether the last displacement is one of the directions.
    """

    dampings: tuple[float, ...]
    ridges: tuple[float, ...]
    scales: tuple[float, ...]
    momentum: bool = True

    def __post_init__(self) -> None:
        """Checks what a user may get wrong."""
        for name in ("dampings", "ridges", "scales"):
            values = getattr(self, name)
            if not values or not all(0 < value < math.inf for value in values):
                raise SettingError(f"`{name}` must be positive numbers; got {list(values)}. Give at least one.")

    @property
    def tries(self) -> int:
        """How many combinations are tried."""
        return len(self.ridges) * len(self.scales)

    def basis(self, total: Moments, a: dict[str, Tensor], v: Weights, *more: Weights) -> Weights:
        """The directions along a leading axis: one for every damping, with momentum v, and more.

        Where a damping is too small for a factor, its direction is zero; NaN where all of them are.

        Args:
            total: Sums over all rows.
            a: The moments of inputs that `total` has not, packed means over rows.
            v: The last displacement.
            more: Further directions.
        """
        made = directions(total, a, self.dampings)
        fine = torch.stack([d.reshape(len(d), -1).isfinite().all(1) for d in made.values()]).all(0)
        kept = fine | ~fine.any()
        made = {name: torch.where(kept.reshape(-1, *[1] * (d.dim() - 1)), d, 0) for name, d in made.items()}
        given = (v, *more) if self.momentum else more
        return {name: torch.cat([d, *(part[name][None] for part in given)]) for name, d in made.items()}

    def combinations(self, total: Moments, basis: Weights, curved: Curvature) -> Tensor:
        """s argmin_c g . c + c . (Q + m diag Q) c / 2 for every ridge m and scale s, (tries, k).

        A direction along which nothing changes, such as a zero one, gets no part.

        Args:
            total: Sums over all rows; g is their mean gradient along the directions.
            basis: The k directions.
            curved: The sum of `curvature`; its mean over rows is Q.
        """
        quadratic = curved.total / curved.rows
        exact = like(basis, total.gradient)
        slopes = [exact[name].reshape(len(quadratic), -1) @ g.flatten() for name, g in total.gradient.items()]
        g, q = (torch.stack(slopes).sum(0) / total.rows).to(torch.float64), quadratic.to(torch.float64)
        size = q.diagonal().clamp_min(0).sqrt()
        unit = torch.where(size > 0, 1 / size, 0)
        g, q = unit * g, unit[:, None] * q * unit
        eye = torch.eye(len(g), dtype=q.dtype, device=q.device)
        found = [-unit * torch.linalg.solve(q + m * eye, g) for m in self.ridges]
        return torch.stack([s * c for c in found for s in self.scales]).to(quadratic.dtype)


def curvature(task: Task, w: Weights, basis: Weights, data: Shard, weight_decay: float = 0.0) -> Curvature:
    """(J d_i)^T H (J d_j) + weight_decay d_i . d_j, summed over real rows, for k directions d along a leading axis."""
    found, basis = of_task.uses(task, w, data.x), like(basis, w)
    pushed, row_bytes = _pushing(task, w, basis, data, found)
    smooth = weight_decay * once.gram(task, basis)

    def one(data: Shard) -> Curvature:
        f, j = pushed(data.x)
        root = losses.curvature_root(task.loss, f, data.y)
        root = torch.where(data.real[:, None, None], root, 0)
        moved = torch.einsum("nck,inc->ink", root, torch.where(data.real[:, None], j, 0)).flatten(1)
        rows = data.real.sum()
        return Curvature(moved @ moved.mT + smooth * rows, rows)

    return slices.summed(one, data, row_bytes)  # type: ignore[no-any-return]


def _pushing(
    task: Task, w: Weights, basis: Weights, data: Shard, found: Uses
) -> tuple[Callable[[Any], tuple[Tensor, Tensor]], int]:
    """x -> f (n, C) and J d (k, n, C) for directions d; and what a row takes on the way."""
    model, count = of_task.function(task), len(next(iter(basis.values())))
    if once.two_maps(found):

        def by_factors(x: Any) -> tuple[Tensor, Tensor]:
            f, parts = once.linearised(task, w, x, found)
            return f, pushforward(found, parts, w, basis, once.changes(task, basis, x, found))

        return by_factors, slices.of_directions(found, w, count, FASTEST)
    ways = known_ways(model, task.w_0, of_task.example(task), of_task.samples(data.x))

    def by_transform(x: Any) -> tuple[Tensor, Tensor]:
        rows = of_task.samples(x)
        same, j = torch.func.vmap(lambda d: push(model, w, rows, d, ways))(basis)
        return same[0], j

    return by_transform, slices.of_directions(found, w, count, ways)


def candidates(w: Weights, basis: Weights, c: Tensor) -> Weights:
    """w + sum_i c_i d_i for every row of c (T, k): a tree of leading axis T."""

    def along(start: Tensor, d: Tensor) -> Tensor:
        flat = d.flatten(1) if d.dim() > 1 else d[:, None]
        return torch.addmm(start.reshape(1, start.numel()), c, flat).reshape(len(c), *start.shape)

    return trees.map(along, w, like(basis, w))  # type: ignore[no-any-return]


def chosen(w: Weights, basis: Weights, c: Tensor, loss: Tensor) -> tuple[Weights, Tensor]:
    """The candidate of the lowest loss (T,), the only one that is made, and its number from 1; `w` and 0 if none is."""
    none = {"c": torch.zeros_like(c[0])}
    its, choice = choose(none, {"c": c}, loss, range(1, len(c) + 1))
    made = trees.map(lambda part: part[0], candidates(w, basis, its["c"][None]))
    return trees.where(choice > 0, made, w), choice


def like(basis: Weights, w: Weights) -> Weights:
    """The directions in the type of the weights."""
    return {name: d.to(w[name].dtype) for name, d in basis.items()}
