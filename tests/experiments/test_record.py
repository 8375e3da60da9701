"""The folder of a run: what its manifest says, whose folder it is, and the model that comes back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fedtangent
from fedtangent.experiments import record
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.fleet import Central
from fedtangent.ledger import Ledger
from fedtangent.reports import records
from tests.experiments.tiny import ROWS, data, network, saved, settings, tiny

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
    fleet = setup(tiny()).fleet(1, Ledger())
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


def test_a_method_does_not_record_what_the_experiment_does() -> None:
    with pytest.raises(
        ValueError, match=r"^a method must not record 'loss'; the experiment does. Choose another name.$"
    ):
        record.line({"round": 1, "loss": 2.0}, {"loss": 3.0})


@pytest.mark.parametrize(
    ("change", "resume", "message"),
    [
        ({}, False, r"^`out` must be new; got .*run, which holds this run. Give --resume or another --out.$"),
        (
            {"experiment": {"method": "m", "options": {"lr": 2}}},
            True,
            r"whose options.lr is 1 and not 2. Choose anothe",
        ),
        ({"experiment": {"method": "m", "options": {}}}, True, r"whose options.lr is 1 and not None. Choose another"),
        (
            {"experiment": {"method": "n", "options": {"lr": 1}}},
            False,
            r"another experiment; got .*whose method is 'm' ",
        ),
        (
            {"fingerprint": "g"},
            True,
            r"^`out` must not hold another .*whose data or first weights differ. Choose anoth",
        ),
        (
            {"threads": 8},
            True,
            r"^a run must be resumed with the threads it began with, 1; got 8. Set OMP_NUM_THREADS=1.$",
        ),
        ({"chunks": [[0]]}, True, r"^a run must be resumed with the chunks of nodes it began with; got others in "),
    ],
)
def test_a_folder_that_holds_another_run(change: dict[str, Any], resume: bool, message: str, tmp_path: Path) -> None:
    folder = record.claimed(tmp_path / "run", {**MANIFEST, "chunks": [[0, 1]]}, resume=False)
    before = sorted((file.name, file.read_bytes()) for file in folder.iterdir())
    with pytest.raises(ValueError, match=message):
        record.claimed(folder, {**MANIFEST, "chunks": [[0, 1]], **change}, resume)
    assert sorted((file.name, file.read_bytes()) for file in folder.iterdir()) == before


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_holds_something_else(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    message = r"^`out` must be a new folder, or one with a run; got .*, which holds something else. Name another.$"
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match=message):
            record.claimed(out, MANIFEST, resume)
    assert (tmp_path / "thesis.txt").read_text() == "words"


@pytest.mark.parametrize("text", ["{", "[]", '{"experiment": 3}'])
def test_a_damaged_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"^`out` must hold a whole manifest.json; got a damaged one in .*\. Name anot"
    ):
        record.claimed(tmp_path, MANIFEST, True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^`out` must be a folder that can be written; got .*Not a directory"):
        record.claimed(tmp_path / "file" / "run", MANIFEST, False)


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(
        OSError, match=r"^`out` must be a folder that can be written; got .*Permission denied, at manif"
    ):
        record.claimed(tmp_path / "run", MANIFEST, False)


@pytest.mark.parametrize(("spoil", "got"), [(lambda s: s[: len(s) // 3], 0), (lambda s: s[:-9], 1), (lambda s: "", 0)])
def test_rounds_that_are_missing_or_damaged(spoil: Any, got: int, tmp_path: Path) -> None:
    run(tiny(), tmp_path / "run")
    path = tmp_path / "run" / "rounds.jsonl"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(
        ValueError, match=rf"^`out` must hold the 2 rounds of its checkpoint; got {got} whole ones in .*js"
    ):
        run(tiny(), tmp_path / "run", resume=True)


def test_a_model_of_ones_own_is_given_to_load(tmp_path: Path) -> None:
    result = run(tiny(model=network()), tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"^`model` must be given for .*, whose run had a model of its own; got none. Pas"
    ):
        fedtangent.load(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"^`model` must have the parameters of the run in .*; got others. Pass a module"
    ):
        fedtangent.load(tmp_path / "run", network(2))
    loaded = fedtangent.load(tmp_path / "run", network())
    assert torch.equal(loaded(data().x_test), result.model(data().x_test))
    assert not loaded.training


def test_a_named_model_comes_back_in_its_precision(tmp_path: Path) -> None:
    asked = settings(dtype="float64", hidden=(5, 3), activation="gelu", partition="iid", nodes=5)
    asked |= {"dataset": "npz", "data_dir": saved(tmp_path / "d.npz")}
    result = fedtangent.run(**asked, out=tmp_path / "run")
    loaded = fedtangent.load(tmp_path / "run")
    assert torch.equal(loaded(data().x_test.double()), result.model(data().x_test.double()))


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-20], None])
def test_no_whole_model(spoil: Any, tmp_path: Path) -> None:
    run(tiny(), tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    if spoil is None:
        path.unlink()
    else:
        path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"^`folder` must be a run's folder with a whole model.safetensors; got .*\. Give"
    ):
        fedtangent.load(tmp_path / "run")
