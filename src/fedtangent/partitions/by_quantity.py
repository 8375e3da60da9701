"""By quantity: nodes of very unequal size, all drawn from the same distribution.

Li, Diao, Chen, He. Federated Learning on Non-IID Data Silos: An Experimental Study. ICDE 2022, "quantity skew".
arXiv 2102.02079.
"""

import numpy as np
from torch import Tensor

from fedtangent.partitions._rows import shares, shuffled_rows, split
from fedtangent.shard import Partition


def by_quantity(x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator, *, alpha: float = 0.5) -> Partition:
    """Disjoint random shards that use every row once: one row a node, and a share of the rest drawn from a Dirichlet.

    Args:
        x: Inputs, (rows, *inputs).
        y: Labels or targets; only the inputs' number is used.
        nodes: Number of nodes.
        rng: The only source of randomness.
        alpha: Concentration: near 0 one node has nearly all rows, at infinity all have as many.

    Raises:
        ValueError: Fewer rows than nodes, or an alpha that is not positive and finite.
    """
    rows = shuffled_rows(x, nodes, rng)
    rest = split(rows[nodes:], shares(nodes, alpha, rng))
    return Partition([np.sort(np.append(part, first)) for first, part in zip(rows[:nodes], rest, strict=True)])
