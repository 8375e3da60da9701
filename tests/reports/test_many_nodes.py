"""The page of a run of thousands of nodes is no larger, nor more work, than that of hundreds."""

import numpy as np
import pytest
import scipy.sparse
from matplotlib.figure import Figure

from fedtangent.reports import figures, hover, nodes


def test_the_labels_of_many_nodes_are_as_large_a_drawing_as_those_of_some() -> None:
    def drawn(count: int) -> str:
        return nodes.skew([[1 + i % 3, 0, i % 2] for i in range(count)], "skew")[0]

    assert len(drawn(12_000)) < 1.2 * len(drawn(1500))


def test_the_graph_of_many_nodes_takes_no_square_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def dear(*_: object, **__: object) -> None:
        raise AssertionError("this takes the square of the nodes")

    for name in ("kamada_kawai_layout", "spring_layout", "from_scipy_sparse_array"):
        monkeypatch.setattr(nodes.nx, name, dear)
    monkeypatch.setattr(nodes.csgraph, "shortest_path", dear)

    def drawn(count: int) -> hover.Drawing:
        return nodes.graph([(i, (i + 1) % count) for i in range(count)], count, "graph")

    some, many = drawn(2000), drawn(20_000)
    assert some.note == "2,000 nodes and 2,000 edges; a node has 2 neighbours. One node in 2 is drawn."
    assert "2,858 of the 20,000 edges are drawn. One node in 14 is drawn." in many.note
    assert len(many.svg) < 2 * len(some.svg) < 600_000


def test_neighbours_of_a_large_ring_lie_side_by_side() -> None:
    count = 1000
    ring = np.arange(count)
    links = scipy.sparse.csr_array((np.ones(count), (ring, np.roll(ring, -1))), shape=(count, count))
    at = nodes._by_pivots(links + links.T)
    near = np.linalg.norm(at - np.roll(at, -1, axis=0), axis=1)
    assert np.median(near) < 0.05 * np.linalg.norm(at - np.roll(at, count // 2, axis=0), axis=1).min()


def test_parts_that_cannot_be_reached_are_laid_out_too() -> None:
    drawing = nodes.graph([(i, i + 1) for i in range(0, 1000, 2)], 1001, "graph")
    assert "The graph falls into 501 parts." in drawing.note and "nan" not in drawing.svg


def test_a_curve_that_was_never_measured_takes_no_room() -> None:
    axes = Figure().add_subplot()
    axes.plot([1, 2], [np.nan, np.nan])
    assert figures._ink(axes).shape == (0, 2)
    axes.plot([1, 2], [0.5, 0.6])
    assert len(figures._ink(axes)) == 80
