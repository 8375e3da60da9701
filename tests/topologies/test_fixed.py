"""The topologies that draw nothing: their edges, by hand."""

import numpy as np
import pytest

from fedtangent.federation import Graph
from fedtangent.topologies.clusters import clusters
from fedtangent.topologies.complete import complete
from fedtangent.topologies.line import line
from fedtangent.topologies.ring import ring
from fedtangent.topologies.star import star
from fedtangent.topologies.torus import torus
from fedtangent.topologies.tree import tree

RNG = np.random.default_rng(0)


def test_line_star_ring_and_complete() -> None:
    assert line(4, RNG) == Graph([(0, 1), (1, 2), (2, 3)], 4)
    assert star(4, RNG) == Graph([(0, 1), (0, 2), (0, 3)], 4)
    assert ring(4, RNG) == Graph([(0, 1), (1, 2), (2, 3), (3, 0)], 4)
    assert complete(4, RNG) == Graph([(i, j) for i in range(4) for j in range(i)], 4)


def test_a_tree_by_hand() -> None:
    assert tree(6, RNG) == Graph([(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)], 6)
    assert tree(5, RNG, children=3) == Graph([(0, 1), (0, 2), (0, 3), (1, 4)], 5)
    assert tree(7, RNG, children=1) == line(7, RNG)
    with pytest.raises(ValueError, match=r"^`children` must be at least 1; got 0\. Use 2\.$"):
        tree(6, RNG, children=0)


@pytest.mark.parametrize("topology", [line, star, complete, tree])
def test_one_node_alone_is_a_graph_without_edges(topology: object) -> None:
    assert topology(1, RNG) == Graph([], 1)  # type: ignore[operator]


def test_a_ring_of_two_is_an_error() -> None:
    with pytest.raises(ValueError, match="`nodes` must be at least 3 in a ring; got 2"):
        ring(2, RNG)


def test_the_torus_is_the_most_square_one() -> None:
    rows, columns = 3, 4
    right = [(r * columns + c, r * columns + (c + 1) % columns) for r in range(rows) for c in range(columns)]
    down = [(r * columns + c, (r + 1) % rows * columns + c) for r in range(rows) for c in range(columns)]
    assert torus(rows * columns, RNG) == Graph(right + down, rows * columns)
    assert {torus(36, RNG).degree(node) for node in range(36)} == {4}


@pytest.mark.parametrize("nodes", [7, 8, 10, 22])
def test_a_torus_with_a_short_side_is_an_error(nodes: int) -> None:
    with pytest.raises(
        ValueError, match=f"`nodes` must be rows times columns, both at least 3, in a torus; got {nodes}"
    ):
        torus(nodes, RNG)


def test_clusters_are_cliques_in_a_ring() -> None:
    inside = [(0, 1), (0, 2), (1, 2), (3, 4), (5, 6)]
    assert clusters(7, RNG, clusters=3) == Graph([*inside, (2, 3), (4, 5), (6, 0)], 7)
    assert clusters(5, RNG, clusters=5) == ring(5, RNG)


@pytest.mark.parametrize("groups", [1, 7])
def test_an_impossible_number_of_clusters_is_an_error(groups: int) -> None:
    with pytest.raises(ValueError, match=f"`clusters` must be from 2 to the number of nodes, 6; got {groups}"):
        clusters(6, RNG, clusters=groups)
