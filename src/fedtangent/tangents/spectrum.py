"""What the eigenvalues of a tangent kernel say: how stiff its dynamics are."""

from collections.abc import Callable

import torch
from torch import Tensor

_TINY = 1e-30


def largest_eigenvalue(times: Callable[[Tensor], Tensor], like: Tensor, real: Tensor, products: int = 12) -> Tensor:
    """An upper estimate of the largest eigenvalue of a positive semi-definite operator, by Lanczos' method.

    The largest Ritz value plus its residual (Zhou and Li, Bounding the spectrum of large Hermitian matrices, 2011): for
    a tangent kernel, whose leading eigenvalues stand apart, it agrees with the eigenvalue to a few digits.

    Args:
        times: The operator on (..., N, C).
        like: A tensor of that shape, for device and dtype.
        real: Which rows take part, (..., N).
        products: With the operator.

    Returns:
        (...), infinite where the operator is not finite.
    """
    mask = real[..., None]
    products = min(products, like.shape[-2] * like.shape[-1])
    # any fixed vector in general position will do
    v = torch.cos(torch.arange(like.shape[-2] * like.shape[-1], dtype=like.dtype, device=like.device) ** 2)
    v = torch.where(mask, v.reshape(like.shape[-2:]).expand_as(like), 0)
    v = v / _norm(v)
    basis, diagonal, off = [v], [], []
    for _ in range(products):
        u = torch.where(mask, times(basis[-1]), 0)
        diagonal.append((u * basis[-1]).sum((-2, -1)))
        for _twice in range(2):  # against all of the basis, twice: rounding would make it forget the first ones
            for b in basis:
                u = u - (u * b).sum((-2, -1), keepdim=True) * b
        length = _norm(u)
        off.append(length[..., 0, 0])
        basis.append(u / length)
    tridiagonal = torch.diag_embed(torch.stack(diagonal, -1))
    if products > 1:
        beside = torch.diag_embed(torch.stack(off[:-1], -1), offset=1)
        tridiagonal = tridiagonal + beside + beside.mT
    finite = torch.isfinite(tridiagonal).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], tridiagonal, 0))
    bound: Tensor = values[..., -1] + off[-1] * vectors[..., -1, -1].abs()
    return torch.where(finite, bound, torch.inf)


def _norm(v: Tensor) -> Tensor:
    return (v**2).sum((-2, -1), keepdim=True).sqrt().clamp(min=_TINY)
