"""Ring: every node talks to the one before it and the one after it."""

import networkx as nx
import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation import Graph


def ring(nodes: int, rng: np.random.Generator) -> Graph:
    """The cycle through all nodes in order; it draws nothing from `rng`.

    Raises:
        ValueError: Fewer than three nodes.
    """
    if nodes < 3:
        raise SettingError(f"`nodes` must be at least 3 in a ring; got {nodes}. Use the topology 'line' for fewer.")
    return Graph.from_networkx(nx.cycle_graph(nodes))
