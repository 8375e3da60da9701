import tracemalloc

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtangent.federation import Graph
from fedtangent.federation.graph import GossipWeights
from tests import tiny_federation as federation


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    nodes = draw(st.integers(1, 13))
    pairs = [(i, j) for i in range(nodes) for j in range(nodes) if i != j]
    return Graph(draw(st.lists(st.sampled_from(pairs), max_size=40)) if pairs else [], nodes)


def test_edges_are_sorted_and_merged() -> None:
    graph = Graph([(3, 1), (0, 3), (1, 3)], 5)
    assert graph.edges == ((0, 3), (1, 3))
    assert graph.neighbours == ((3,), (3,), (), (0, 1), ())
    assert [graph.degree(node) for node in range(5)] == [1, 1, 0, 2, 0]
    assert not graph.connected
    assert Graph([(0, 1)], 2).connected


def test_a_graph_is_immutable_and_compares_by_value() -> None:
    graph = Graph([(1, 0)], 3)
    with pytest.raises(AttributeError):
        graph.nodes = 4  # type: ignore[misc]
    assert graph == Graph([(0, 1)], 3)
    assert hash(graph) == hash(Graph([(0, 1)], 3))
    assert graph != Graph([(0, 1)], 4)


def test_gossip_of_a_line_by_hand() -> None:
    graph = Graph([(0, 1), (1, 2)], 4)
    uniform = np.array([[3, 3, 0, 0], [2, 2, 2, 0], [0, 3, 3, 0], [0, 0, 0, 6]]) / 6
    metropolis = np.array([[2, 1, 0, 0], [1, 1, 1, 0], [0, 1, 2, 0], [0, 0, 0, 3]]) / 3
    np.testing.assert_allclose(graph.gossip("uniform"), uniform, rtol=1e-15)
    np.testing.assert_allclose(graph.gossip("metropolis"), metropolis, rtol=1e-15)
    assert graph.gossip("uniform").dtype == np.float64


def literal(graph: Graph, weights: str) -> np.ndarray:
    """The gossip matrix, written out."""
    degrees = np.array([len(ids) for ids in graph.neighbours], dtype=np.float64)
    largest = np.maximum(degrees[:, None], degrees) if weights == "metropolis" else degrees[:, None]
    adjacent = nx.to_numpy_array(graph.networkx(), nodelist=range(graph.nodes)) > 0
    matrix = np.where(adjacent, 1 / (1 + largest), 0.0)
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1) if weights == "metropolis" else 1 / (1 + degrees))
    return matrix


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
@pytest.mark.parametrize("nodes", [1, 2, 9, 127, 129, 300])  # a sum of more numbers is rounded in another order
def test_gossip_is_the_matrix_written_out_to_the_last_bit(nodes: int, weights: GossipWeights) -> None:
    graph = Graph.from_networkx(nx.gnp_random_graph(nodes, 0.3, seed=nodes))
    matrix = literal(graph, weights)
    np.testing.assert_array_equal(graph.gossip(weights), matrix)
    for i, row in enumerate(graph.shares(weights)):
        np.testing.assert_array_equal(matrix[i, sorted([i, *graph.neighbours[i]])], row)


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
def test_averaging_takes_memory_for_its_edges_and_not_for_all_pairs(weights: GossipWeights) -> None:
    graph = Graph.from_networkx(nx.cycle_graph(2000))
    assert len(graph.neighbours) == 2000
    tracemalloc.start()
    graph.shares(weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6 < 8 * 2000**2


@given(graphs())
def test_metropolis_is_symmetric_and_doubly_stochastic_on_any_graph(graph: Graph) -> None:
    matrix = graph.gossip("metropolis")
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-14)
    assert (matrix >= -1e-15).all()


@given(graphs())
def test_uniform_averages_the_neighbourhood(graph: Graph) -> None:
    matrix = graph.gossip("uniform")
    for node, ids in enumerate(graph.neighbours):
        row = np.zeros(graph.nodes)
        row[[node, *ids]] = 1 / (len(ids) + 1)
        np.testing.assert_array_equal(matrix[node], row)


@given(st.integers(3, 9), st.integers(0, 2**32 - 1))
def test_both_weights_preserve_the_mean_on_a_regular_graph(half: int, seed: int) -> None:
    graph = Graph.from_networkx(nx.random_regular_graph(3, 2 * half, seed=seed))
    values = np.random.default_rng(seed).standard_normal((2 * half, 5))
    uniform = graph.gossip("uniform")
    np.testing.assert_allclose(uniform, graph.gossip("metropolis"), rtol=1e-14)
    np.testing.assert_array_equal(uniform, uniform.T)
    np.testing.assert_allclose((uniform @ values).mean(axis=0), values.mean(axis=0), atol=1e-14)


@given(graphs(), st.data())
def test_induced_keeps_the_numbering_and_the_edges_inside(graph: Graph, data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.integers(0, graph.nodes - 1)))
    part = graph.induced(kept)
    assert part.nodes == graph.nodes
    assert set(part.edges) == {(i, j) for i, j in graph.edges if i in kept and j in kept}
    assert all(part.degree(node) == 0 for node in range(graph.nodes) if node not in kept)
    assert graph.induced(range(graph.nodes)) == graph


@given(graphs())
def test_networkx_and_back_is_the_same_graph(graph: Graph) -> None:
    assert Graph.from_networkx(graph.networkx()) == graph
    assert graph.connected == (len(list(nx.connected_components(graph.networkx()))) == 1)


def test_from_networkx_numbers_labels_in_sorted_order() -> None:
    assert Graph.from_networkx(nx.Graph([("c", "a"), ("b", "c")])) == Graph([(0, 2), (1, 2)], 3)


@pytest.mark.parametrize("edge", [(2, 2), (0, 3), (-1, 1)])
def test_an_impossible_edge_is_an_error(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="`edges` must join two different nodes from 0 to 2; got"):
        Graph([edge], 3)


def test_no_nodes_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"`nodes` must be an integer; got list\. Give it after the edges\."):
        Graph(3, [(0, 1)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`nodes` must be at least 1; got 0"):
        Graph([], 0)


def test_unknown_gossip_weights_are_an_error() -> None:
    with pytest.raises(ValueError, match="`weights` must be 'uniform' or 'metropolis'; got 'max'"):
        Graph([], 2).gossip("max")  # type: ignore[arg-type]


def test_an_unknown_node_in_induced_is_an_error() -> None:
    with pytest.raises(ValueError, match="`nodes` must be from 0 to 1; got 2"):
        Graph([], 2).induced([0, 2])


def test_a_directed_graph_has_those_that_a_node_hears_as_neighbours() -> None:
    graph = Graph([(0, 1), (2, 1), (1, 2), (0, 1)], 4, directed=True)
    assert graph.edges == ((0, 1), (1, 2), (2, 1))
    assert graph.neighbours == ((), (0, 2), (1,), ())
    assert [graph.receivers(node) for node in range(4)] == [(1,), (2,), (1,), ()]
    assert not graph.connected
    assert Graph([(0, 1), (2, 1)], 3, directed=True).connected
    expected = np.array([[6, 0, 0, 0], [2, 2, 2, 0], [0, 3, 3, 0], [0, 0, 0, 6]]) / 6
    np.testing.assert_allclose(graph.gossip("uniform"), expected, rtol=1e-15)
    assert graph.induced([0, 1]) == Graph([(0, 1)], 4, directed=True)
    assert graph.induced([0, 1]) != Graph([(0, 1)], 4)
    assert {*graph.networkx().edges} == {*graph.edges}
    with pytest.raises(ValueError, match=r"^`weights` must be 'uniform' for a directed graph; got 'metropolis'\."):
        graph.gossip("metropolis")
    with pytest.raises(ValueError, match=r"^`edges` must join two different nodes from 0 to 1; got \(1, 1\)\."):
        Graph([(1, 1)], 2, directed=True)


def test_nodes_that_answer_one_another_need_an_undirected_graph() -> None:
    fleet = federation.fleet(graph=Graph([(0, 1)], len(federation.ROWS), directed=True))
    with pytest.raises(ValueError, match=r"^`topology` must be undirected for this method, whose nodes answer one an"):
        fleet.share(fleet.everywhere(0.0))


def test_the_spectral_gap_of_graphs_whose_eigenvalues_are_known() -> None:
    ring = Graph([(i, (i + 1) % 9) for i in range(9)], 9)
    for weights in ("uniform", "metropolis"):
        assert ring.spectral_gap(weights) == pytest.approx(1 - (1 + 2 * np.cos(2 * np.pi / 9)) / 3)
        assert Graph([(i, j) for i in range(5) for j in range(i)], 5).spectral_gap(weights) == pytest.approx(1)
        assert Graph([(0, 1), (2, 3)], 4).spectral_gap(weights) == pytest.approx(0)
    star = Graph([(0, 1), (0, 2), (0, 3)], 4)  # W of uniform has the eigenvalues 1, 1/2, 1/2 and -1/4
    assert star.spectral_gap("uniform") == pytest.approx(1 / 2)
    assert Graph([], 1).spectral_gap("uniform") == 1


@given(graphs())
def test_the_spectral_gap_is_that_of_the_averages_limit(graph: Graph) -> None:
    """W^t goes to its limit at the rate 1 - gap, where the graph is connected."""
    gap = graph.spectral_gap("metropolis")
    assert 0 <= gap <= 1
    assert (gap > 1e-9) == (graph.connected if graph.nodes > 1 else True)
    w, mean = graph.gossip("metropolis"), np.full((graph.nodes, graph.nodes), 1 / graph.nodes)
    if gap > 1e-9:
        assert np.linalg.norm(np.linalg.matrix_power(w, 20) - mean, 2) <= (1 - gap) ** 20 + 1e-12


@pytest.mark.parametrize("edge", [(0.5, 1), (0, 1, 0.3), 3, ("0", "1"), (float("nan"), 1), np.arange(3)])
def test_an_edge_is_a_pair_of_whole_numbers(edge: object) -> None:
    with pytest.raises(
        TypeError, match=r"^`edges` must hold a pair of nodes' numbers for every edge; got .*\. Give \(i"
    ):
        Graph([(0, 1), edge], 3)  # type: ignore[list-item]
    assert Graph(np.array([[0.0, 1.0]]), 3).edges == Graph(np.array([[0, 1]], dtype=np.uint8), 3).edges == ((0, 1),)


def test_directions_of_a_networkx_graph_are_kept() -> None:
    g = nx.DiGraph([(2, 0), (0, 1)])
    assert Graph.from_networkx(g) == Graph([(2, 0), (0, 1)], 3, directed=True)
    g.add_edges_from([(0, 2), (1, 0)])
    assert Graph.from_networkx(g) == Graph([(0, 2), (0, 1)], 3)
    with pytest.raises(TypeError, match=r"^`g` must be a networkx graph whose labels can be sorted; got Graph"):
        Graph.from_networkx(nx.Graph([("a", 1)]))
    with pytest.raises(TypeError, match=r"^`g` must be a networkx graph whose labels can be sorted; got list"):
        Graph.from_networkx([(0, 1)])  # type: ignore[arg-type]
