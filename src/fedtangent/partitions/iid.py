"""IID: the rows are shuffled and dealt out evenly, so that every node sees the same distribution."""

import numpy as np
from torch import Tensor

from fedtangent.partitions._rows import shuffled_rows
from fedtangent.shard import Partition


def iid(x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator) -> Partition:
    """Disjoint random shares of all rows, whose sizes differ by at most one.

    Raises:
        ValueError: Fewer rows than nodes.
    """
    return Partition([np.sort(part) for part in np.array_split(shuffled_rows(x, nodes, rng), nodes)])
