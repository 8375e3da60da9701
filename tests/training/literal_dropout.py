"""The documented numbers behind dropout, typed literally in whole numbers, and torch's dropout with such masks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ALL = 2**64


def number(key: int, call: int, index: Sequence[int]) -> int:
    """The number of an entry, in [-2^31, 2^31)."""
    m, last = 0xD1342543DE82EF95, len(index)
    z = key + m * call
    for axis, i in enumerate(index, 1):
        z += m ** (axis + 1) * (i // 2 if axis == last else i)
    z %= ALL
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % ALL
    z = (z ^ z >> 27) * 0x94D049BB133111EB % ALL
    z = z ^ z >> 31
    half = z >> 32 if index[-1] % 2 else z % 2**32
    return half - 2**32 if half >= 2**31 else half


def numbers(key: int, call: int, shape: Sequence[int]) -> Tensor:
    """Those of a whole call."""
    found = [number(key, call, index) for index in np.ndindex(*shape)]
    return torch.tensor(found, dtype=torch.int64).reshape(tuple(shape))


def dropped(x: Tensor, p: float, key: int, call: int) -> Tensor:
    """Dropout with the masks of a call."""
    kept = numbers(key, call, x.shape) < 2**32 * (1 - p) - 2**31
    return x * kept / (1 - p)


def keys(rng: np.random.Generator, steps: int) -> list[int]:
    """Those of the steps, drawn after the order of the rows."""
    return [int(key) for key in rng.integers(-(2**63), 2**63, steps)]
