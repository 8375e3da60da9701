"""A symmetric kernel as what eigensolvers take: a matrix, or products with it, of columns over samples and outputs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.tangents.capture.samples import tensor

# An operator up to this size is written out as a matrix: other estimates take as many products.
_WRITTEN_OUT = 128


class Operator(Protocol):
    """A kernel (n C, n C) that nobody holds, such as a `Jacobian`: it has `f` (n, C), or a `shape` that begins so."""

    def times(self, alpha: Tensor, /) -> Tensor:
        """K alpha, (n, C)."""


class Symmetric(NamedTuple):
    """A symmetric kernel, zero but for blocks on its diagonal; made by `read`.

    Attributes:
        axes: Its shape as given, or (n, C) of an operator.
        outputs: C; None for a kernel (n, n).
        blocks: How many.
        rows: Of a block.
        times: K v (blocks, rows, q), float64 as v is; taken in the kernel's own precision.
        like: A tensor of its dtype on its device.
        matrix: (blocks, rows, rows); None where there are products only.
    """

    axes: tuple[int, ...]
    outputs: int | None
    blocks: int
    rows: int
    times: Callable[[Tensor], Tensor]
    like: Tensor
    matrix: Tensor | None

    @property
    def size(self) -> int:
        """Rows in all."""
        return self.blocks * self.rows

    def columns(self, v: np.ndarray) -> Tensor:
        """Columns (size,) or (size, q) as `times` takes them, (blocks, rows, q)."""
        found = torch.from_numpy(np.ascontiguousarray(v, np.float64)).to(self.like.device)
        return found.reshape(self.blocks, self.rows, -1)

    def targets(self, y: Tensor) -> Tensor:
        """Labels (n,) or targets (n, C) as columns (blocks, rows, q), whose y y^T a kernel is compared with."""
        y = tensor("y", y)
        n, outputs, given = self.axes[0], self.outputs, tuple(y.shape)
        if y.dim() == 1 and len(y) == n and not y.is_floating_point():
            y = y.long()
            classes = int(y.max()) + 1 if outputs is None else outputs
            if y.min() < 0 or y.max() >= classes:
                raise SettingError(
                    f"`y` must hold labels from 0 to {classes - 1}; got {int(y.min())} to {int(y.max())}. "
                    "Number the classes from 0, or give targets in floating point."
                )
            y = torch.nn.functional.one_hot(y, classes).to(torch.float64) - 1 / classes
        y = y[:, None] if y.dim() == 1 else y
        if y.dim() != 2 or len(y) != n or outputs not in (None, y.shape[1]):
            raise SettingError(
                f"`y` must be ({n},) labels or ({n}, {outputs or 'C'}) targets; got {given}. "
                "Give those of the kernel's samples; labels are whole numbers."
            )
        y = y.detach().to(self.like.device, torch.float64)
        if not bool(torch.isfinite(y).all()) or not y.any():
            raise SettingError(
                "`y` must be finite and not constant; got numbers without a class to tell. Look at the labels."
            )
        if outputs is None:
            return y[None]
        return y.reshape(1, -1, 1) if self.blocks == 1 else y.T[..., None]

    def check(self, name: str, rng: np.random.Generator) -> None:
        """Raises where v . K u and u . K v differ for random u and v, or are no numbers, or zero."""
        both = self.columns(rng.standard_normal((self.size, 2)))
        (u, v), (by_u, by_v) = both.unbind(-1), self.times(both).unbind(-1)
        if not bool(torch.isfinite(by_u + by_v).all()):
            raise SettingError(
                f"`{name}` must be finite; got numbers that are not. Look at the weights and the inputs."
            )
        if not by_u.any():
            raise SettingError(f"`{name}` must not be zero; got zeros only. Look at whether outputs depend on weights.")
        # both are about as large as K's Frobenius norm
        if float((v * by_u - u * by_v).sum().abs()) > 1e-3 * float(by_u.norm()):
            raise SettingError(
                f"`{name}` must be symmetric; got one that is not. Take it of samples with themselves, as (n, n, C, C)."
            )


def read(name: str, kernel: Any) -> Symmetric:
    """A tensor (n, n, C, C), (n, n) or (n, n, C), or an `Operator`, as a symmetric kernel."""
    if isinstance(kernel, (Tensor, np.ndarray)):
        kernel = tensor(name, kernel)
        matrix = _blocks(name, kernel.detach())
        return _of_matrix(tuple(kernel.shape), kernel.shape[-1] if kernel.dim() > 2 else None, matrix, matrix)
    f = getattr(kernel, "f", None)
    axes = tuple(getattr(kernel, "shape", ()) if f is None else f.shape)[:2]
    if not callable(getattr(kernel, "times", None)) or len(axes) < 2:
        raise SettingTypeError(
            f"`{name}` must be a tensor, or an operator with times and f or shape; got {type(kernel).__name__}. "
            "Give a kernel, or a Jacobian."
        )
    like = torch.zeros((), dtype=torch.float64, device="cpu") if f is None else f.detach()

    def times(v: Tensor) -> Tensor:
        columns = [kernel.times(column.reshape(axes).to(like)).reshape(-1) for column in v[0].T]
        return torch.stack(columns, 1)[None].to(torch.float64)

    rows = math.prod(axes)
    if rows > _WRITTEN_OUT:
        return Symmetric(axes, axes[1], 1, rows, times, like, None)
    return _of_matrix(axes, axes[1], times(torch.eye(rows, dtype=torch.float64, device=like.device)[None]), like)


def _of_matrix(axes: tuple[int, ...], outputs: int | None, matrix: Tensor, like: Tensor) -> Symmetric:
    def times(v: Tensor) -> Tensor:
        return (matrix @ v.to(matrix)).to(torch.float64)

    return Symmetric(axes, outputs, len(matrix), matrix.shape[1], times, like, matrix)


def _blocks(name: str, kernel: Tensor) -> Tensor:
    """(n, n, C, C), (n, n) or (n, n, C) as (1, n C, n C), (1, n, n) or (C, n, n)."""
    shape = tuple(kernel.shape)
    if len(shape) not in (2, 3, 4) or shape[0] != shape[1] or shape[2:3] != shape[-1:] * (len(shape) > 2):
        raise SettingError(
            f"`{name}` must be (n, n, C, C), (n, n) or (n, n, C); got {shape}. Take it of samples with themselves."
        )
    if not kernel.is_floating_point() or not kernel.numel():
        raise SettingError(
            f"`{name}` must hold numbers in floating point; got {kernel.numel()} of {kernel.dtype}. Convert it."
        )
    if torch.finfo(kernel.dtype).bits < 32:
        kernel = kernel.float()  # products in half precision are not symmetric
    if len(shape) == 4:
        return kernel.transpose(1, 2).reshape(1, shape[0] * shape[2], -1)
    return kernel[None] if len(shape) == 2 else kernel.movedim(2, 0)
