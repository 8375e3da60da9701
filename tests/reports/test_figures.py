"""The figures: well formed, in the page's colours, without a trace of matplotlib's state, legible."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtangent.reports import figures, nodes, records, svg
from tests.reports.folders import Run


def words(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter("text")]


def some(run: Run) -> list[records.Group]:
    tracks = {"ntkdfl": 0.5, "dfedavg": 0.2, "local": 0.9, "central": 0.7}
    return records.groups([run(method, seed, speed=speed) for seed in (0, 1) for method, speed in tracks.items()])


@pytest.mark.parametrize("against", ["round", "sent_bytes"])
def test_each_curve_carries_its_name_in_its_colour(run: Run, against: figures.Against) -> None:
    found = some(run)
    drawing = figures.curves(found, "accuracy", 0.8, against)
    texts = words(drawing)
    assert texts.count("ntkdfl") == texts.count("dfedavg") == texts.count("central") == texts.count("local") == 1
    assert "target 0.8" in texts
    for look in figures.looks(found):
        assert svg.variable(look.colour) in drawing


def test_the_byte_axis_is_logarithmic_and_in_units(run: Run) -> None:
    texts = words(figures.curves(some(run), "accuracy", None, "sent_bytes"))
    assert "2 MB" in texts or "10 MB" in texts


def test_every_drawing_is_described(run: Run) -> None:
    label = ElementTree.fromstring(figures.curves(some(run), "accuracy", None, "round")).get("aria-label")
    assert label is not None
    assert re.match(r"Accuracy against rounds: ntkdfl ends at 0\.\d{3} after 12 rounds; dfedavg ends at", label)


def test_only_the_pages_colours_are_used(run: Run) -> None:
    drawing = figures.curves(some(run), "accuracy", 0.8, "round") + nodes.graph([(0, 1), (1, 2)], 3, "g")[0]
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", drawing)) == set()


def test_matplotlib_is_left_as_it_was(run: Run) -> None:
    before = dict(matplotlib.rcParams)
    figures.curves(some(run), "accuracy", 0.8, "sent_bytes")
    assert dict(matplotlib.rcParams) == before


def test_a_users_matplotlib_settings_do_not_show(run: Run) -> None:
    found = some(run)
    usual = figures.curves(found, "accuracy", 0.8, "round")
    with matplotlib.rc_context({"font.size": 30, "font.family": ["serif"], "svg.fonttype": "path"}):
        assert figures.curves(found, "accuracy", 0.8, "round") == usual


def test_ids_are_apart_in_one_page(run: Run) -> None:
    found = some(run)
    both = "".join(figures.curves(found, "accuracy", 0.8, against) for against in ("round", "sent_bytes"))
    ids = re.findall(r' id="([^"]+)"', both)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', both)) <= set(ids)


def test_a_regression_a_single_round_and_no_round_are_drawn(run: Run) -> None:
    empty = run("dpsgd")
    empty.rounds.clear()
    for runs in ([run(kind="loss")], [run("ntkdfl", rounds=1)], [empty], [run("central")]):
        found = records.groups(runs)
        for against in ("round", "sent_bytes"):
            assert figures.curves(found, records.measure(runs), None, against).startswith("<svg ")


def test_a_diverged_run_is_drawn_up_to_where_it_diverged(run: Run) -> None:
    found = records.groups([run(accuracies=[0.3, 0.5, float("nan")]), run("ntkdfl", accuracies=[float("nan")] * 2)])
    texts = words(figures.curves(found, "accuracy", 0.4, "sent_bytes"))
    assert "dfedavg" in texts and "ntkdfl" not in texts


def test_long_or_many_names_go_into_a_legend(run: Run) -> None:
    assert not figures.names_fit(records.groups([run("a_method_whose_name_is_long")]))
    assert not figures.names_fit(records.groups([run(f"m{i}") for i in range(7)]))
    assert "m3" not in words(
        figures.curves(records.groups([run(f"m{i}") for i in range(7)]), "accuracy", None, "round")
    )


def test_colours_are_apart_and_grey_where_nothing_is_sent(run: Run) -> None:
    found = some(run)
    variables = [svg.variable(look.colour) for look in figures.looks(found)]
    assert variables == ["var(--curve-0)", "var(--curve-1)", "var(--reference-0)", "var(--reference-1)"]
    assert [look.reference for look in figures.looks(found)] == [False, False, True, True]


def test_no_two_of_forty_curves_look_alike(run: Run) -> None:
    found = records.groups([run(f"m{i}", rounds=1) for i in range(40)])
    assert len({(look.colour, look.marker) for look in figures.looks(found)}) == 40
    assert len({look.key for look in figures.looks(found)}) == 40


def test_a_long_curve_has_few_markers_and_one_at_its_end(run: Run) -> None:
    """A marker is drawn by `use`; the figure of one method has no others but those of the ticks."""
    few, many = (
        figures.curves(records.groups([run(rounds=rounds)]), "accuracy", None, "round").count("<use")
        for rounds in (3, 300)
    )
    assert many - few <= 6


@pytest.mark.parametrize("against", ["round", "sent_bytes"])
def test_lines_that_are_the_same_are_named_and_dashed_in_turns(run: Run, against: figures.Against) -> None:
    track = [0.1, 0.5, 0.7]
    same = [run(name, accuracies=track) for name in ("fedavg", "fedprox", "moon")]
    longer = run("scaffold", accuracies=[*track, 0.72])
    other = run("feddyn", accuracies=[0.1, 0.5, 0.75])
    drawing = figures.drawn(records.groups([*same, longer, other]), "accuracy", None, against)
    assert (
        drawing.note == "The lines of fedavg, fedprox, moon and scaffold lie on one another; their dashes take turns."
    )
    dashes = re.findall(r"stroke-dasharray: ([\d.]+),([\d.]+); stroke-dashoffset: ([\d.]+)", drawing.svg)
    turns = [
        (float(on), float(off), float(start)) for on, off, start in dashes if round(float(off) / float(on), 6) == 3
    ]
    assert [start / on for on, _, start in turns] == pytest.approx([0, 1, 2, 3])
    assert figures.drawn(records.groups([same[0], other]), "accuracy", None, against).note == ""


@given(
    st.lists(st.tuples(st.floats(50, 300), st.floats(30, 290), st.integers(3, 20)), min_size=2, max_size=6),
)
def test_labels_never_overlap(ends: list[tuple[float, float, int]]) -> None:
    placed = figures.spaced([figures.End("x" * n, "red", x, y) for x, y, n in ends], 28, 290)
    for a, b in itertools.combinations(placed, 2):
        apart_in_x = a.x + a.width < b.x or b.x + b.width < a.x
        assert apart_in_x or abs(a.y - b.y) > figures.LINE - 1
    assert all(28 <= end.y <= 290 for end in placed)


def test_the_heat_map_has_a_column_a_node_and_a_row_a_class() -> None:
    labels = [[7, 0, 2], [0, 9, 0], [1, 1, 11], [3, 4, 5]]
    drawing, _, caption = nodes.skew(labels, "s")
    cells = sum(len(re.findall("M ", path)) for path in re.findall(r' d="([^"]*)"', drawing))
    assert cells >= np.count_nonzero(labels) + len(labels)
    assert caption.startswith("4 nodes with 9 to 13 rows each. A node holds 2.2 of the 3 classes on average")
    assert "76% of its rows" in caption


def test_a_node_without_rows_and_many_classes_are_drawn() -> None:
    assert nodes.skew([[0, 0], [3, 4]], "s")[0]
    rng = np.random.default_rng(5)
    drawing, *_ = nodes.skew(rng.multinomial(50, [0.01] * 100, size=30).tolist(), "s")
    assert "95" in words(drawing) and "96" not in words(drawing)


def test_the_graph_is_drawn_and_measured() -> None:
    drawing, _, caption = nodes.graph([(i, (i + 1) % 7) for i in range(7)], 7, "g")
    assert [text for text in words(drawing) if text] == list("0123456")
    assert (
        caption == "7 nodes and 7 edges; a node has 2 neighbours. From any node to any other it takes at most 3 hops."
    )


def test_a_graph_in_parts_is_told() -> None:
    _, _, caption = nodes.graph([(0, 1), (2, 3), (3, 4)], 5, "g")
    assert caption == "5 nodes and 3 edges; a node has 1 to 2 neighbours. The graph falls into 2 parts."


def test_a_graph_of_one_node_or_two() -> None:
    assert nodes.graph([], 1, "g").note.startswith("1 node and 0 edges")
    assert "one hop" in nodes.graph([(0, 1)], 2, "g").note


def test_of_a_dense_graph_some_edges_are_drawn() -> None:
    edges = list(nx.complete_graph(120).edges())
    drawing, _, caption = nodes.graph(edges, 120, "g")
    assert "one hop" in caption and caption.endswith("2,380 of the 7,140 edges are drawn.")
    assert len(drawing) < 200_000
