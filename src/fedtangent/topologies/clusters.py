"""Clusters: groups in which every node talks to every other, in a ring of groups joined by one edge each."""

from itertools import combinations, pairwise

import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation import Graph


def clusters(nodes: int, rng: np.random.Generator, *, clusters: int = 5) -> Graph:
    """Cliques of consecutive nodes, as equal as can be, the last node of each joined to the first of the next.

    It draws nothing from `rng`.

    Args:
        nodes: How many.
        rng: Not used.
        clusters: How many groups there are.

    Raises:
        ValueError: Fewer than two groups, or more than nodes.
    """
    if not 2 <= clusters <= nodes:
        raise SettingError(
            f"`clusters` must be from 2 to the number of nodes, {nodes}; got {clusters}. Use a number between."
        )
    groups = [[int(node) for node in group] for group in np.array_split(np.arange(nodes), clusters)]
    inside = [edge for group in groups for edge in combinations(group, 2)]
    between = [(here[-1], there[0]) for here, there in pairwise([*groups, groups[0]])]
    return Graph(inside + between, nodes)
