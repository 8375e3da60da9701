"""iid_overlapping: every node draws its rows from the whole data set, whatever the others have drawn.

The split of FedPart's experiments (Wang et al., NeurIPS 2024), in which 40 clients draw 500 rows each.

    for every node k:   `size` of all rows, without replacement
"""

import numpy as np
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.partitions._rows import shuffled_rows
from fedtangent.shard import Partition


def iid_overlapping(
    x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator, *, size: int | None = None
) -> Partition:
    """Shards of equal size, each a uniform draw: they overlap, and some rows belong to no node.

    No row occurs twice in one node.

    Args:
        x: Inputs, (rows, *inputs).
        y: Labels or targets, (rows, ...).
        nodes: Number of nodes.
        rng: The only source of randomness.
        size: Rows of a node; none is an even share of all, rounded down.

    Raises:
        ValueError: Fewer rows than nodes, or than the size.
    """
    size = max(1, len(x) // max(1, nodes)) if size is None else size
    if not 1 <= size <= len(x):
        raise SettingError(
            f"`size` must be from 1 to the number of training rows, {len(x)}; got {size}. Give each node fewer rows."
        )
    return Partition([np.sort(shuffled_rows(x, nodes, rng)[:size]) for _ in range(max(nodes, 1))])
