"""Training in the tangent space: the dual state alpha (n, C), the outputs and the weights at any times.

w_t = w_0 - J^T alpha_t and f_t = f_0 - K alpha_t (Lee et al., Wide neural networks of any depth evolve as linear models
under gradient descent, 2019, in function space); L is the mean over samples of the loss.

    flow       d alpha / ds = dL/df at f_0 - K alpha, from 0 to s = lr t
    descent    v <- momentum v + dL/df,  alpha <- alpha + lr v: t steps of heavy ball on the linearised network
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.dual import check_fits, predicted, weights
from fedtangent.tangents.evolve_input import check_data, check_settings, steps, symmetric
from fedtangent.tangents.jacobian import Jacobian
from fedtangent.tangents.numerics.integrate import (
    PRODUCTS,
    adaptive,
    check_reach,
    phi_series,
    refined,
    series_products,
    stabilised_products,
)
from fedtangent.tangents.numerics.modes import Modes, descent_gain, flow_gain, modes
from fedtangent.tangents.numerics.symmetric import Operator
from fedtangent.tangents.spectrum import largest_eigenvalue
from fedtangent.training import losses
from fedtangent.training.losses import Loss

# Numbers in alpha up to which LSODA may factorise matrices of that many rows: 128 MiB each.
_FACTORISED = 4096
# A tolerance below which an operator of that size is better written out, in as many products.
_TIGHT = 1e-6
# Products that bound the largest eigenvalue where no eigendecomposition is needed.
_LANCZOS = 30
_TIME = "`lr` times the last `t`"


@dataclass(frozen=True)
class Evolution:
    """Training in the tangent space at T times; made by `evolve`.

    Attributes:
        t: The times, in steps.
        alpha: The dual state, (T, n, C): w_t = w_0 - J^T alpha.
        f: f_0 - K alpha, (T, n, C). With the full kernel, the linearised network's outputs at w_t; with the trace
            kernel it steers the residuals and is not.
        stable_step: The largest lr for which descent with this momentum cannot grow; NaN where the loss states no
            curvature.
    """

    t: tuple[float, ...]
    alpha: Tensor
    f: Tensor
    stable_step: float

    @without_autocast()
    def predict(self, kernel_test_train: Tensor, f_0_test: Tensor) -> Tensor:
        """Outputs on test points f*_0 - K* alpha, (T, n*, C).

        With the full K* they are the linearised network's at w_t, whichever kernel alpha came from.

        Args:
            kernel_test_train: K* between test and training points, (n*, n, C, C) full, (n*, n) trace or (n*, n, C)
                diagonal.
            f_0_test: The network's outputs on the test points at the start, (n*, C).

        Raises:
            ValueError: Shapes that do not fit.
        """
        return predicted(self.alpha, kernel_test_train, f_0_test)

    @without_autocast()
    def weights(self, jacobian: Jacobian) -> Weights:
        """w_t = w_0 - J^T alpha_t: a tree like w_0 with a leading axis T. A product with J^T a time.

        Args:
            jacobian: J on the training points, at w_0.

        Raises:
            ValueError: A Jacobian of other shape than alpha.
        """
        return weights(self.alpha, jacobian)

    @without_autocast()
    def outputs(self, train: Jacobian, test: Jacobian) -> Tensor:
        """f*_0 - J* J^T alpha, (T, n*, C): what `predict` gives with the full kernel, without one.

        Args:
            train: J on the training points, at w_0.
            test: J* on the test points, at the same w_0.

        Raises:
            ValueError: A Jacobian of other shape than alpha; two of different weights.
        """
        check_fits("train", train, self.alpha)
        same = train.w.keys() == test.w.keys()
        if not same or not all(torch.equal(part, test.w[name]) for name, part in train.w.items()):
            raise SettingError(
                "`test` must be taken at the weights of train; got others. Use one w for both Jacobians."
            )
        return torch.stack([test.f - test.jvp(train.vjp(alpha.to(train.f))) for alpha in self.alpha])


@without_autocast()
def evolve(
    kernel: Tensor | Operator,
    f_0: Tensor,
    y: Tensor,
    t: float | Sequence[float],
    *,
    loss: Loss = losses.squared,
    clock: Literal["flow", "descent"] = "flow",
    lr: float = 1.0,
    momentum: float = 0.0,
    tolerance: float = 1e-8,
) -> Evolution:
    """The dual state and the outputs after t steps of length lr of training in the tangent space, at T times at once.

    The squared loss in closed form, whatever the time: a matrix by one eigendecomposition, 9 rows^3 operations in
    float64, where a zero eigenvalue does no harm; the flow of an operator by a Chebyshev series, some sqrt(30 z)
    products, z = curvature lambda_max lr t / n. Other losses flow to `tolerance`: up to 4096 numbers n C by LSODA, in
    some 100 to 3,000 products with a matrix, for which an operator is first written out in n C products; beyond that,
    and an operator to 1e-6 or coarser, by a stabilised method: z = 500 in some 300 products to 1e-3, 2,000 to 1e-6 and
    45,000 to 1e-8, ten times as many for 100 z at coarse tolerances. Descent of an operator, or under another loss,
    takes t products.

    The trace kernel acts as K on every output alike; f then steers the residuals and is not the linearised output of
    w_t, and training does not minimise the linearised network's loss.

    Args:
        kernel: J J^T on the training points at the start: (n, n, C, C) full, (n, n) trace or (n, n, C) diagonal, or an
            operator with times(alpha), such as a `Jacobian`; one of up to 128 numbers n C is written out. Products
            are taken in its own precision, which bounds the accuracy.
        f_0: The network's outputs on them at the start, (n, C).
        y: Labels (n,) or targets (n, C).
        t: Numbers of steps, one or several, increasing; whole for descent. math.inf for the flow of the squared loss:
            the pseudo-inverse, the least change that fits best; an operator should then be conditioned below some 1e6.
        loss: The mean over samples is what falls; the squared one is (f - y)^2 / (2 C).
        clock: `flow` is gradient flow, as if lr went to zero at a constant lr t; `descent` is gradient descent.
        lr: Length of a step.
        momentum: Of heavy ball, for descent.
        tolerance: Relative error of alpha at every time, where it is not closed form.

    Raises:
        TypeError: A kernel that is neither a tensor nor an operator; a loss that is no Loss.
        ValueError: Shapes that do not fit; a kernel that is zero or not symmetric; values that are not finite; times
            that do not increase; lr above the stable step in descent; a loss without curvature in a flow; a tolerance
            out of reach; more than 1,000,000 products with the kernel.

    Example:
        >>> kernel, f_0, y = torch.tensor([[2.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])
        >>> one = evolve(kernel, f_0, y, [1, 2], clock="descent", lr=0.25)
        >>> one.f.flatten().tolist(), one.stable_step
        ([0.5, 0.75], 1.0)
    """
    check_settings(loss, clock, lr, momentum, tolerance)
    f_0, y = tensor("f_0", f_0), tensor("y", y)
    times = steps(t, loss, clock)
    with torch.no_grad():
        problem = _problem(kernel, f_0, y, loss)
        own = modes(problem.matrix) if loss is losses.squared and problem.matrix is not None else None
        largest = _largest(problem) if own is None else float(own.values.max())
        if not largest > 0:
            raise SettingError("`kernel` must be positive semi-definite; got no eigenvalue above 0. Give J J^T itself.")
        stable = _stable_step(problem, largest, momentum)
        if clock == "descent" and lr > stable:
            raise SettingError(
                f"`lr` must not be above the largest stable step, {stable:.6g}; got {lr}. Lower it, or use a flow."
            )
        late = [time for time in times if time > 0]
        s = [lr * time for time in late]
        if not late:
            alpha = f = problem.f_0[:0].reshape(0, *f_0.shape)
        elif own is not None:
            rate = own.values / f_0.numel()
            gain = (
                flow_gain(rate, s, f_0.numel() * problem.eps)
                if clock == "flow"
                else descent_gain(rate, late, lr, momentum)
            )
            alpha, f = _closed_form(problem, own, gain)
        else:
            if clock == "descent":
                if late[-1] > PRODUCTS:
                    raise SettingError(
                        f"`t` must be at most {PRODUCTS:,} for this descent, a product with the kernel each; got "
                        f"{late[-1]:g}. Take fewer steps, or a flow, or the squared loss with a matrix."
                    )
                alpha = _descent(problem, late, lr, momentum)
            elif loss is losses.squared:
                alpha = _squared_flow(problem, largest, s, tolerance)
            else:
                alpha = _flow(problem, largest, s, tolerance)
            f = torch.stack([problem.f_0 - problem.times(part) for part in alpha])
        if len(late) < len(times):
            alpha, f = torch.cat([torch.zeros_like(f_0)[None], alpha]), torch.cat([problem.f_0[None], f])
        return Evolution(tuple(times), alpha.to(f_0), f.to(f_0), stable)


class _Problem(NamedTuple):
    """What evolves, in float64.

    Attributes:
        loss: Of f and y.
        f_0: (n, C).
        y: As `loss.residual` takes it fastest.
        times: K alpha, (n, C).
        matrix: The kernel (blocks, rows, rows), zero but for its blocks; None of an operator.
        eps: Of the precision in which the kernel and its products are.
    """

    loss: Loss
    f_0: Tensor
    y: Tensor
    times: Callable[[Tensor], Tensor]
    matrix: Tensor | None
    eps: float

    def force(self, alpha: Tensor) -> Tensor:
        """dL/df at f_0 - K alpha, (n, C)."""
        return self.loss.residual(self.f_0 - self.times(alpha), self.y) / len(self.f_0)


def _problem(kernel: Tensor | Operator, f_0: Tensor, y: Tensor, loss: Loss) -> _Problem:
    check_data(f_0, y, loss)
    own = symmetric(kernel, f_0)
    double = f_0.to(torch.float64)
    y = loss.prepared(double, y.to(torch.float64) if y.is_floating_point() else y)
    eps = max(torch.finfo(own.like.dtype).eps, torch.finfo(f_0.dtype).eps)
    if own.matrix is None:
        return _Problem(loss, double, y, lambda alpha: own.times(alpha.reshape(1, -1, 1)).reshape(f_0.shape), None, eps)
    matrix = own.matrix.to(torch.float64)
    return _Problem(loss, double, y, lambda alpha: _unfold(matrix @ _fold(alpha, matrix), alpha.shape), matrix, eps)


def _fold(alpha: Tensor, matrix: Tensor) -> Tensor:
    """(n, C) as the columns (blocks, rows, q) that the kernel's blocks multiply."""
    return alpha.reshape(1, matrix.shape[1], -1) if len(matrix) == 1 else alpha.mT[..., None]


def _unfold(columns: Tensor, shape: Sequence[int]) -> Tensor:
    """(..., blocks, rows, q) as (..., n, C)."""
    lead = columns.shape[:-3]
    return columns.reshape(*lead, *shape) if columns.shape[-3] == 1 else columns[..., 0].mT


def _largest(problem: _Problem) -> float:
    real = torch.ones(len(problem.f_0), dtype=torch.bool, device=problem.f_0.device)
    return float(largest_eigenvalue(problem.times, problem.f_0, real, _LANCZOS))


def _stable_step(problem: _Problem, largest: float, momentum: float) -> float:
    if problem.loss.curvature is None:
        return math.nan
    n, outputs = problem.f_0.shape
    return 2 * (1 + momentum) * n / (problem.loss.curvature(outputs) * largest)


def _closed_form(problem: _Problem, own: Modes, gain: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and f, (T, n, C)."""
    force = _fold(problem.force(torch.zeros_like(problem.f_0)), own.vectors)
    alpha, change = (_unfold(own.combined(each, force), problem.f_0.shape) for each in (gain, gain * own.values))
    return alpha, problem.f_0 - change


def _descent(problem: _Problem, times: Sequence[float], lr: float, momentum: float) -> Tensor:
    alpha, v, now, found = torch.zeros_like(problem.f_0), torch.zeros_like(problem.f_0), 0, []
    for time in times:
        for _ in range(int(time) - now):
            v = momentum * v + problem.force(alpha)
            alpha = alpha + lr * v
        if not bool(torch.isfinite(alpha).all()):
            raise SettingError(
                f"`lr` must keep descent finite; got {lr}, and it overflowed by step {time:g}. Lower it."
            )
        now = int(time)
        found.append(alpha)
    return torch.stack(found)


def _squared_flow(problem: _Problem, largest: float, s: Sequence[float], tolerance: float) -> Tensor:
    """The flow of an operator under the squared loss: d alpha / ds = (f_0 - y - K alpha) / (n C)."""
    size, f_0 = problem.f_0.numel(), problem.f_0
    b = problem.force(torch.zeros_like(f_0))
    finite = [time for time in s if not math.isinf(time)]
    # the bound may fall short by its last digits, and a Chebyshev series grows fast outside of its interval
    radius = 1.01 * largest / size
    if finite:
        check_reach(_TIME, lambda end: series_products(radius, end, b.dtype), finite[-1], PRODUCTS)
    found = [phi_series(lambda alpha: problem.times(alpha) / size, b, radius, finite)] if finite else []
    if len(finite) < len(s):
        found.append(_pseudo_inverse(problem, size * b, tolerance)[None])
    return torch.cat(found)


def _pseudo_inverse(problem: _Problem, r: Tensor, tolerance: float) -> Tensor:
    """K^+ r by conjugate gradients: first the part of r that K reaches, z of K z = K r, then K alpha = z.

    Both have a solution where K is singular, and stay orthogonal to what it does not see.
    """
    from scipy.sparse.linalg import LinearOperator, cg  # takes long to import

    def times(alpha: np.ndarray) -> np.ndarray:
        return problem.times(torch.from_numpy(alpha.copy()).to(r).reshape(r.shape)).reshape(-1).cpu().numpy()

    system = LinearOperator((r.numel(), r.numel()), matvec=times, dtype=np.float64)
    alpha = r.reshape(-1).cpu().numpy()
    for right in (times, np.copy):
        alpha, failed = cg(system, right(alpha), rtol=max(tolerance / 100, problem.eps))
        if failed:
            raise SettingError(
                f"`tolerance` must be within reach; got {tolerance:g}, and conjugate gradients did not end. "
                "Raise it, or use a finite t."
            )
    return torch.from_numpy(alpha).to(r).reshape(r.shape)


def _flow(problem: _Problem, largest: float, s: Sequence[float], tolerance: float) -> Tensor:
    assert problem.loss.curvature is not None
    n, outputs = problem.f_0.shape
    stiffness = problem.loss.curvature(outputs) * largest / n
    start = torch.zeros_like(problem.f_0)
    if math.isinf(s[-1]):
        raise SettingError(f"{_TIME} must be finite; got {s[-1]}. Lower one of them.")
    if start.numel() <= _FACTORISED and (problem.matrix is not None or tolerance < _TIGHT):
        return adaptive(_written_out(problem).force, start, stiffness, s, tolerance)
    check_reach(_TIME, lambda end: stabilised_products(stiffness, end), s[-1], PRODUCTS)
    return refined(problem.force, start, stiffness, s, max(tolerance, 100 * problem.eps))


def _written_out(problem: _Problem) -> _Problem:
    """The same with the matrix of an operator, in as many products as it has rows."""
    if problem.matrix is not None:
        return problem
    size, shape = problem.f_0.numel(), problem.f_0.shape
    matrix = problem.f_0.new_zeros(size, size)
    for i in range(size):
        one = problem.f_0.new_zeros(size)
        one[i] = 1
        matrix[i] = problem.times(one.reshape(shape)).reshape(-1)
    return problem._replace(times=lambda alpha: (matrix @ alpha.reshape(-1, 1)).reshape(alpha.shape))
