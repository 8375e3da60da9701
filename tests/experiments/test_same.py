"""Whether a folder's run may be gone on with: the same experiment, versions, sources, threads and data."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedtangent.experiments import record, same

MANIFEST: dict[str, Any] = {
    "experiment": {"method": "m", "options": {"lr": 1, "bound": float("nan")}},
    "versions": {"fedtangent": "1.2.0", "python": "3.11.4", "torch": "2.15.0+cpu"},
    "sources": {"method": {"name": "m.py", "digest": "aa"}, "model": {"name": "Net", "digest": "bb"}},
    "threads": 1,
    "chunks": [[0, 1]],
    "fingerprint": "f",
    "rows": [2, 3],
    "machine": {"processor": "old"},
}


def written(folder: Path, manifest: Any) -> Path:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


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
        (
            {"versions": {**MANIFEST["versions"], "torch": "2.15.0+cu132"}},
            True,
            r"^a run must be resumed under the versions it began with, torch '2.15.0\+cpu' in .*run; got '2.15.0\+cu132"
            r"'. Install that version, or run anew with another --out.$",
        ),
        ({"versions": {"python": "3.12.4"}}, True, r"began with, python '3.11.4' in .*run; got '3.12.4'. Install"),
        ({"versions": {"scipy": "1.17"}}, True, r"began with, scipy None in .*run; got '1.17'. Install that version"),
        (
            {"sources": {**MANIFEST["sources"], "method": {"name": "m.py", "digest": "cc"}}},
            True,
            r"^`method` must be as it was when the run in .*run began; got m.py with the digest cc and not 'aa'. Undo "
            r"the edit, or run anew with another --out.$",
        ),
        (
            {"sources": {"method": {"name": "m.py", "digest": "aa"}}},
            True,
            r"^`model` must be as it was when the run in .*run began; got none with the digest None and not 'bb'. Undo",
        ),
        (
            {"rows": [3, 2]},
            True,
            r"^`out` must hold the manifest.json that its run wrote; got another rows in .*run. C",
        ),
        ({"chunks": [[0]]}, True, r"^a run must be resumed with the chunks of nodes it began with; got others in "),
    ],
)
def test_a_folder_that_holds_another_run(change: dict[str, Any], resume: bool, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with record.claimed(folder, MANIFEST, resume=False):
        pass
    before = sorted((file.name, file.read_bytes()) for file in folder.iterdir())
    with pytest.raises(ValueError, match=message), record.claimed(folder, {**MANIFEST, **change}, resume):
        pass
    assert sorted((file.name, file.read_bytes()) for file in folder.iterdir()) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"experiment": 3}', "[" * 100_000, "\xff"])
def test_a_damaged_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"^`out` must hold a whole manifest.json; got a damaged one in .*\. Name anot"
    ):
        same.check(tmp_path, MANIFEST, True)


def test_what_is_no_other_run(tmp_path: Path) -> None:
    """Another machine, a patch release of Python, and infinite options are the same run."""
    written(tmp_path, MANIFEST)
    now = {**MANIFEST, "machine": {"processor": "new"}, "versions": {**MANIFEST["versions"], "python": "3.11.9"}}
    same.check(tmp_path, now, True)
    same.check(tmp_path, {**MANIFEST, "rows": (2, 3)}, True)  # as JSON holds it


@pytest.mark.parametrize("name", sorted(set(MANIFEST) - {"machine"}))
@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [{}], {"method": 3}, "\ud800\x1b[31m", True])
def test_an_edited_manifest_is_one_sentence(name: str, value: Any, tmp_path: Path) -> None:
    written(tmp_path, {**MANIFEST, name: value})
    with pytest.raises(ValueError, match=r"^(`\w+`|a run) must .*; got .*\.$") as caught:
        same.check(tmp_path, MANIFEST, True)
    assert str(caught.value).isprintable()


def test_names_from_a_manifest_are_escaped(tmp_path: Path) -> None:
    for change in ({"experiment": {"\x1b[31m": 1}}, {"sources": {"\x1b\n": {"digest": "x"}}}):
        written(tmp_path, MANIFEST | {name: {**MANIFEST[name], **value} for name, value in change.items()})
        with pytest.raises(ValueError, match=r"\\x1b") as caught:
            same.check(tmp_path, MANIFEST, True)
        assert str(caught.value).isprintable()


def test_long_values_are_cut_in_messages(tmp_path: Path) -> None:
    written(tmp_path, {**MANIFEST, "experiment": {"method": "m" * 10_000}})
    with pytest.raises(ValueError, match="whose method is 'mmm") as caught:
        same.check(tmp_path, MANIFEST, True)
    assert len(str(caught.value)) < 500
