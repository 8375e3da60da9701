"""What every topology owes; parametrised by the folder."""

import inspect

import numpy as np
import pytest

from fedtangent.catalog import load, names
from fedtangent.federation import Graph

TOPOLOGIES = names("topologies")


def drawn(name: str, nodes: int, seed: int) -> Graph:
    return load("topologies", name)(nodes, np.random.default_rng(seed))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_defaults_give_a_connected_graph_of_all_nodes(name: str) -> None:
    for nodes in (12, 30, 300):
        graph = drawn(name, nodes, seed=nodes)
        assert graph.nodes == nodes
        assert graph.connected


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_same_generator_gives_the_same_graph(name: str) -> None:
    assert drawn(name, 42, seed=5) == drawn(name, 42, seed=5)


@pytest.mark.parametrize("name", ["regular", "erdos_renyi", "small_world"])
def test_the_next_draw_gives_another_graph(name: str) -> None:
    rng = np.random.default_rng(3)
    topology = load("topologies", name)
    assert topology(42, rng) != topology(42, rng)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_options_are_keyword_only_with_defaults(name: str) -> None:
    first, second, *options = inspect.signature(load("topologies", name)).parameters.values()
    assert (first.name, second.name) == ("nodes", "rng")
    assert all(option.kind is option.KEYWORD_ONLY and option.default is not option.empty for option in options)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_too_few_nodes_are_one_clear_error(name: str) -> None:
    for nodes in (0, -2):
        with pytest.raises(ValueError, match=r"^`\w+` must .*; got .*\. .*\.$"):
            drawn(name, nodes, seed=1)
