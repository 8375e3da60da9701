"""Chebyshev polynomials in the service of stiff linear and semi-linear flows: no step is limited by the stiffness."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def stabilised(
    force: Callable[[Tensor], Tensor], start: Tensor, stiffness: float, s: Sequence[float], growth: float
) -> Tensor:
    """u at every time s (T, ...), where du/ds = force(u) and the Jacobian's eigenvalues lie in [-stiffness, 0].

    The Runge-Kutta-Chebyshev method of order two of Sommeijer, Shampine and Verwer (RKC: an explicit solver for
    parabolic PDEs, 1998), with steps fixed beforehand, so that the result depends on no neighbour in a batch; between
    their ends it is Hermite's cubic, so that more times cost nothing.
    """
    found: list[Tensor] = []
    u, slope, now = start, force(start), 0.0
    for h in _steps(stiffness, s[-1], growth):
        # 0.653 (stages^2 - 1) is how much stiffness a step takes
        end = _step(force, u, slope, h, max(2, math.ceil(math.sqrt(1 + 1.54 * h * stiffness))))
        last = force(end)
        for time in s[len(found) :]:
            x = (time - now) / h
            if x > 1 + 1e-9:
                break
            found.append(
                (1 + 2 * x) * (1 - x) ** 2 * u
                + x * (1 - x) ** 2 * h * slope
                + x**2 * (3 - 2 * x) * end
                - x**2 * (1 - x) * h * last
            )
        u, slope, now = end, last, now + h
    return torch.stack(found)


def phi_series(times: Callable[[Tensor], Tensor], b: Tensor, radius: float, s: Sequence[float]) -> Tensor:
    """s phi(-s A) b at every time s (T, ...), with phi(z) = (exp(z) - 1) / z: u of du/ds = b - A u from u = 0, exactly.

    A has its eigenvalues in [0, radius]. The Chebyshev series reaches rounding after some sqrt(30 s radius) products.
    """
    coefficients = _coefficients(radius, tuple(s), float(torch.finfo(b.dtype).eps))

    def scaled(v: Tensor) -> Tensor:
        return times(v) * (2 / radius) - v

    before, last = b, scaled(b)
    found = [c[0] * before + c[1] * last for c in coefficients.T]
    for row in coefficients[2:]:
        before, last = last, 2 * scaled(last) - before
        found = [total + float(c) * last if c else total for total, c in zip(found, row, strict=True)]
    return torch.stack(found)


def _steps(stiffness: float, end: float, growth: float) -> list[float]:
    """The lengths of the steps: short against 1 / stiffness at first, each `growth` times the one before."""
    first = 2 * math.log(growth) / stiffness
    count = max(1, math.ceil(math.log1p(end / first * (growth - 1)) / math.log(growth)))
    scale = end * (growth - 1) / (growth**count - 1)
    return [scale * growth**i for i in range(count)]


def _step(force: Callable[[Tensor], Tensor], u: Tensor, slope: Tensor, h: float, stages: int) -> Tensor:
    before, last = u, torch.add(u, slope, alpha=_first_stage(stages) * h)
    for keep, by_last, by_before, by_force, by_slope in _stages(stages):
        new = force(last) * (h * by_force)
        new.add_(u, alpha=keep).add_(last, alpha=by_last).add_(before, alpha=by_before).add_(slope, alpha=h * by_slope)
        before, last = last, new
    return last


@lru_cache(maxsize=1024)
def _first_stage(stages: int) -> float:
    _, w1, b, _ = _polynomial(stages)
    return b[1] * w1


@lru_cache(maxsize=1024)
def _stages(stages: int) -> list[tuple[float, float, float, float, float]]:
    """1 - mu - nu, mu, nu, mu~ and gamma~ of stages 2, 3, ... in the recurrence of Sommeijer, Shampine and Verwer."""
    w0, w1, b, a = _polynomial(stages)
    found = []
    for j in range(2, stages + 1):
        mu, nu, mu_force = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * w1 / b[j - 1]
        found.append((1 - mu - nu, mu, nu, mu_force, -a[j - 1] * mu_force))
    return found


def _polynomial(stages: int) -> tuple[float, float, list[float], list[float]]:
    """w0, w1, b_j and a_j from the Chebyshev polynomials and their derivatives at w0, damped by 2/13."""
    w0 = 1 + 2 / 13 / stages**2
    t, dt, ddt = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, stages + 1):
        t.append(2 * w0 * t[j - 1] - t[j - 2])
        dt.append(2 * t[j - 1] + 2 * w0 * dt[j - 1] - dt[j - 2])
        ddt.append(4 * dt[j - 1] + 2 * w0 * ddt[j - 1] - ddt[j - 2])
    b = [ddt[max(j, 2)] / dt[max(j, 2)] ** 2 for j in range(stages + 1)]
    return w0, dt[stages] / ddt[stages], b, [1 - b[j] * t[j] for j in range(stages + 1)]


@lru_cache(maxsize=64)
def _coefficients(radius: float, s: tuple[float, ...], eps: float) -> np.ndarray:
    """Chebyshev coefficients (degree + 1, T) of s phi(-s x) on [0, radius], cut where they no longer count."""
    degree = 16 + math.ceil(math.sqrt(2.5 * s[-1] * radius * -math.log(eps)))
    x = radius * (np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)) + 1) / 2
    values = np.stack([-np.expm1(-t * x) / x for t in s], 1)
    angles = np.pi * np.outer(np.arange(degree + 1), np.arange(degree + 1) + 0.5) / (degree + 1)
    coefficients = 2 / (degree + 1) * np.cos(angles) @ values
    coefficients[0] /= 2
    needed = np.flatnonzero((np.abs(coefficients) > eps / 8 * np.abs(values).max(0)).any(1))[-1]
    return np.where(np.abs(coefficients) > eps / 64 * np.abs(values).max(0), coefficients, 0)[: max(needed, 1) + 1]
