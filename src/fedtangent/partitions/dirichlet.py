"""Dirichlet: the rows of every class are divided among the nodes in random, unequal proportions.

Yurochkin, Agarwal, Ghosh, Greenewald, Hoang, Khazaeni. Bayesian Nonparametric Federated Learning of Neural Networks.
ICML 2019. arXiv 1905.12022.

    for every class c:   q ~ Dir(alpha 1_nodes);   node k gets the share q_k of the rows of class c
"""

import heapq

import numpy as np
from torch import Tensor

from fedtangent.partitions._rows import class_pools, shares, split
from fedtangent.shard import Partition


def dirichlet(x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator, *, alpha: float = 0.1) -> Partition:
    """Disjoint shards that use every row exactly once, skewed in labels and in size.

    The usual code draws again until no node is too small, which may never end; here nothing is drawn twice: each node
    that is left empty receives one random row of the node that is then the largest.

    Args:
        x: Inputs, (rows, *inputs).
        y: Labels, (rows,) as integers.
        nodes: Number of nodes.
        rng: The only source of randomness.
        alpha: Concentration: near 0 a class lives on one node, at infinity on all alike.

    Raises:
        TypeError: Targets instead of labels.
        ValueError: Fewer rows than nodes, or an alpha that is not positive and finite.
    """
    pools = class_pools(x, y, nodes, rng)
    held: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for pool in pools:
        for parts, part in zip(held, split(pool, shares(nodes, alpha, rng)), strict=True):
            parts.append(part)
    index = [rng.permutation(np.concatenate(parts)) for parts in held]
    return Partition([np.sort(rows) for rows in _without_empty(index)])


def _without_empty(index: list[np.ndarray]) -> list[np.ndarray]:
    """The same rows, with the last of the largest node's moved to each empty node."""
    filled = list(index)
    largest = [(-len(rows), node) for node, rows in enumerate(filled)]
    heapq.heapify(largest)
    for node in [node for node, rows in enumerate(filled) if len(rows) == 0]:
        size, donor = largest[0]
        heapq.heapreplace(largest, (size + 1, donor))
        filled[node], filled[donor] = filled[donor][-1:], filled[donor][:-1]
    return filled
