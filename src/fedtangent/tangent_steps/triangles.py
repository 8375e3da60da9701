"""Symmetric matrices as their upper triangles, half of the numbers."""

from functools import lru_cache

import torch
from torch import Tensor


def pack(matrix: Tensor) -> Tensor:
    """The upper triangle of symmetric matrices (G, I, I), (G, I (I + 1) / 2)."""
    return matrix.flatten(-2).index_select(-1, _upper(matrix.shape[-1], matrix.device))


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`."""
    size = int((2 * packed.shape[-1]) ** 0.5)
    return packed.index_select(-1, _places(size, packed.device)).reshape(*packed.shape[:-1], size, size)


def diagonal(packed: Tensor) -> Tensor:
    """The diagonals (G, I) of packed matrices."""
    size = int((2 * packed.shape[-1]) ** 0.5)
    i = torch.arange(size, device=packed.device)
    return packed.index_select(-1, i * size - i * (i - 1) // 2)


@lru_cache(maxsize=16)
def _upper(size: int, device: torch.device) -> Tensor:
    """Where the entries of its upper triangle are in a matrix."""
    i, j = torch.triu_indices(size, size, device=device, dtype=_index(size))
    place: Tensor = i.mul_(size).add_(j)
    return place


@lru_cache(maxsize=16)
def _places(size: int, device: torch.device) -> Tensor:
    """Where every entry of a symmetric matrix is in its upper triangle."""
    i = torch.arange(size, device=device, dtype=_index(size))
    starts = i * size - i * (i - 1) // 2
    return torch.minimum(starts[:, None], starts).add_((i[:, None] - i).abs_()).flatten()


def _index(size: int) -> torch.dtype:
    """The shortest type that numbers the entries of a matrix."""
    return torch.int32 if size**2 < 2**31 else torch.int64
