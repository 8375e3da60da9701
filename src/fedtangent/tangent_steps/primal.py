"""The trace kernel's dynamics in the primal, of a sketched Jacobian: every quantity in them is a sum over samples.

With phi_n = vec(J_n R) / sqrt(C) in R^q, q = C k, phi_n . phi_m is the trace kernel on average over R, f_n = f_0n -
theta^T phi_n, and theta = sum_n phi_n alpha_n^T (q, C) follows d theta / ds = 1/N sum_n phi_n r_n^T, r = dL/df at f.

Between two knots u_j of time r is taken as linear in f, with a constant c for its derivative: the exponential Euler
method (Hochbruck, Ostermann, Exponential integrators, Acta Numerica 2010, section 2). A time h after u_j, with L = c A
/ N, A = sum_n phi_n phi_n^T, and the slope g_j at theta_j,

    theta(u_j + h) = theta_j + h phi_1(-h L) g_j
    alpha(u_j + h) = alpha_j + (h r_j - c Phi h^2 phi_2(-h L) g_j) / N

so that theta = Phi^T alpha stays exact. With half of the loss's curvature bound for c no step can grow, however long.
The squared loss has c for its derivative, and one knot is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fedtangent import shard
from fedtangent.shard import Shard
from fedtangent.tangent_steps.step import cleared, jacobian, linearised_rows
from fedtangent.tangent_steps.triangles import pack, unpack
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.numerics.modes import Modes, flow_gain, modes
from fedtangent.tangents.sketch import projection
from fedtangent.training.losses import Loss, squared
from fedtangent.training.task import Task

# Knots of a loss other than the squared one, and by how much the last step is longer than the first: some two per
# factor of 2 in time, and the first within the time of the first change for 784-100-10 and inputs of unit variance.
KNOTS = 12
_STRETCH = 100.0


class Features(NamedTuple):
    """A node's rows in the sketch; they stay with their owner.

    Attributes:
        f: Outputs, (n, C).
        y: Labels (n,) or targets (n, C).
        phi: (n, q); zero in padded rows.
        real: Which rows are real, (n,).
    """

    f: Tensor
    y: Tensor
    phi: Tensor
    real: Tensor


class Sums(NamedTuple):
    """Additive sufficient statistics of a client's rows: a sum of several clients' is one of these, too.

    Attributes:
        a: The upper triangle of sum phi phi^T, (q (q + 1) / 2,).
        b: sum phi r^T at the start, (q, C).
        rows: How many.
    """

    a: Tensor
    b: Tensor
    rows: Tensor


class Course(NamedTuple):
    """theta at a knot, (q, C), and what alpha at every time needs of the steps so far: sum h^2 phi_2 g, (T, q, C)."""

    theta: Tensor
    drift: Tensor


@dataclass(frozen=True)
class PrimalFlow:
    """The evolution at several times, from as many sums as there are knots.

    Args:
        loss: With a curvature bound.
        s: Increasing positive times, lr t.
        count: How many knots.
    """

    loss: Loss
    s: tuple[float, ...]
    count: int

    @property
    def knots(self) -> list[float]:
        """The times of the sums, from 0, in steps that grow evenly towards the last of `s`."""
        return [
            self.s[-1] * math.expm1(j / self.count * math.log(_STRETCH)) / (_STRETCH - 1) for j in range(self.count)
        ]

    @cached_property
    def steps(self) -> Tensor:
        """How long after knot j the way to time s_i leaves from it, (T, knots): 0 where it is not reached."""
        u = torch.tensor([*self.knots, math.inf], dtype=torch.float64)
        return torch.minimum((torch.tensor(self.s, dtype=torch.float64)[:, None] - u[:-1]).clamp_min(0), u.diff())

    def curvature(self, outputs: int) -> float:
        """c, which stands for the derivative of r by f."""
        assert self.loss.curvature is not None
        return self.loss.curvature(outputs) * (1.0 if self.loss is squared else 0.5)

    def modes(self, total: Sums) -> Modes:
        """The eigenvalues and eigenvectors of L, (1, q) and (1, q, q), in float64; 9 q^3 operations."""
        outputs = total.b.shape[-1]
        return modes(unpack(total.a.to(torch.float64)[None]) * (self.curvature(outputs) / float(total.rows)))

    def start(self, total: Sums) -> Course:
        """theta = 0, and nothing done."""
        return Course(torch.zeros_like(total.b), total.b.new_zeros(len(self.s), *total.b.shape))

    def advanced(self, j: int, own: Modes, course: Course, slope: Tensor, total: Sums) -> Course:
        """From knot j to the next, with sum phi r^T (q, C) at the first: 2 (T + 2) q^2 C operations."""
        g = slope.to(torch.float64)[None] / float(total.rows)
        drift = own.combined(_second_gain(own.values, self.steps[:, j].tolist()), g)[:, 0].to(slope)
        if j + 1 == self.count:
            return course._replace(drift=course.drift + drift)
        move = own.combined(flow_gain(own.values, [self.knots[j + 1] - self.knots[j]], 0), g)[0, 0].to(slope)
        return Course(course.theta + move, course.drift + drift)

    def alpha(self, drift: Tensor, thetas: Sequence[Tensor], data: Features) -> Tensor:
        """N alpha of a node's rows at every time, (T, n, C), from theta at the knots after 0."""
        data = shard.cleared(data, data.real)
        first = torch.zeros_like(drift[0])
        r = torch.stack([residual(self.loss, theta, data) for theta in [first, *thetas]])
        steps = self.steps.to(r)
        found: Tensor = torch.tensordot(steps, r, 1) - self.curvature(data.f.shape[-1]) * (data.phi @ drift)
        return found


def features(task: Task, w: Weights, columns: int, seed: int, data: Shard) -> Features:
    """A node's rows in the sketch of k columns: 2 n P k operations, beside R, P k numbers.

    Args:
        task: Model and loss.
        w: The weights.
        columns: k.
        seed: Of R; whoever has it has the same R.
        data: The rows.
    """
    rows = linearised_rows(task, w, data)
    r = projection(w, columns, seed)
    projected = jacobian(task, w, rows)[1](r)
    phi = projected.permute(1, 2, 0).flatten(1) / rows.f.shape[1] ** 0.5
    return Features(rows.f, rows.y, torch.where(data.real[:, None], phi, 0), data.real)


def residual(loss: Loss, theta: Tensor, data: Features) -> Tensor:
    """r = dL/df at f_0 - Phi theta, (n, C); zero in padded rows."""
    return torch.where(data.real[:, None], loss.residual(data.f - data.phi @ theta, data.y), 0)


def slope(loss: Loss, theta: Tensor, data: Features) -> Tensor:
    """sum phi r^T at theta, (q, C), over a node's real rows."""
    data = shard.cleared(data, data.real)
    return data.phi.mT @ residual(loss, theta, data)


def sums(loss: Loss, data: Features) -> Sums:
    """The sums over a node's real rows at the start: n q^2 multiply-adds."""
    data = shard.cleared(data, data.real)
    start = data.phi.new_zeros(data.phi.shape[1], data.f.shape[1])
    return Sums(pack((data.phi.mT @ data.phi)[None])[0], slope(loss, start, data), data.real.sum())


def moved(task: Task, w: Weights, alpha: Tensor, data: Shard) -> Weights:
    """J^T alpha over a node's rows, for alpha (T, n, C): a tree of weights with a leading axis T."""
    rows = linearised_rows(task, w, data)
    alpha = torch.where(data.real[:, None], alpha, 0)
    return jacobian(task, w, cleared(task, w, rows))[0](alpha)


def _second_gain(rate: Tensor, s: Sequence[float]) -> Tensor:
    """h^2 phi_2(-h rate), the integral over h of (1 - exp(-h rate)) / rate, (T, 1, q)."""
    rows = []
    for h in s:
        x = rate * h
        series = 0.5 - x / 6 + x**2 / 24 - x**3 / 120
        rows.append(h * h * torch.where(x > 1e-2, (x + torch.expm1(-x)) / x.clamp_min(1e-2) ** 2, series))
    return torch.stack(rows)
