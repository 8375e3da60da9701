"""Complete: every node talks to every other node."""

import networkx as nx
import numpy as np

from fedtangent.federation import Graph


def complete(nodes: int, rng: np.random.Generator) -> Graph:
    """The complete graph; it draws nothing from `rng`."""
    return Graph.from_networkx(nx.complete_graph(range(nodes)))
