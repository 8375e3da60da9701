"""Tree: a node has a parent and some children, level by level, so that no two nodes are far apart."""

import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation import Graph


def tree(nodes: int, rng: np.random.Generator, *, children: int = 2) -> Graph:
    """The full tree whose node i has the parent (i - 1) // children; it draws nothing from `rng`.

    Args:
        nodes: How many.
        rng: Unused.
        children: Of a node, where there are nodes enough; 1 is a line.
    """
    if children < 1:
        raise SettingError(f"`children` must be at least 1; got {children}. Use 2.")
    return Graph([((node - 1) // children, node) for node in range(1, nodes)], nodes)
