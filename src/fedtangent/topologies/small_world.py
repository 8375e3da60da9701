"""Small world: a ring of near neighbours, some of whose edges are rewired at random (Watts, Strogatz 1998)."""

import networkx as nx
import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation import Graph

TRIES = 100


def small_world(nodes: int, rng: np.random.Generator, *, degree: int = 4, rewire: float = 0.1) -> Graph:
    """A random Watts-Strogatz graph, drawn again until it is connected.

    Args:
        nodes: Number of nodes.
        rng: The only source of randomness.
        degree: Neighbours of every node before rewiring, half of them on either side.
        rewire: Probability that an edge gets a new far end.

    Raises:
        ValueError: An odd or impossible degree, no probability, or no connected graph among those drawn.
    """
    if degree % 2 or not 2 <= degree < nodes:
        raise SettingError(
            f"`degree` must be even, at least 2 and below the number of nodes, {nodes}; got {degree}. "
            "Use a smaller even degree or more nodes."
        )
    if not 0 <= rewire <= 1:
        raise SettingError(f"`rewire` must be a probability, from 0 to 1; got {rewire}. Use a value such as 0.1.")
    seed = int(rng.integers(2**32))
    try:
        return Graph.from_networkx(nx.connected_watts_strogatz_graph(nodes, degree, rewire, tries=TRIES, seed=seed))
    except nx.NetworkXError as error:
        raise SettingError(
            f"`degree` must make a connected graph likely; got {degree} with {nodes} nodes and `rewire` {rewire}, and "
            f"{TRIES} draws were all in pieces. Use a higher degree or less rewiring."
        ) from error
