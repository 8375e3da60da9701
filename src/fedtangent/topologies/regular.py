"""Regular: a random graph in which every node has the same number of neighbours (the papers' topology)."""

import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation import Graph

# One random 2-regular graph in about 0.5 sqrt(nodes) is connected, and nearly all of higher degree are.
TRIES = 1000


def regular(nodes: int, rng: np.random.Generator, *, degree: int = 5) -> Graph:
    """A random regular graph, drawn again until it is connected (a degree of one cannot be, and is drawn once).

    Args:
        nodes: Number of nodes.
        rng: The only source of randomness.
        degree: How many neighbours every node has.

    Raises:
        ValueError: No such graph exists, or none drawn is connected.
    """
    if not 1 <= degree < nodes:
        raise SettingError(
            f"`degree` must be at least 1 and below the number of nodes, {nodes}; got {degree}. "
            "Use a smaller degree or more nodes."
        )
    if degree * nodes % 2:
        raise SettingError(
            f"`degree` must be even when the number of nodes is odd; got {degree} with {nodes} nodes. "
            "Add one to either of them."
        )
    for _ in range(TRIES):
        graph = _drawn(nodes, degree, int(rng.integers(2**32)))
        if degree == 1 or graph.connected:
            return graph
    raise SettingError(
        f"`degree` must make a connected graph likely; got {degree} with {nodes} nodes, and {TRIES} draws were all in "
        "pieces. Use a higher degree."
    )


def _drawn(nodes: int, degree: int, seed: int) -> Graph:
    import networkx as nx  # a site with a server has no graph, and need not wait for it

    # networkx pairs stubs and starts over on a clash, which dense graphs nearly always meet: draw what is absent.
    if degree > nodes // 2:
        absent = nx.random_regular_graph(nodes - 1 - degree, nodes, seed=seed)
        return Graph.from_networkx(nx.complement(absent))
    return Graph.from_networkx(nx.random_regular_graph(degree, nodes, seed=seed))
