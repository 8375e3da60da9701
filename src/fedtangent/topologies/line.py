"""Line: nodes 0 - 1 - ... - (nodes - 1), the slowest connected graph to mix."""

import networkx as nx
import numpy as np

from fedtangent.federation import Graph


def line(nodes: int, rng: np.random.Generator) -> Graph:
    """The path through all nodes in order; it draws nothing from `rng`."""
    return Graph.from_networkx(nx.path_graph(range(nodes)))
