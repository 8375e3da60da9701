"""What a manifest from elsewhere may hold, and what each rule says of what it may not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from fedtangent.reports import page, records, schema, table
from tests.reports.folders import Run, folder


def edited(tmp_path: Path, **change: Any) -> bytes:
    """A manifest with a part of it, `experiment__seed` or `labels`, replaced."""
    found = json.loads((folder(tmp_path) / "manifest.json").read_text())
    for path, value in change.items():
        *above, last = path.split("__")
        part = found
        for name in above:
            part = part[name]
        part[last] = value
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"experiment__method": ""}, "be JSON with an experiment and its method; it is not"),
        ({"experiment__method": "m" * 201}, "be JSON with an experiment and its method; it is not"),
        ({"experiment__method": ["m"]}, "be JSON with an experiment and its method; it is not"),
        ({"experiment__partition": {"a": 1}}, 'hold partition as a name or null; got {"a": 1}'),
        ({"experiment__dataset": "d" * 201}, f'hold dataset as a name or null; got "{"d" * 59}...'),
        ({"experiment__model_options": "x"}, 'hold model_options as an object; got "x"'),
        ({"experiment__options": [1]}, "hold options as an object; got [1]"),
        ({"experiment__seed": [1]}, "hold seed as an integer from 0 to 9223372036854775807; got [1]"),
        ({"experiment__seed": True}, "hold seed as an integer from 0 to 9223372036854775807; got true"),
        ({"experiment__seed": math.nan}, "hold seed as an integer from 0 to 9223372036854775807; got NaN"),
        ({"experiment__nodes": "x"}, 'hold nodes as an integer from 1 to 1000000; got "x"'),
        ({"experiment__nodes": 10**9}, "hold nodes as an integer from 1 to 1000000; got 1000000000"),
        ({"experiment__rounds": 0}, "hold rounds as an integer from 1 to 9223372036854775807; got 0"),
        ({"exposure": ["raw"]}, 'hold exposure as a name or null; got ["raw"]'),
        ({"labels": [[1], [1, 2]]}, "hold labels as null or every node's counts of the classes; got [[1], [1, 2]]"),
        ({"labels": [[1.5] * 3] * 10}, "hold labels as null or every node's counts of the classes; got [[1.5, "),
        ({"labels": [[-1, 2]] * 10}, "hold labels as null or every node's counts of the classes; got [[-1, 2]"),
        ({"labels": [[]] * 10}, "hold labels as null or every node's counts of the classes; got [[], []"),
        ({"labels": [[1, 2]] * 9}, "hold labels as null or every node's counts of the classes; got [[1, 2]"),
        ({"labels": 7}, "hold labels as null or every node's counts of the classes; got 7"),
        ({"edges": [[0, 1, 2]]}, "hold edges as null or pairs of different nodes; got [[0, 1, 2]]"),
        ({"edges": [[0, 10]]}, "hold edges as null or pairs of different nodes; got [[0, 10]]"),
        ({"edges": [[3, 3]]}, "hold edges as null or pairs of different nodes; got [[3, 3]]"),
        ({"edges": [[0, "1"]]}, 'hold edges as null or pairs of different nodes; got [[0, "1"]]'),
        ({"edges": {"0": 1}}, 'hold edges as null or pairs of different nodes; got {"0": 1}'),
        (
            {"edges": [[0, 1]], "experiment__nodes": None},
            "hold edges as null or pairs of different nodes; got [[0, 1]]",
        ),
    ],
)
def test_what_a_manifest_must_hold(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError) as error:
        schema.manifest(edited(tmp_path, **change))
    assert str(error.value).startswith(rule)


@pytest.mark.parametrize(
    "text", [b"[" * 10**5 + b"]" * 10**5, b'{"a":' * 30 + b"1" + b"}" * 30, b"\xff\xfe", b"1" * 9999]
)
def test_what_is_no_json_of_ours_is_told(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^be JSON with an experiment and its method; it is not$"):
        schema.manifest(text)


def test_a_manifest_may_lack_what_older_ones_lacked() -> None:
    assert schema.manifest(b'{"experiment": {"method": "m", "nodes": null}}') == {
        "experiment": {"method": "m", "nodes": None}
    }


GOOD = {"round": 2, "accuracy": 0.37, "loss": 1.3, "sent_bytes": 29, "seconds": 0.7, "time": [1, 2]}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"round": 1.5}, "an object with the numbers round, sent_bytes, seconds, none negative or infinite"),
        ({"round": 2**64}, "an object with the numbers round"),
        ({"sent_bytes": -1}, "an object with the numbers round"),
        ({"sent_bytes": math.inf}, "an object with the numbers round"),
        ({"seconds": math.nan}, "an object with the numbers round"),
        ({"seconds": 10**400}, "an object with the numbers round"),
        (
            {"accuracy": 1.01},
            "an object whose accuracy, mean_node_accuracy, worst_tenth_accuracy are numbers from 0 to 1",
        ),
        ({"worst_tenth_accuracy": [0.1]}, "an object whose accuracy, mean_node_accuracy"),
        ({"node_accuracy": 0.5}, "an object whose node_accuracy is null, or a list of numbers from 0 to 1 and nulls"),
        ({"class_accuracy": [0.5, None, 1.5]}, "an object whose class_accuracy is null, or a list of numbers"),
        ({"class_accuracy": ["0.5"]}, "an object whose class_accuracy is null, or a list of numbers"),
        ({"loss": {}}, "an object whose loss is a number or null"),
        ({"loss": 10**400}, "an object whose loss is a number or null"),
        ({"present": -1}, "an object whose present, links are counts or null"),
        ({"present": 3, "links": 1.5}, "an object whose present, links are counts or null"),
        ({"present": 3, "skipped": 1}, "an object whose skipped is true, false or null"),
        ({"multiply_adds": "7"}, "an object whose multiply_adds are a number or null, not negative or infinite"),
    ],
)
def test_what_a_round_must_hold(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError) as error:
        schema.row(json.dumps({**GOOD, **change}).encode())
    assert str(error.value).startswith(rule)


def test_a_round_keeps_what_else_it_holds_and_a_loss_beyond_all_counts_as_infinite() -> None:
    assert schema.row(json.dumps(GOOD).encode()) == GOOD
    assert schema.row(json.dumps({**GOOD, "loss": -1e300}).encode())["loss"] == math.inf
    assert math.isnan(schema.row(json.dumps({**GOOD, "loss": math.nan, "accuracy": None}).encode())["loss"])


STEERING = "\x1b]0;pwned\x07 \x9b31m \u202egnp \ud800 \u2028 a\nb"


def test_no_text_of_a_manifest_steers_a_terminal_or_breaks_a_file(tmp_path: Path) -> None:
    path = folder(tmp_path)
    change = {"experiment__method": STEERING, "experiment__options": {STEERING: STEERING}, "machine": {"x": [STEERING]}}
    (path / "manifest.json").write_bytes(edited(tmp_path, **change))
    record = records.read(path)
    text = page.page([record]) + str(table.html(records.groups([record]), "accuracy", None, [""]))
    assert "pwned" in text and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", text)
    assert text.encode()


def test_a_text_stays_what_it_is() -> None:
    text = "naïve 模型 \N{WOMAN}\N{ZERO WIDTH JOINER}\N{MICROSCOPE} ± \N{EN DASH}"
    assert schema.printable(text) == text


def test_long_settings_are_cut_in_a_label(run: Run) -> None:
    runs = [run(options={"times": list(range(k, 400))}) for k in range(3)]
    labels = [group.label for group in records.groups(runs)]
    assert len(set(labels)) == 3 and all(len(label) < 120 for label in labels)
