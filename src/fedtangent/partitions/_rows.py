"""Rows in random order, by class, and cut by random shares: what several partitions have in common."""

import numpy as np
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError


def shuffled_rows(x: Tensor, nodes: int, rng: np.random.Generator) -> np.ndarray:
    """All row numbers in random order, (rows,) as int64.

    Raises:
        ValueError: Fewer rows than nodes, so that a node would have to stay empty.
    """
    if not 1 <= nodes <= len(x):
        raise SettingError(
            f"`nodes` must be from 1 to the number of training rows, {len(x)}; got {nodes}. "
            "Use fewer nodes or a larger data set."
        )
    return rng.permutation(len(x)).astype(np.int64, copy=False)


def class_pools(x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The row numbers of each class that occurs, in random order, classes ascending.

    Raises:
        TypeError: Targets instead of labels.
        ValueError: Fewer rows than nodes.
    """
    if y.ndim != 1 or y.is_floating_point() or y.is_complex():
        raise SettingTypeError(
            f"`y` must hold one integer label a row to be divided by class; got {y.dtype} of shape {tuple(y.shape)}. "
            "Use the partition 'iid', 'by_quantity' or 'feature_shift' for targets."
        )
    order = shuffled_rows(x, nodes, rng)
    labels = y.cpu().numpy()[order]
    return [order[labels == label] for label in np.unique(labels)]


def shares(parts: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """One draw of Dir(alpha 1_parts), (parts,).

    Raises:
        ValueError: An alpha that is not positive and finite.
    """
    if not 0 < alpha < np.inf:
        raise SettingError(
            f"`alpha` must be positive and finite; got {alpha}. Use 0.1 for strong skew, 100 for nearly none."
        )
    # Outside these bounds no count of rows changes any more, while the sampler's gammas under- or overflow.
    return rng.dirichlet(np.full(parts, np.clip(alpha, 1e-9, 1e9)))


def split(rows: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """The rows cut into consecutive parts of these shares, each size rounded to within one row; none is lost."""
    cuts = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
    return np.split(rows, cuts)
