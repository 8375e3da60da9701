"""A folder that holds something else than a run or rows is left alone."""

from pathlib import Path

import pytest

from fedtangent.experiments.folder import MANIFEST, check_free, versions


def test_what_is_free(tmp_path: Path) -> None:
    check_free(tmp_path / "new", "a run")
    check_free(tmp_path, "a run")
    (tmp_path / ".lock").touch()
    check_free(tmp_path, "a run")
    (tmp_path / "thesis.tex").touch()
    (tmp_path / MANIFEST).touch()
    check_free(tmp_path, "a run")


def test_what_is_not(tmp_path: Path) -> None:
    file = tmp_path / "thesis.tex"
    file.touch()
    for folder in (tmp_path, file):
        message = f"^`out` must be a new folder, or one with some rows; got {folder}, which holds something else. Name"
        with pytest.raises(ValueError, match=message):
            check_free(folder, "some rows")


def test_versions() -> None:
    assert {"fedtangent", "python", "torch", "numpy"} == set(versions())
