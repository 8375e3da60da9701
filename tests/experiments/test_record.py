"""The folder of a run: what its manifest says, whose folder it is, and its rounds."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtangent
from fedtangent.experiments import record
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.federation import Central, Wire
from fedtangent.reports import records
from fedtangent.transports.memory import memory
from tests.experiments.tiny import ROWS, data, tiny

MANIFEST: dict[str, Any] = {"experiment": {"method": "m", "options": {"lr": 1}}, "fingerprint": "f", "threads": 1}


def test_the_manifest_says_what_was_true() -> None:
    built = setup(tiny())
    found = record.manifest(built)
    assert json.loads(json.dumps(found)) == found
    assert found["experiment"] == built.description
    assert found["labels"] == [torch.bincount(part.y, minlength=3).tolist() for part in built.data]
    assert found["rows"] == list(ROWS)
    graph = built.graph(1)
    assert graph is not None
    assert [tuple(edge) for edge in found["edges"]] == list(graph.edges)
    assert (found["exposure"], found["parameters"], found["threads"]) == ("aggregate", 51, torch.get_num_threads())
    assert (found["inputs"], found["outputs"]) == ([4], 3)
    assert found["versions"]["fedtangent"] == fedtangent.__version__
    assert found["machine"]["cores"] > 0
    assert found["versions"].keys() == {"fedtangent", "python", "torch", "numpy", "networkx", "scipy"}
    assert found["sources"].keys() == {"method", "model", "topology"}
    assert sorted(node for chunk in found["chunks"] for node in chunk) == [0, 1, 2, 3, 4]


def test_without_classes_and_neighbours_there_are_no_labels_and_edges() -> None:
    found = record.manifest(setup(tiny("fedavg", dataset=data(0))))
    assert (found["labels"], found["edges"]) == (None, None)


def test_the_reports_read_it(tmp_path: Path) -> None:
    result = run(tiny(), tmp_path / "run")
    found = records.read(tmp_path / "run")
    assert found.manifest == result.manifest
    assert found.rounds == result.rounds


def test_entries_hold_numbers_lists_and_nulls() -> None:
    fleet = setup(tiny()).fleet(1, Wire(memory()))
    extra = {
        "time": fleet.each([torch.tensor(k) for k in range(5)]),
        "pair": fleet.each([(k, k / 3) for k in range(5)]),
        "share": Central(1 / 3),
        "more": {"a": [torch.tensor(torch.inf)]},
    }
    found = record.line({"loss": float("nan"), "deep": {"a": [float("inf"), 1.0]}}, extra)
    assert found == {
        "loss": None,
        "deep": {"a": [None, 1.0]},
        "time": [0, 1, 2, 3, 4],
        "pair": [[0, 0.0], [1, 0.3333333], [2, 0.6666667], [3, 1.0], [4, 1.333333]],
        "share": 0.3333333,
        "more": {"a": [None]},
    }


def test_numbers_of_numpy_are_numbers() -> None:
    extra = {"mean": np.float32(1 / 3), "any": np.bool_(True), "ids": np.arange(3), 5: [np.int64(7)]}
    assert record.line({}, extra) == {"mean": 0.3333333, "any": True, "ids": [0, 1, 2], "5": [7]}


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, 10**400, [date(2020, 1, 1)]])
def test_what_json_has_no_form_for(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^`mine` must be recorded as numbers, texts, or lists or dicts of them; got "):
        record.line({}, {"mine": value})


def test_a_method_does_not_record_what_the_experiment_does() -> None:
    with pytest.raises(
        ValueError, match=r"^a method must not record 'loss'; the experiment does. Choose another name.$"
    ):
        record.line({"round": 1, "loss": 2.0}, {"loss": 3.0})


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_holds_something_else(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    message = r"^`out` must be a new folder, or one with a run; got .*, which holds something else. Name another.$"
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match=message), record.claimed(out, MANIFEST, resume):
            pass
    assert (tmp_path / "thesis.txt").read_text() == "words"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"^`out` must be a folder that can be written; got .*Not a directory"
    with pytest.raises(OSError, match=message), record.claimed(tmp_path / "file" / "run", MANIFEST, False):
        pass


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    message = r"^`out` must be a folder that can be written; got .*Permission denied, at .lock"
    with pytest.raises(OSError, match=message), record.claimed(tmp_path / "run", MANIFEST, False):
        pass


@pytest.mark.parametrize(("spoil", "got"), [(lambda s: s[: len(s) // 3], 0), (lambda s: s[:-9], 1), (lambda s: "", 0)])
def test_rounds_that_are_missing_or_damaged(spoil: Any, got: int, tmp_path: Path) -> None:
    run(tiny(), tmp_path / "run")
    path = tmp_path / "run" / "rounds.jsonl"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(
        ValueError, match=rf"^`out` must hold the 2 rounds of its checkpoint; got {got} whole ones in .*js"
    ):
        run(tiny(), tmp_path / "run", resume=True)


def test_a_line_that_was_changed_is_noticed(tmp_path: Path) -> None:
    run(tiny(rounds=3), tmp_path / "run")
    path = tmp_path / "run" / "rounds.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for number in (1, 2, 3):
        changed = [*lines]
        changed[number - 1] = lines[number - 1].replace('"accuracy": 0', '"accuracy": 1')
        assert changed != lines
        path.write_text("".join(changed))
        message = (
            rf"^`out` must hold the rounds as its run wrote them; got another line {number} in .*rounds.jsonl. Run"
        )
        with pytest.raises(ValueError, match=message):
            run(tiny(rounds=3), tmp_path / "run", resume=True)
    path.write_text("".join([lines[1], lines[0], lines[2]]))
    with pytest.raises(ValueError, match="got another line 1 in"):
        run(tiny(rounds=3), tmp_path / "run", resume=True)
    path.write_text("".join(lines) + "{torn")
    assert run(tiny(rounds=3), tmp_path / "run", resume=True).rounds == [json.loads(line) for line in lines]
    assert path.read_text() == "".join(lines)


def test_a_folder_in_which_another_process_records(tmp_path: Path) -> None:
    def meanwhile(entry: dict[str, Any]) -> None:
        for resume in (True, False):
            with pytest.raises(ValueError, match=r"^`out` must not be in use; got .*run, in which process"):
                run(tiny(), tmp_path / "run", resume=resume)

    run(tiny(), tmp_path / "run", on_round=meanwhile)
    assert not (tmp_path / "run" / ".lock").exists()
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 2
