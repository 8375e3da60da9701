"""Erdos-Renyi: every pair of nodes is joined with the same probability, independently."""

from math import log

import networkx as nx
import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation import Graph

TRIES = 100


def erdos_renyi(nodes: int, rng: np.random.Generator, *, p: float | None = None) -> Graph:
    """A random graph G(nodes, p), drawn again until it is connected.

    Args:
        nodes: Number of nodes.
        rng: The only source of randomness.
        p: Probability of an edge; None is 2 ln(nodes) / nodes, twice the threshold of connectedness.

    Raises:
        ValueError: No probability, or one so small that no graph drawn is connected.
    """
    if nodes < 1:
        raise SettingError(f"`nodes` must be at least 1; got {nodes}. Give the graph a node.")
    threshold = log(nodes) / nodes
    chance = min(1.0, 2 * threshold) if p is None else p
    if not 0 <= chance <= 1:
        raise SettingError(f"`p` must be a probability, from 0 to 1; got {p}. Use a value above {threshold:.3g}.")
    for _ in range(TRIES):
        graph = Graph.from_networkx(nx.gnp_random_graph(nodes, chance, seed=int(rng.integers(2**32))))
        if graph.connected:
            return graph
    raise SettingError(
        f"`p` must make a connected graph likely; got {p} with {nodes} nodes, and {TRIES} draws were all in pieces. "
        f"Use a value above {threshold:.3g}."
    )
