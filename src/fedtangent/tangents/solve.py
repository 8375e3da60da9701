"""(K + ridge)^-1 b by products with K alone: where a kernel does not fit in memory, or nobody has formed it."""

import math
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.numerics.conjugate_gradients import conjugate_gradients, nystroem
from fedtangent.tangents.numerics.symmetric import Operator, read
from fedtangent.tangents.single import check_number, check_seed, check_whole

# Numbers of a kernel at a time, of one that may lie on disk.
_CHUNK = 2**22


class Solution(NamedTuple):
    """What `solve` found.

    Attributes:
        alpha: (n, C).
        residual: |b - (K + ridge) alpha| / |b|, of the output where it is largest.
        products: With K, those of the preconditioner too, and one that measures the residual.
    """

    alpha: Tensor
    residual: float
    products: int


class _System(NamedTuple):
    """K as columns see it: times (blocks, rows, q), float64, and how b (n, C) becomes columns."""

    blocks: int
    rows: int
    times: Callable[[Tensor], Tensor]
    dtype: torch.dtype

    def fold(self, b: Tensor) -> Tensor:
        """(n, C) as columns."""
        return b.reshape(1, self.rows, -1) if self.blocks == 1 else b.mT[..., None]

    def unfold(self, columns: Tensor, shape: Any) -> Tensor:
        """Columns as (n, C)."""
        return columns.reshape(shape) if self.blocks == 1 else columns[..., 0].mT


@without_autocast()
def solve(
    kernel: Tensor | Operator,
    b: Tensor,
    ridge: float,
    *,
    rank: int = 0,
    tolerance: float = 1e-4,
    products: int = 1000,
    seed: int = 0,
) -> Solution:
    """alpha of (K + ridge) alpha = b by preconditioned conjugate gradients; nothing of the size of K is formed.

    Some sqrt(condition) log(2 / tolerance) / 2 products, with condition = (lambda_1 + ridge) / ridge; a preconditioner
    of some rank, as many products before, leaves (lambda_rank + ridge) / ridge (Frangella, Tropp, Udell, Randomized
    Nyström preconditioning, 2023). For kernel ridge regression and the mean of `posterior`: with b = f_0 - y and
    ridge = noise / prior, the outputs are f*_0 - K* alpha and the weights w_0 - J^T alpha.

    Args:
        kernel: K: a `Jacobian`, with which a product is a pass forward and one back over the samples; or (n, n, C, C)
            full, (n, n) trace or (n, n, C) diagonal, of which some rows at a time are read, as those that
            `kernel(..., out=)` has left on disk, in float64. An operator's own precision bounds the accuracy.
        b: (n, C).
        ridge: Above 0.
        rank: Of the preconditioner, 0 for none: some 10 to 500, in memory as float64 columns.
        tolerance: Relative, of the residual; it is measured at the end, and may then be twice as large.
        products: At most so many after the preconditioner's.
        seed: Of the preconditioner's random columns.

    Raises:
        TypeError: A kernel that is neither a tensor nor an operator.
        ValueError: Shapes that do not fit, or values that are not finite; a ridge that is not positive; a tolerance
            that is not reached.

    Example:
        >>> found = solve(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0], [0.0]]), ridge=1.0)
        >>> [round(x, 6) for x in found.alpha.flatten().tolist()], found.products
        ([0.375, -0.125], 3)
    """
    check_seed(seed)
    check_whole("products", products)
    b = tensor("b", b).detach()
    if b.dim() != 2 or not b.is_floating_point() or not b.numel() or not bool(torch.isfinite(b).all()):
        raise SettingError(f"`b` must be (n, C), finite and in floating point; got {tuple(b.shape)}. Look at it.")
    for name, value, low, high in (("ridge", ridge, 0, math.inf), ("tolerance", tolerance, 0, 1)):
        check_number(name, value)
        if not low < value < high:
            raise SettingError(f"`{name}` must be above {low} and below {high}; got {value}. Give such as 1e-3.")
    with torch.no_grad():
        system = _system(kernel, b)
        if not isinstance(rank, Integral) or not 0 <= rank < system.rows:
            raise SettingError(f"`rank` must be a whole number from 0 to {system.rows - 1}; got {rank}. Lower it.")
        right = system.fold(b.to(torch.float64))

        def times(v: Tensor) -> Tensor:
            return system.times(v) + ridge * v

        settings: dict[str, Any] = {}
        if rank:
            draws = np.random.default_rng(seed).standard_normal((system.blocks, system.rows, rank))
            probes = torch.from_numpy(draws).to(right.device)
            settings["precondition"] = nystroem(system.times, probes, ridge, torch.finfo(system.dtype).eps).solve
        found = conjugate_gradients(times, right, tolerance, products, **settings)
        # the recurrence goes on below what products in single precision can reach
        off = torch.linalg.vector_norm(right - times(found.x), dim=1) / torch.linalg.vector_norm(right, dim=1)
        residual = float(torch.nan_to_num(off, nan=0.0 if bool(torch.isfinite(found.x).all()) else math.inf).max())
    if not residual <= 2 * tolerance:
        raise SettingError(
            f"`tolerance` must be within reach; got {tolerance:g}, and a residual of {residual:.2g} after "
            f"{found.products} products. Raise `rank`, `ridge` or `products`, or take the kernel in float64."
        )
    return Solution(system.unfold(found.x, b.shape).to(b), residual, found.products + rank + 1)


def _system(kernel: Tensor | Operator, b: Tensor) -> _System:
    """K, checked against b."""
    n, outputs = b.shape
    if not isinstance(kernel, (Tensor, np.ndarray)):
        own = read("kernel", kernel)
        if own.axes != (n, outputs):
            raise SettingError(f"`kernel` must fit b, {(n, outputs)}; got an operator of {own.axes}. Match them.")
        return _System(1, own.rows, own.times, own.like.dtype)
    k = tensor("kernel", kernel).detach()
    blocks = {2: 1, 3: outputs, 4: 1}.get(k.dim(), 0)
    if tuple(k.shape) not in ((n, n), (n, n, outputs), (n, n, outputs, outputs)) or not k.is_floating_point():
        raise SettingError(
            f"`kernel` must fit b, ({n}, {n}, {outputs}, {outputs}), ({n}, {n}) or ({n}, {n}, {outputs}), in floating "
            f"point; got {tuple(k.shape)} of {k.dtype}. Take it of the samples of b."
        )
    size = max(1, _CHUNK // k[:1].numel())

    def strips() -> Iterator[Tensor]:
        """Some rows of K at a time."""
        return (part.to(b.device, torch.float64) for part in torch.split(k, size))

    def times(v: Tensor) -> Tensor:
        if k.dim() == 4:
            columns = v[0].reshape(n, outputs, -1).transpose(0, 1).reshape(outputs * n, -1)
            return torch.cat([part.permute(0, 2, 3, 1).reshape(-1, len(columns)) @ columns for part in strips()])[None]
        if k.dim() == 2:
            return torch.cat([part @ v[0] for part in strips()])[None]
        return torch.cat([part.permute(2, 0, 1) @ v for part in strips()], 1)

    return _System(blocks, n * outputs if k.dim() == 4 else n, times, torch.float64)
