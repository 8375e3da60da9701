"""The page of a run of thousands of nodes is no larger, nor more work, than that of hundreds."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fedtangent.reports import figures, nodes


def test_the_labels_of_many_nodes_are_as_large_a_drawing_as_those_of_some() -> None:
    def drawn(count: int) -> str:
        return nodes.skew([[1 + i % 3, 0, i % 2] for i in range(count)], "skew")[0]

    assert len(drawn(12_000)) < 1.2 * len(drawn(1500))


def test_the_graph_of_many_nodes_is_told_and_not_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def dear(*_: object, **__: object) -> None:
        raise AssertionError("this takes the square of the nodes")

    for name in ("kamada_kawai_layout", "spring_layout", "diameter"):
        monkeypatch.setattr(nodes.nx, name, dear)
    drawing, caption = nodes.graph([(i, (i + 1) % 2000) for i in range(2000)], 2000, "graph")
    assert (drawing, caption) == (
        "",
        "2,000 nodes and 2,000 edges; a node has 2 neighbours. So many are not drawn.",
    )


def test_a_curve_that_was_never_measured_takes_no_room() -> None:
    axes = Figure().add_subplot()
    axes.plot([1, 2], [np.nan, np.nan])
    assert figures._ink(axes).shape == (0, 2)
    axes.plot([1, 2], [0.5, 0.6])
    assert len(figures._ink(axes)) == 80
