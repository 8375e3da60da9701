"""The topologies that draw: degrees, connectedness and the errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtangent.topologies.erdos_renyi import erdos_renyi
from fedtangent.topologies.regular import regular
from fedtangent.topologies.small_world import small_world


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(3, 40), st.data())
def test_regular_is_regular_and_connected(nodes: int, data: st.DataObject) -> None:
    degree = data.draw(st.integers(2, nodes - 1).filter(lambda d: d * nodes % 2 == 0))
    graph = regular(nodes, rng(nodes), degree=degree)
    assert [graph.degree(node) for node in range(nodes)] == [degree] * nodes
    assert graph.connected


def test_regular_of_degree_one_is_a_matching() -> None:
    graph = regular(8, rng(), degree=1)
    assert [graph.degree(node) for node in range(8)] == [1] * 8


@pytest.mark.parametrize("degree", [0, 8, 9])
def test_a_degree_not_below_the_nodes_is_an_error(degree: int) -> None:
    with pytest.raises(ValueError, match=f"`degree` must be at least 1 and below the number of nodes, 8; got {degree}"):
        regular(8, rng(), degree=degree)


def test_an_odd_degree_on_odd_nodes_is_an_error() -> None:
    with pytest.raises(ValueError, match="`degree` must be even when the number of nodes is odd; got 3 with 9 nodes"):
        regular(9, rng(), degree=3)


def test_regular_gives_up_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedtangent.topologies.regular.TRIES", 1)
    with pytest.raises(ValueError, match=r"`degree` must make a connected graph likely; got 2 with 400 nodes.*higher"):
        regular(400, rng(1), degree=2)


def test_erdos_renyi_has_about_p_of_all_edges() -> None:
    graph = erdos_renyi(100, rng(), p=0.3)
    assert abs(len(graph.edges) - 0.3 * 4950) < 5 * np.sqrt(0.3 * 0.7 * 4950)
    assert erdos_renyi(6, rng(), p=1.0).degree(0) == 5


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_erdos_renyi_by_default_connects_few_nodes_too(nodes: int) -> None:
    assert erdos_renyi(nodes, rng(nodes)).connected


def test_erdos_renyi_gives_up_with_a_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"`p` must make a connected graph likely; got 0.001 with 50 .* above 0.0782\.$"
    ):
        erdos_renyi(50, rng(), p=0.001)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p_that_is_no_probability_is_an_error(p: float) -> None:
    with pytest.raises(ValueError, match=f"`p` must be a probability, from 0 to 1; got {p}"):
        erdos_renyi(50, rng(), p=p)


def test_small_world_without_rewiring_is_a_ring_of_near_neighbours() -> None:
    graph = small_world(9, rng(), rewire=0.0)
    assert graph.neighbours[0] == (1, 2, 7, 8)
    assert len(small_world(31, rng(), degree=6, rewire=0.5).edges) == 31 * 3


@pytest.mark.parametrize("degree", [0, 3, 10, 12])
def test_an_odd_or_impossible_small_world_degree_is_an_error(degree: int) -> None:
    with pytest.raises(
        ValueError, match=f"`degree` must be even, at least 2 and below the number of nodes, 10; got {degree}"
    ):
        small_world(10, rng(), degree=degree)


@pytest.mark.parametrize("rewire", [-0.1, 1.1, float("nan")])
def test_rewire_that_is_no_probability_is_an_error(rewire: float) -> None:
    with pytest.raises(ValueError, match=f"`rewire` must be a probability, from 0 to 1; got {rewire}"):
        small_world(10, rng(), rewire=rewire)


def test_small_world_gives_up_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    # About half of these graphs are connected: of many, each drawn once, some fail.
    monkeypatch.setattr("fedtangent.topologies.small_world.TRIES", 1)
    remedy = r"`degree` must make a connected graph likely; got 2 with 200 nodes.*less rewiring"
    with pytest.raises(ValueError, match=remedy):
        [small_world(200, rng(seed), degree=2, rewire=1.0) for seed in range(60)]
