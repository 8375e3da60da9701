"""Stiff linear and semi-linear flows: Chebyshev polynomials, whose steps no stiffness limits, and LSODA.

The work of every one is known or bounded before it begins: `stabilised_products` and `series_products` say how many
products with the kernel a plan takes, some multiple of the root of stiffness times time, and `check_reach` refuses.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.multiply_adds import repeated

# Products that one call may take: with a small kernel some minutes.
PRODUCTS = 1_000_000
# Times that `refined` halves its steps, and calls of the force in `adaptive`, which takes thousands at most where it
# ends at all, after which a tolerance is out of reach.
_HALVINGS = 14
_CALLS = 100_000
# How many Chebyshev coefficients the matrix of cosines gives, in up to 32 MiB; more are a fast cosine transform.
_BY_MATRIX = 2048


class Course(Protocol):
    """du/ds at the ends of steps, and one that may be cheaper within them."""

    def end(self, u: Tensor, now: float, /) -> Tensor:
        """du/ds at the end of a step; called once at every one, in their order, and at 0."""

    def within(self) -> Callable[[Tensor, float], Tensor]:
        """du/ds as a function of u and of the time since the last end."""


class _Alike:
    """A force that is the same everywhere."""

    def __init__(self, force: Callable[[Tensor], Tensor]) -> None:
        self.force = force

    def end(self, u: Tensor, _now: float) -> Tensor:
        return self.force(u)

    def within(self) -> Callable[[Tensor, float], Tensor]:
        return lambda u, _: self.force(u)


def check_reach(asked: str, products: Callable[[float], float], end: float, most: int) -> None:
    """Raises where a flow up to time `end` would take more than `most` products, and says how far it may go.

    Args:
        asked: What the user gave that the time comes from.
        products: Of the time; not falling.
        end: Time.
        most: Products.

    Raises:
        ValueError: It would.
    """
    if products(end) <= most:
        return
    low, high = -690.0, math.log(min(end, 1e300))
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if products(math.exp(middle)) <= most else (low, middle)
    digits = 10.0 ** (math.floor(low / math.log(10)) - 1)
    fits = math.floor(math.exp(low) / digits) * digits
    raise SettingError(
        f"{asked} must be at most {fits:.2g} with this kernel, so that a flow takes at most {most:,} products; "
        f"got {end:.4g}. Lower it, or scale the inputs down."
    )


def stabilised_products(stiffness: float, end: float, growth: float = 1.3) -> float:
    """How many calls of the force `stabilised` takes up to time `end`."""
    if not stiffness * end < 1e300:  # or the numbers of its steps overflow
        return math.inf
    return 1 + sum(_stage_count(h * stiffness) for h in _steps(stiffness, end, growth))


def series_products(radius: float, end: float, dtype: torch.dtype) -> float:
    """How many products `phi_series` takes at most up to time `end`."""
    z = radius * end
    return _degree(z, torch.finfo(dtype).eps) if math.isfinite(z) else math.inf


def stabilised(
    force: Callable[[Tensor], Tensor], start: Tensor, stiffness: float, s: Sequence[float], growth: float
) -> Tensor:
    """u at every time s (T, ...), where du/ds = force(u) and the Jacobian's eigenvalues lie in [-stiffness, 0].

    The Runge-Kutta-Chebyshev method of order two of Sommeijer, Shampine and Verwer (RKC: an explicit solver for
    parabolic PDEs, 1998), with steps fixed beforehand, so that the result depends on no neighbour in a batch; between
    their ends it is Hermite's cubic, so that more times cost nothing.
    """
    return _march(_Alike(force), start, stiffness, s, _steps(stiffness, s[-1], growth))


def trusted(
    force: Callable[[Tensor], Tensor] | Course,
    start: Tensor,
    stiffness: float,
    s: Sequence[float],
    growth: float,
    tolerance: float,
) -> Tensor:
    """`stabilised` of problems along the first axis where `stiffness` may be too small: NaN where that is seen.

    Of every step the method's own estimate of its error, 0.8 (u - u_next) + 0.4 h (slope + slope_next), must be within
    `tolerance` of u. An instability shows in it before it shows in u, for the slopes grow with it times the stiffness.
    The steps begin as short as with a threefold stiffness, which costs some ten products.
    """
    worst = start.new_zeros(len(start))

    def look(u: Tensor, slope: Tensor, end: Tensor, last: Tensor, h: float) -> None:
        nonlocal worst
        error = torch.add(u - end, slope + last, alpha=h / 2).flatten(1).norm(dim=1) * 0.8
        worst = torch.maximum(worst, error / end.flatten(1).norm(dim=1).clamp_min(torch.finfo(end.dtype).tiny))

    course = _Alike(force) if callable(force) else force
    found = _march(course, start, stiffness, s, _steps(3 * stiffness, s[-1], growth), look)
    fine: Tensor = worst <= tolerance
    return torch.where(fine.reshape(-1, *[1] * (start.dim() - 1)), found, torch.nan)


def refined(
    force: Callable[[Tensor], Tensor], start: Tensor, stiffness: float, s: Sequence[float], tolerance: float
) -> Tensor:
    """`stabilised` with ever shorter steps, until the estimated error is below `tolerance` of u at every time.

    Halved steps cost some 1.4 times as much where they are stiff. Richardson's extrapolation of two runs takes the
    leading error away, and twice its change from one pair of runs to the next bounds what is left: also where
    kinks in the force cost it its order.

    Raises:
        ValueError: A tolerance that some 16,000 times shorter steps, or a million products, do not reach; a force that
            is not finite.
    """
    # nested steps, each split as a geometric series, are what an expansion of the error in their length asks for
    growth = 1.3
    steps = _steps(stiffness, s[-1], growth)
    course = _Alike(force)
    coarse = _finite(_march(course, start, stiffness, s, steps))
    before, change, left = coarse, math.inf, PRODUCTS
    for _ in range(_HALVINGS):
        growth = math.sqrt(growth)
        steps = [part for h in steps for part in (h / (1 + growth), h * growth / (1 + growth))]
        left -= sum(_stage_count(h * stiffness) for h in steps)
        if left < 0:
            break
        fine = _march(course, start, stiffness, s, steps)
        best = fine + (fine - coarse) / 3
        change = _difference(best, before)
        # where numbers of stages differ between two runs, the extrapolated error falls but slowly
        if 2 * change <= tolerance:
            return best
        coarse, before = fine, best
    raise SettingError(
        f"`tolerance` must be within reach; got {tolerance:g}, and the error stays at {change:.1g}. Raise it."
    )


def adaptive(
    force: Callable[[Tensor], Tensor], start: Tensor, stiffness: float, s: Sequence[float], tolerance: float
) -> Tensor:
    """u at every time s (T, ...), where du/ds = force(u), by LSODA, which turns implicit where the flow is stiff.

    Of variable order, on the CPU (Hindmarsh and Petzold; scipy's): a tenth of the products of `refined` and less at a
    tight tolerance, but for matrices of start.numel()^2 numbers, which it holds and factorises where the flow is stiff.

    Args:
        force: Of a tensor like start; `torch.func.jacrev` must take it.
        start: u at 0, float64.
        stiffness: Of the Jacobian's eigenvalues the largest size: 1 / stiffness is the time of the first change.
        s: Increasing positive times.
        tolerance: Of u, relative.

    Raises:
        ValueError: A tolerance that 100,000 calls of the force do not reach; a force that is not finite.
    """
    from scipy.integrate import solve_ivp  # takes long to import

    calls, last = 0, start

    def read(u: np.ndarray) -> Tensor:
        return torch.from_numpy(u.copy()).to(start.device).reshape(start.shape)

    def slope(_: float, u: np.ndarray) -> np.ndarray:
        nonlocal calls, last
        calls += 1
        if calls > _CALLS:
            raise SettingError(f"`tolerance` must be within reach; got {tolerance:g}, and LSODA did not end. Raise it.")
        last = force(read(u))
        return last.reshape(-1).cpu().numpy()

    def jacobian(_: float, u: np.ndarray) -> np.ndarray:
        found: Tensor = torch.func.jacrev(force)(read(u))
        return found.reshape(len(u), len(u)).cpu().numpy()

    first = float(force(start).abs().max())
    if first == 0:
        return torch.stack([start] * len(s))
    # the error of a step, of which there are hundreds; absolute where a component is small against the first change
    relative = max(tolerance / 100, 1e-13)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lsoda", UserWarning)  # it says by `success` what its warning says
        found = solve_ivp(
            slope,
            (0.0, s[-1]),
            start.reshape(-1).cpu().numpy(),
            method="LSODA",
            t_eval=s,
            jac=jacobian,
            rtol=relative,
            atol=relative * first * min(s[0], 1 / stiffness),
        )
    if not found.success:
        _finite(last)
        raise SettingError(f"`tolerance` must be within reach; got {tolerance:g}, and LSODA: {found.message} Raise it.")
    return _finite(torch.from_numpy(found.y.T.copy()).to(start.device).reshape(len(s), *start.shape))


def _march(
    course: Course,
    start: Tensor,
    stiffness: float,
    s: Sequence[float],
    steps: Sequence[float],
    look: Callable[[Tensor, Tensor, Tensor, Tensor, float], None] | None = None,
) -> Tensor:
    found: list[Tensor] = []
    u, slope, now = start, course.end(start, 0.0), 0.0
    for h in steps:
        end = _step(course.within(), u, slope, h, _stage_count(h * stiffness))
        last = course.end(end, now + h)
        if look is not None:
            look(u, slope, end, last, h)
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
    for row in repeated(coefficients[2:]):
        before, last = last, 2 * scaled(last) - before
        found = [total + float(c) * last if c else total for total, c in zip(found, row, strict=True)]
    return torch.stack(found)


def _finite(u: Tensor) -> Tensor:
    if not bool(torch.isfinite(u).all()):
        raise SettingError(
            "`loss` must stay finite; got a derivative that is not. Look at the loss far from its minimum."
        )
    return u


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest of |a - b| / |a| at any time."""
    length = a.flatten(1).norm(dim=1).clamp(min=1e-300)
    return float(((a - b).flatten(1).norm(dim=1) / length).max())


def _steps(stiffness: float, end: float, growth: float) -> list[float]:
    """The lengths of the steps: short against 1 / stiffness at first, each `growth` times the one before."""
    first = 2 * math.log(growth) / stiffness
    count = max(1, math.ceil(math.log1p(end / first * (growth - 1)) / math.log(growth)))
    scale = end * (growth - 1) / (growth**count - 1)
    return [scale * growth**i for i in range(count)]


def _stage_count(stiffness: float) -> int:
    """How many stages a step of this stiffness takes: 0.653 (stages^2 - 1) is how much they bear."""
    return max(2, math.ceil(math.sqrt(1 + 1.54 * stiffness)))


def _step(force: Callable[[Tensor, float], Tensor], u: Tensor, slope: Tensor, h: float, stages: int) -> Tensor:
    before, last = u, torch.add(u, slope, alpha=_first_stage(stages) * h)
    for keep, by_last, by_before, by_force, by_slope, time in repeated(_stages(stages)):
        new = force(last, time * h) * (h * by_force)
        new.add_(u, alpha=keep).add_(last, alpha=by_last).add_(before, alpha=by_before).add_(slope, alpha=h * by_slope)
        before, last = last, new
    return last


@lru_cache(maxsize=1024)
def _first_stage(stages: int) -> float:
    _, w1, b, _ = _polynomial(stages)
    return b[1] * w1


@lru_cache(maxsize=1024)
def _stages(stages: int) -> list[tuple[float, float, float, float, float, float]]:
    """1 - mu - nu, mu, nu, mu~ and gamma~ of stages 2, 3, ... in the recurrence of Sommeijer, Shampine and Verwer.

    And as a part of the step the time of the stage before, at which the force is taken: what du/ds = 1 gives.
    """
    w0, w1, b, a = _polynomial(stages)
    before, last, found = 0.0, b[1] * w1, []
    for j in range(2, stages + 1):
        mu, nu, mu_force = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * w1 / b[j - 1]
        found.append((1 - mu - nu, mu, nu, mu_force, -a[j - 1] * mu_force, last))
        before, last = last, mu * last + nu * before + mu_force * (1 - a[j - 1])
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


def _degree(z: float, eps: float) -> int:
    """Of a Chebyshev series of phi on [0, z], up to a rounding of eps."""
    return 16 + math.ceil(math.sqrt(2.5 * z * -math.log(eps)))


@lru_cache(maxsize=64)
def _coefficients(radius: float, s: tuple[float, ...], eps: float) -> np.ndarray:
    """Chebyshev coefficients (degree + 1, T) of s phi(-s x) on [0, radius], cut where they no longer count."""
    degree = _degree(s[-1] * radius, eps)
    x = radius * (np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)) + 1) / 2
    values = np.stack([-np.expm1(-t * x) / x for t in s], 1)
    if degree < _BY_MATRIX:
        angles = np.pi * np.outer(np.arange(degree + 1), np.arange(degree + 1) + 0.5) / (degree + 1)
        coefficients = 2 / (degree + 1) * np.cos(angles) @ values
    else:
        from scipy.fft import dct

        coefficients = dct(values, axis=0) / (degree + 1)
    coefficients[0] /= 2
    needed = np.flatnonzero((np.abs(coefficients) > eps / 8 * np.abs(values).max(0)).any(1))[-1]
    return np.where(np.abs(coefficients) > eps / 64 * np.abs(values).max(0), coefficients, 0)[: max(needed, 1) + 1]
