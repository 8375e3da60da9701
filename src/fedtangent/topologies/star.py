"""Star: node 0 talks to every other node, and they only to it."""

import networkx as nx
import numpy as np

from fedtangent.federation import Graph


def star(nodes: int, rng: np.random.Generator) -> Graph:
    """The star around node 0; it draws nothing from `rng`."""
    return Graph.from_networkx(nx.star_graph(range(nodes)))
