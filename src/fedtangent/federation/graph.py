"""A graph of nodes: who talks to whom, and with which gossip weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from fedtangent.errors import SettingError, SettingTypeError

if TYPE_CHECKING:  # a site with a server draws no graph
    import networkx as nx

GossipWeights = Literal["uniform", "metropolis"]


@dataclass(frozen=True, init=False)
class Graph:
    """A graph on the nodes 0, 1, ..., `nodes` - 1; it never changes.

    Attributes:
        edges: The sorted pairs (i, j), each once: with i < j, or where it is directed, each meaning that i sends to j.
        nodes: The number of nodes, those without an edge included.
        directed: Whether a node may send to another from which it gets nothing.
        planned: The degrees that metropolis weights come from, where edges are missing; None where none are.
    """

    edges: tuple[tuple[int, int], ...]
    nodes: int
    directed: bool = False
    planned: tuple[int, ...] | None = None

    def __init__(
        self,
        edges: Iterable[tuple[int, int]],
        nodes: int,
        directed: bool = False,
        planned: tuple[int, ...] | None = None,
    ) -> None:
        """The graph of these edges; repetition of an edge does not matter, nor direction unless it is `directed`.

        Raises:
            TypeError: A number of nodes that is none, or an edge that is no pair of integers.
            ValueError: No node, an edge from a node to itself, or an edge to a node that does not exist.
        """
        if not isinstance(nodes, Integral):
            raise SettingTypeError(f"`nodes` must be an integer; got {type(nodes).__name__}. Give it after the edges.")
        if nodes < 1:
            raise SettingError(f"`nodes` must be at least 1; got {nodes}. Give the graph a node.")
        pairs = sorted({(i, j) if directed else (min(i, j), max(i, j)) for i, j in map(_pair, edges)})
        for i, j in pairs:
            if i == j or min(i, j) < 0 or max(i, j) >= nodes:
                raise SettingError(
                    f"`edges` must join two different nodes from 0 to {nodes - 1}; got ({i}, {j}). "
                    "Remove or renumber this edge."
                )
        object.__setattr__(self, "edges", tuple(pairs))
        object.__setattr__(self, "nodes", int(nodes))
        object.__setattr__(self, "directed", directed)
        object.__setattr__(self, "planned", planned)

    @classmethod
    def from_networkx(cls, g: nx.Graph) -> Graph:
        """The graph of a networkx graph, whose labels become 0, 1, ... in their sorted order.

        It is directed where an edge has no other in return. What else edges have, such as weights, is not used.

        Raises:
            TypeError: No graph of networkx, or labels that cannot be sorted.
            ValueError: As of the class.
        """
        import networkx as nx

        try:
            renumbered = nx.convert_node_labels_to_integers(g, ordering="sorted")
        except (TypeError, AttributeError, nx.NetworkXError) as error:
            raise SettingTypeError(
                f"`g` must be a networkx graph whose labels can be sorted; got {type(g).__name__} "
                f"({' '.join(str(error).split())[:80]}). Relabel its nodes."
            ) from error
        edges = [*renumbered.edges()]
        return cls(edges, renumbered.number_of_nodes(), not {*edges} >= {(j, i) for i, j in edges} and g.is_directed())

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The sorted neighbours of each node, without the node itself: those that it hears."""
        found: list[list[int]] = [[] for _ in range(self.nodes)]
        for i, j in self.edges:
            found[j].append(i)
            if not self.directed:
                found[i].append(j)
        return tuple(tuple(sorted(ids)) for ids in found)

    def receivers(self, node: int) -> tuple[int, ...]:
        """The sorted nodes that a node sends to."""
        return tuple(j for i, j in self.edges if i == node) if self.directed else self.neighbours[node]

    def degree(self, node: int) -> int:
        """The number of a node's neighbours."""
        return len(self.neighbours[node])

    @property
    def connected(self) -> bool:
        """Whether a path joins every pair of nodes, whatever the direction of its edges."""
        import networkx as nx

        return cast(bool, nx.is_connected(self.networkx().to_undirected()))

    def shares(self, weights: GossipWeights) -> list[list[float]]:
        """Every node's row of `gossip` without the zeros: its neighbourhood's weights, i included, in node order.

        Raises:
            ValueError: Another name.
        """
        if weights not in ("uniform", "metropolis"):
            raise SettingError(f"`weights` must be 'uniform' or 'metropolis'; got {weights!r}. Choose one of the two.")
        if self.directed and weights != "uniform":
            raise SettingError(
                f"`weights` must be 'uniform' for a directed graph; got {weights!r}. Choose it, or another graph."
            )
        if weights == "uniform":
            return [[1 / (1 + len(ids))] * (1 + len(ids)) for ids in self.neighbours]
        degrees = np.array(self.planned or [len(ids) for ids in self.neighbours], dtype=np.float64)
        found, row = [], np.zeros(self.nodes)
        for i, ids in enumerate(self.neighbours):
            group = sorted([i, *ids])
            row[list(ids)] = 1 / (1 + np.maximum(degrees[i], degrees[list(ids)]))
            # What the neighbours leave is the node's own. The sum is over the whole row, zeros too, for its rounding
            # depends on where the numbers stand.
            row[i] = 1 - row.sum()
            found.append(row[group].tolist())
            row[group] = 0
        return found

    def gossip(self, weights: GossipWeights) -> np.ndarray:
        """The matrix W, (nodes, nodes) as float64, of one averaging step x <- W x; every row sums to one.

        `uniform` gives W_ij = 1 / (deg_i + 1) over the neighbourhood, i included; where degrees differ it is not
        symmetric and does not preserve the mean. `metropolis` gives W_ij = 1 / (1 + max(deg_i, deg_j)) to neighbours
        and the rest to i: symmetric and doubly stochastic on any graph (Xiao, Boyd, Kim 2007).

        Raises:
            ValueError: Another name.
        """
        matrix = np.zeros((self.nodes, self.nodes))
        for i, (ids, row) in enumerate(zip(self.neighbours, self.shares(weights), strict=True)):
            matrix[i, sorted([i, *ids])] = row
        return matrix

    def spectral_gap(self, weights: GossipWeights) -> float:
        """1 - |lambda_2| of `gossip`: by how much an averaging step shrinks what nodes differ by, at least, in the end.

        From 0, where the graph falls into parts or merely swaps values, to 1 of a complete one. It takes nodes^3.
        """
        if self.nodes == 1:
            return 1.0
        sizes = np.sort(np.abs(np.linalg.eigvals(self.gossip(weights))))
        return float(min(max(1 - sizes[-2], 0.0), 1.0))

    def induced(self, nodes: Iterable[int]) -> Graph:
        """The graph with only the edges among `nodes`; the others stay, numbered as before, without an edge.

        Raises:
            ValueError: A node that does not exist.
        """
        kept = set(nodes)
        strange = sorted(node for node in kept if not 0 <= node < self.nodes)
        if strange:
            raise SettingError(
                f"`nodes` must be from 0 to {self.nodes - 1}; got {strange[0]}. Choose among the graph's nodes."
            )
        return Graph((edge for edge in self.edges if kept.issuperset(edge)), self.nodes, self.directed)

    def without(self, nodes: Collection[int], edges: Collection[tuple[int, int]]) -> Graph:
        """The graph without the edges of some nodes, and without some others, for one round.

        What a missing neighbour would have weighed goes to those that are there: with `uniform` to all alike, with
        `metropolis` to the node itself, so that the gossip matrix stays symmetric and doubly stochastic.

        Args:
            nodes: Who is absent.
            edges: As pairs (i, j), i < j.
        """
        absent, failed = frozenset(nodes), frozenset(edges)
        kept = [edge for edge in self.edges if failed.isdisjoint((edge, edge[::-1])) and absent.isdisjoint(edge)]
        return Graph(kept, self.nodes, self.directed, self.planned or tuple(map(len, self.neighbours)))

    def networkx(self) -> nx.Graph:
        """The graph as a new networkx graph."""
        import networkx as nx

        g = nx.empty_graph(self.nodes, nx.DiGraph if self.directed else nx.Graph)
        g.add_edges_from(self.edges)
        return g


def _pair(edge: Any) -> tuple[int, int]:
    """Both ends of an edge."""
    with suppress(TypeError, ValueError, OverflowError):
        i, j = edge
        ends = int(i), int(j)
        if ends == (i, j):
            return ends
    raise SettingTypeError(
        f"`edges` must hold a pair of nodes' numbers for every edge; got {repr(edge)[:60]}. Give (i, j) for each."
    )
