"""Training under the squared loss, mode by mode: every eigenvector of the kernel has a scalar course in closed form.

Along an eigenvector alpha starts at 0, and the force on it falls as it grows, force = force_0 - rate alpha; its gain is
alpha per unit of force_0 (Jacot, Gabriel, Hongler, Neural tangent kernel, 2018, section 5).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedtangent.errors import SettingError


class Modes(NamedTuple):
    """The eigenvalues (blocks, rows), none negative, and eigenvectors (blocks, rows, rows) of a kernel, by column."""

    values: Tensor
    vectors: Tensor

    def combined(self, gain: Tensor, force: Tensor) -> Tensor:
        """V diag(gain) V^T force, (T, blocks, rows, q), for gain (T, blocks, rows) and force (blocks, rows, q)."""
        parts = gain[..., None] * (self.vectors.mT @ force)
        side_by_side = parts.permute(1, 2, 0, 3)  # one product for all T
        return (self.vectors @ side_by_side.flatten(2)).reshape(side_by_side.shape).permute(2, 0, 1, 3)


def modes(matrix: Tensor) -> Modes:
    """Of a symmetric matrix of blocks (blocks, rows, rows); values as small as rounding count as zero.

    Raises:
        ValueError: A matrix with an eigenvalue that is clearly negative.
    """
    values, vectors = torch.linalg.eigh(matrix)
    if values.min() < -1e-3 * values.max():
        raise SettingError(
            "`kernel` must be positive semi-definite; "
            f"got eigenvalues from {float(values.min()):.2g} to {float(values.max()):.2g}. Give J J^T itself."
        )
    rounding = torch.finfo(matrix.dtype).eps * matrix.shape[-1] * values.max()
    return Modes(torch.where(values > rounding, values, 0), vectors)


def flow_gain(rate: Tensor, s: Sequence[float], cut: float) -> Tensor:
    """(1 - exp(-rate s)) / rate (T, blocks, rows): s where the rate is zero, and at s = inf the pseudo-inverse."""
    rows = []
    for time in s:
        if math.isinf(time):
            rows.append(torch.where(rate > cut * rate.max(), 1 / rate, 0))
        else:
            x = rate * time
            rows.append(time * torch.where(x > 0, -torch.expm1(-x) / x, 1))
    return torch.stack(rows)


def descent_gain(rate: Tensor, times: Sequence[float], lr: float, momentum: float) -> Tensor:
    """alpha per unit of force at the start after every number of steps, (T, blocks, rows), by powers of two of a step.

    With x = (alpha, lr v) a step is x + E x + (lr, lr). What is squared is E, not 1 + E, in which slow modes would lose
    their digits.
    """
    step = lr * rate
    e = torch.stack([-step, torch.full_like(step, momentum), -step, torch.full_like(step, momentum - 1)], -1)
    e = e.reshape(*step.shape, 2, 2)
    q = torch.full((*step.shape, 2, 1), lr, dtype=step.dtype, device=step.device)
    x = q.new_zeros(len(times), *q.shape)
    for bit in range(int(times[-1]).bit_length()):
        for row, time in zip(x, times, strict=True):
            if int(time) >> bit & 1:
                row += e @ row + q
        q = 2 * q + e @ q
        e = 2 * e + e @ e
    return x[..., 0, 0]
