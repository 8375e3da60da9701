"""Tables and figures of the measures that were asked for: the numbers of the records, and nothing without."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedtangent.reports import measure_figures, measures, page, records
from fedtangent.reports.statistics import MISSING
from tests.reports.folders import folder


def own(each: list[float | None], classes: list[float | None] | None = None) -> dict[str, Any]:
    there = [value for value in each if value is not None]
    mean = sum(there) / len(there)
    deviation = (sum((value - mean) ** 2 for value in there) / len(there)) ** 0.5
    told = {"mean": mean, "deviation": deviation, "worst_tenth": min(there), "nodes": each}
    return told if classes is None else told | {"classes": classes}


def measured(tmp_path: Path, *told: Any, method: str = "dfedavg", seed: int = 0) -> records.Record:
    """A run of as many rounds as measures."""
    path = folder(tmp_path, method, seed, rounds=len(told))
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    for line, one in zip(lines, told, strict=True):
        line["measures"] = one
    (path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return records.read(path)


ACCURACY = {"own": own([0.5, 0.9], [0.6, None]), "aggregate": own([0.4, 0.6], [0.3, 1.0])}
AUC = {"own": own([0.8, None]), "aggregate": {"all": 0.75}}


def lines(found: list[records.Record]) -> list[list[str]]:
    text = io.StringIO()
    (_, table) = measures.tables(found)
    Console(file=text, width=120).print(table)
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.getvalue().splitlines() if "│" in line]


def test_a_line_a_method_a_measure_and_a_model(tmp_path: Path) -> None:
    found = [measured(tmp_path, {"accuracy": ACCURACY, "auc": AUC})]
    assert lines(found) == [
        ["dfedavg", "Accuracy", "own models", "0.700", "0.200", "0.500"],
        ["dfedavg", "Accuracy", "aggregated model", "0.500", "0.100", "0.400"],
        ["dfedavg", "AUC", "own models", "0.800", "0.000", "0.800"],
        ["dfedavg", "AUC", "aggregated model", "0.750", MISSING, MISSING],
    ]
    assert "AUC has no value at 1 of 2 nodes." in measures.note(records.groups(found))


def test_over_seeds_there_are_means_and_their_deviation(tmp_path: Path) -> None:
    found = [
        measured(tmp_path, {"f1": {"own": own([value]), "aggregate": None}}, seed=i)
        for i, value in enumerate((0.5, 0.7))
    ]
    assert lines(found) == [["dfedavg", "F1", "own models", "0.600 ± 0.141", "0.000", "0.600 ± 0.141"]]
    assert "one standard deviation over the seeds" in measures.note(records.groups(found))


def test_the_last_round_that_has_own_models_is_told(tmp_path: Path) -> None:
    late = {"accuracy": {"own": None, "aggregate": own([0.1])}}
    assert measures.latest(measured(tmp_path, late, {"accuracy": ACCURACY}, late))["accuracy"] == ACCURACY
    assert measures.latest(measured(tmp_path, late))["accuracy"] == late["accuracy"]


def test_own_models_and_the_aggregated_one_over_nodes_and_classes(tmp_path: Path) -> None:
    found = records.groups([measured(tmp_path, {"accuracy": ACCURACY, "auc": AUC})])
    drawing = measure_figures.over_nodes(found, "accuracy", "measure-0")
    assert drawing is not None
    assert [(line["name"], line["say"]) for line in drawing.hover["lines"]] == [
        ("dfedavg", ["0.500", "0.900"]),
        ("dfedavg, aggregated", ["0.400", "0.600"]),
    ]
    drawing = measure_figures.over_nodes(found, "auc", "measure-1")
    assert drawing is not None
    assert [line["say"] for line in drawing.hover["lines"]] == [["0.800"]]
    drawing = measure_figures.over_classes(found)
    assert drawing is not None
    told = {line["name"]: line["say"] for line in drawing.hover["lines"]}
    assert told == {"dfedavg, aggregated model": ["0.300", "1.000"], "dfedavg, own models": ["0.600"]}


def test_a_model_that_all_share_is_one_line(tmp_path: Path) -> None:
    found = records.groups([measured(tmp_path, {"f1": {"own": AUC["own"], "aggregate": AUC["own"]}}, method="fedavg")])
    drawing = measure_figures.over_nodes(found, "f1", "measure-0")
    assert drawing is not None and len(drawing.hover["lines"]) == 1
    assert measure_figures.over_classes(found) is None


def test_a_hundred_classes_are_sorted(tmp_path: Path) -> None:
    many: list[float | None] = [k / 100 for k in range(99, -1, -1)]
    found = records.groups([measured(tmp_path, {"accuracy": {"own": own([0.5], many), "aggregate": None}})])
    drawing = measure_figures.over_classes(found)
    assert drawing is not None
    assert drawing.hover["head"][9] == "10% of the classes have at most"
    assert drawing.hover["lines"][0]["say"][9] == "0.090"


def test_the_page_has_a_section_and_columns_only_where_something_was_asked_for(tmp_path: Path) -> None:
    text = page.page(
        [measured(tmp_path, {"accuracy": ACCURACY, "<b>": AUC}), measured(tmp_path, None, method="fedavg")]
    )
    assert text.count('id="plot-measure-') == 3 and "<h3>&lt;b&gt;</h3>" in text
    (held,) = re.findall(r"data:text/csv;base64,([^\"]+)", text)
    head, first, second = base64.b64decode(held).decode().splitlines()
    assert head.endswith("own_accuracy,aggregate_accuracy,own_<b>,aggregate_<b>")
    assert first.endswith("0.7,0.5,0.8,0.75") and second.endswith(",,,")
    assert "own &lt;b&gt;" in text and "<b>" not in text
    plain = page.page([measured(tmp_path, None)])
    assert "measures" not in re.sub(r"<style>.*?</style>", "", plain, flags=re.DOTALL)
    assert len(measures.tables([measured(tmp_path, None)])) == 1


@pytest.mark.parametrize(
    "told",
    [
        [],
        {"f1": 0.5},
        {"": {}},
        {"f1": {"mine": None}},
        {"f1": {"own": 0.5}},
        {"f1": {"own": {"other": 0.5}}},
        {"f1": {"own": {"mean": "0.5"}}},
        {"f1": {"own": {"mean": 1e200}}},
        {"f1": {"own": {"nodes": 0.5}}},
        {"f1": {"own": {"nodes": [0.5, True]}}},
        {f"m{k}": {} for k in range(51)},
    ],
)
def test_measures_from_elsewhere_are_checked(tmp_path: Path, told: Any) -> None:
    with pytest.raises(ValueError, match="must be an object whose measures are null, or by name null or what own and"):
        measured(tmp_path, told)
