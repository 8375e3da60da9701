"""How accuracy is spread over nodes and classes: the numbers of the records, and what is told where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedtangent.reports import distributions, records
from tests.reports.folders import Run


def test_the_nodes_of_all_seeds_are_sorted(run: Run) -> None:
    drawing = distributions.of_nodes(
        records.groups([run(seed=0, node_accuracy=[0.5, 0.2, 0.9]), run(seed=1, node_accuracy=[0.4, 0.31])])
    )
    assert drawing is not None
    (line,) = drawing.hover["lines"]
    assert line["say"] == ["0.200", "0.310", "0.400", "0.500", "0.900"]
    assert drawing.hover["head"] == [f"{share}% of the nodes have at most" for share in (20, 40, 60, 80, 100)]
    assert "dfedavg from 0.200 to 0.900" in drawing.svg and drawing.note == ""


def test_methods_without_nodes_of_their_own_are_named(run: Run) -> None:
    drawing = distributions.of_nodes(
        records.groups([run(node_accuracy=[0.5]), run("fedavg"), run("central", rounds=3)])
    )
    assert drawing is not None
    assert drawing.note.startswith("fedavg and central have no accuracies of single nodes")
    assert distributions.of_nodes(records.groups([run("fedavg")])) is None


def test_three_thousand_nodes_are_as_heavy_as_three_hundred(run: Run) -> None:
    rng = np.random.default_rng(0)
    some, many = (
        distributions.of_nodes(records.groups([run(f"m{n}", node_accuracy=rng.random(n))])) for n in (300, 3000)
    )
    assert some is not None and many is not None
    (line,) = many.hover["lines"]
    assert len(many.svg) < 1.5 * len(some.svg) and len(line["say"]) <= 250
    assert many.hover["head"][-1].startswith("100% of the nodes")


def test_every_class_has_a_row_and_the_mean_over_seeds(run: Run) -> None:
    drawing = distributions.of_classes(
        records.groups([run(seed=0, class_accuracy=[0.5, None, 1.0]), run(seed=1, class_accuracy=[0.7, None, 0.9])])
    )
    assert drawing is not None
    (line,) = drawing.hover["lines"]
    assert (drawing.hover["head"], line["say"]) == (["Class 0", "Class 2"], ["0.600", "0.950"])  # 1 has no test row
    assert "dfedavg is least accurate on class 0, 0.600" in drawing.svg


def test_a_hundred_classes_are_sorted(run: Run) -> None:
    values = [k / 100 for k in range(100)][::-1]
    drawing = distributions.of_classes(records.groups([run(class_accuracy=values)]))
    assert drawing is not None
    assert (
        drawing.hover["head"][9] == "10% of the classes have at most" and drawing.hover["lines"][0]["say"][9] == "0.090"
    )


def test_the_last_round_that_was_measured_counts(run: Run) -> None:
    record = run(rounds=3)
    record.rounds[0]["node_accuracy"], record.rounds[1]["node_accuracy"] = [0.1], [0.2, None]
    held = distributions.latest(record, "node_accuracy")
    assert held[0] == 0.2 and math.isnan(held[1])
    assert distributions.latest(record, "class_accuracy") == []


@pytest.mark.parametrize("classes", [[None, None], []])
def test_nothing_measured_is_no_figure_or_an_empty_one(run: Run, classes: list[None]) -> None:
    drawing = distributions.of_classes(records.groups([run(class_accuracy=classes)]))
    assert drawing is None or drawing.hover["at"] == []
