"""Torus: a grid of rows and columns whose borders are joined, so that every node has four neighbours."""

from math import isqrt

import networkx as nx
import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation import Graph


def torus(nodes: int, rng: np.random.Generator) -> Graph:
    """The most square torus of `nodes` nodes, numbered row by row; it draws nothing from `rng`.

    Raises:
        ValueError: The nodes do not fill a grid with both sides at least three.
    """
    sides = [side for side in range(3, isqrt(max(nodes, 0)) + 1) if nodes % side == 0]
    if not sides:
        raise SettingError(
            f"`nodes` must be rows times columns, both at least 3, in a torus; got {nodes}. "
            f"Use a square such as {max(3, isqrt(max(nodes, 0))) ** 2}, or the topology 'ring'."
        )
    rows = sides[-1]
    return Graph.from_networkx(nx.grid_2d_graph(rows, nodes // rows, periodic=True))
