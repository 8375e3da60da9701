"""The papers' Dirichlet: every node draws its own label mix and as many rows of each class from the whole data set.

Yue, Jin, Pilgrim, Wong, Baron, Dai. Neural Tangent Kernel Empowered Federated Learning. ICML 2022. arXiv 2110.03681.
The splits of NTK-FL and NTK-DFL are draws of this procedure.

    for every node k:   q ~ Dir(alpha 1_C)
                        floor(size q_c) rows of every class c, from a freshly shuffled pool of all its rows
"""

import numpy as np
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.partitions._rows import class_pools, shares
from fedtangent.shard import Partition


def papers_dirichlet(
    x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator, *, alpha: float = 0.1, size: int = 200
) -> Partition:
    """Shards of nearly equal size, skewed in labels; they overlap, and some rows belong to no node.

    No row occurs twice in one node: a class with fewer rows than asked for gives all it has. A node whose counts are
    all floored to zero (possible when `size` is below the number of classes) gets one row of its most likely class.

    Args:
        x: Inputs, (rows, *inputs).
        y: Labels, (rows,) as integers.
        nodes: Number of nodes.
        rng: The only source of randomness.
        alpha: Concentration of a node's label mix: near 0 one class, at infinity all alike.
        size: Rows of a node before rounding down.

    Raises:
        TypeError: Targets instead of labels.
        ValueError: Fewer rows than nodes, an alpha that is not positive and finite, or a size below one.
    """
    if size < 1:
        raise SettingError(f"`size` must be at least 1; got {size}. Use the papers' 200.")
    pools = class_pools(x, y, nodes, rng)
    return Partition([_drawn(pools, shares(len(pools), alpha, rng), size, rng) for _ in range(nodes)])


def _drawn(pools: list[np.ndarray], mix: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    counts = np.floor(size * mix).astype(np.int64)
    if not counts.any():
        counts[np.argmax(mix)] = 1
    parts = [
        rng.choice(pool, min(int(count), len(pool)), replace=False) for pool, count in zip(pools, counts, strict=True)
    ]
    return np.sort(np.concatenate(parts))
