"""The folder of a recipe: its manifest, whose folder it is, and rows that a crash or a user has damaged."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import fedtangent
from fedtangent.experiments import rows

RUN: dict[str, Any] = {"recipe": "mine", "options": {"widths": [3, 5], "lr": 0.1}, "complete": False}
FOUND: list[rows.Row] = [{"a": 1, "b": 0.1, "c": "x", "d": True}, {"a": 2, "b": -1e300}]


def test_the_manifest_says_what_was_true() -> None:
    found = rows.manifest("mine", {"widths": (3, 5), "path": Path("a/b.npz")})
    assert json.loads(json.dumps(found)) == found
    assert (found["recipe"], found["options"]) == ("mine", {"widths": [3, 5], "path": "b.npz"})
    assert found["versions"]["fedtangent"] == fedtangent.__version__
    assert (found["threads"], found["complete"]) == (torch.get_num_threads(), False)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows.begin(tmp_path / "new" / "out", RUN, FOUND[:1])
    rows.append(tmp_path / "new" / "out", FOUND[1])
    assert rows.read(tmp_path / "new" / "out") == FOUND
    assert rows.there(tmp_path / "new" / "out", RUN) == RUN
    rows.begin(tmp_path / "new" / "out", RUN, [])
    assert rows.read(tmp_path / "new" / "out") == []
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["manifest.json", "rows.jsonl"]


def test_what_is_not_finite_is_null_and_comes_back_as_nan(tmp_path: Path) -> None:
    rows.begin(tmp_path, RUN, [{"a": math.nan, "b": -math.inf, "c": 1.5}])
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": null, "b": null, "c": 1.5}\n'
    (row,) = rows.read(tmp_path)
    assert math.isnan(row["a"]) and math.isnan(row["b"]) and row["c"] == 1.5


def test_a_torn_last_row_is_left_out(tmp_path: Path) -> None:
    rows.begin(tmp_path, RUN, FOUND)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert rows.read(tmp_path) == FOUND[:1]


@pytest.mark.parametrize("damaged", ["{", "[1]", "", "3"])
def test_a_damaged_row(damaged: str, tmp_path: Path) -> None:
    rows.begin(tmp_path, RUN, FOUND)
    path = tmp_path / "rows.jsonl"
    path.write_text(damaged + "\n" + path.read_text())
    message = r"^`out` must hold whole rows; got a damaged one in line 1 of .*rows.jsonl. Name another folder.$"
    with pytest.raises(ValueError, match=message):
        rows.read(tmp_path)


def test_a_new_folder_holds_nothing(tmp_path: Path) -> None:
    assert rows.there(tmp_path / "absent", RUN) is None
    assert rows.there(tmp_path, RUN) is None
    (tmp_path / ".manifest.json.new").write_text("{")  # of a crash
    assert rows.there(tmp_path, RUN) is None
    assert rows.read(tmp_path) == []


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    message = r"^`out` must be a new folder, or one with this recipe's rows; got .*, which holds something else. Name a"
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match=message):
            rows.there(out, RUN)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"recipe": "other"}, "whose recipe is 'mine' and not 'other'. Choose another --out or set it so."),
        ({"options": {"widths": [3], "lr": 0.1}}, r"whose widths is \[3, 5\] and not \[3\]. Choose"),
        ({"options": {"widths": [3, 5]}}, "whose lr is 0.1 and not None."),
        ({"options": {"widths": [3, 5], "lr": 0.1, "seed": 7}}, "whose seed is None and not 7."),
    ],
)
def test_a_folder_with_other_rows(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    rows.begin(tmp_path, RUN, FOUND)
    with pytest.raises(ValueError, match=rf"^`out` must not hold other rows; got .*, {sentence}"):
        rows.there(tmp_path, {**RUN, **change})


@pytest.mark.parametrize("text", ["{", "[]", '{"options": 3}', '{"options": [3]}'])
def test_a_damaged_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"^`out` must hold a whole manifest.json; got a damaged one in .*\. Name anot"
    ):
        rows.there(tmp_path, RUN)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^`out` must be a folder that can be written; got .*Not a directory"):
        rows.begin(tmp_path / "file" / "out", RUN, [])


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    rows.begin(tmp_path, RUN, FOUND)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"^`out` must be a folder that can be written; got .*No space left on device"):
        rows.begin(tmp_path, {**RUN, "complete": True}, [])
    assert rows.there(tmp_path, RUN) == RUN
    assert rows.read(tmp_path) == FOUND


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ((1, 2), r"^`mine` must yield rows as dicts; got tuple. Yield dict\(name=value\).$"),
        (
            {"a": 1, "b": torch.ones(())},
            "^`mine` must yield rows of texts, numbers and booleans; got Tensor for 'b'. C",
        ),
        ({"a": None}, "^`mine` must yield rows of texts, numbers and booleans; got NoneType for 'a'. Convert it, as w"),
        ({"a": {"b": 1}}, "^`mine` must yield rows of texts, numbers and booleans; got dict for 'a'."),
    ],
)
def test_rows_are_flat(row: object, sentence: str) -> None:
    rows.check({"a": 1, "b": 0.5, "c": "x", "d": False}, "mine")
    with pytest.raises(TypeError, match=sentence):
        rows.check(row, "mine")
