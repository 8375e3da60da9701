"""By class: every node holds rows of a fixed number of classes only.

After McMahan, Moore, Ramage, Hampson, Aguera y Arcas. Communication-Efficient Learning of Deep Networks from
Decentralized Data. AISTATS 2017, section 3. arXiv 1602.05629.
Their shards may straddle two classes; here every node has exactly as many as asked for.
"""

import numpy as np
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.partitions._rows import class_pools
from fedtangent.shard import Partition


def by_class(x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator, *, classes: int = 2) -> Partition:
    """Disjoint shards of `classes` random classes each, whose rows the holders of a class share evenly.

    Larger classes have more holders, so that sizes stay near each other. Every row is used once, unless `nodes` times
    `classes` is below the number of classes in the data: then the smallest classes belong to nobody.

    Args:
        x: Inputs, (rows, *inputs).
        y: Labels, (rows,) as integers.
        nodes: Number of nodes.
        rng: The only source of randomness.
        classes: How many classes every node holds.

    Raises:
        TypeError: Targets instead of labels.
        ValueError: Fewer rows than nodes, fewer classes in the data than asked for, or too few rows of them.
    """
    pools = class_pools(x, y, nodes, rng)
    if not 1 <= classes <= len(pools):
        raise SettingError(
            f"`classes` must be from 1 to the number of classes in the data, {len(pools)}; got {classes}. "
            "Use a value in this range."
        )
    holders = _holders(np.array([len(pool) for pool in pools]), nodes, classes)
    held: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for label, owners in enumerate(_dealt(holders, nodes, classes, rng)):
        for node, part in zip(owners, np.array_split(pools[label], max(1, len(owners))), strict=False):
            held[node].append(part)
    return Partition([np.sort(np.concatenate(parts)) for parts in held])


def _holders(sizes: np.ndarray, nodes: int, classes: int) -> np.ndarray:
    """How many nodes hold each class: the next one always goes where a holder has the most rows, no class first."""
    most = np.minimum(sizes, nodes)
    if most.sum() < nodes * classes:
        raise SettingError(
            f"`classes` must leave every node a row of each of its classes; got {classes} for {nodes} nodes, "
            f"and the data's classes have {sizes.min()} to {sizes.max()} rows. Use fewer classes or fewer nodes."
        )
    holders = np.zeros_like(sizes)
    for _ in range(nodes * classes):
        rows_each = np.where(holders == 0, sizes * (sizes.sum() + 1.0), sizes / np.maximum(holders, 1))
        holders[np.argmax(np.where(holders < most, rows_each, -1.0))] += 1
    return holders


def _dealt(holders: np.ndarray, nodes: int, classes: int, rng: np.random.Generator) -> list[list[int]]:
    """The nodes that hold each class: `classes` different ones a node, in random company."""
    # Dealt in rounds of all nodes, a class with at most as many holders as nodes never meets the same node twice.
    hands = np.repeat(np.arange(len(holders)), holders).reshape(classes, nodes).T.tolist()
    # Neighbouring nodes now hold the same classes: exchanges that keep every hand's classes different mix them.
    for a, b, i, j in rng.integers((nodes, nodes, classes, classes), size=(10 * nodes * classes, 4)):
        mine, theirs = hands[a][i], hands[b][j]
        if mine not in hands[b] and theirs not in hands[a]:
            hands[a][i], hands[b][j] = theirs, mine
    owners: list[list[int]] = [[] for _ in holders]
    for node, hand in enumerate(hands):
        for label in hand:
            owners[label].append(node)
    return owners
