"""A file is written whole or not at all."""

import os
from pathlib import Path

import pytest

from fedtangent.experiments import atomic


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("old", "new"):
        atomic.replaced(path, lambda draft, text=text: draft.write_text(text) and None)  # type: ignore[misc]
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_older_one(failure: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(draft: Path) -> None:
        draft.write_text("ne")
        raise failure

    with pytest.raises((OSError, KeyboardInterrupt)) as caught:
        atomic.replaced(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(failure, OSError):
        assert str(caught.value) == (
            f"`out` must be a folder that can be written; got {tmp_path} (No space left on device, at a.txt). "
            "Free some space or choose another; what was recorded before is kept, and can be gone on from."
        )


def test_a_name_that_is_no_utf_8_is_written_legibly(tmp_path: Path) -> None:
    atomic.replaced(tmp_path / "a.html", os.fsdecode(b"gr\xf6n\r\n"))
    assert (tmp_path / "a.html").read_bytes() == b"gr\\udcf6n\r\n"


def test_lines_are_added(tmp_path: Path) -> None:
    for line in (b"1\n", b"2\n"):
        atomic.appended(tmp_path / "a", line)
    assert (tmp_path / "a").read_bytes() == b"1\n2\n"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"^`out` must be a folder that can be written; got .*gone \(No such file or direct"
    ):
        atomic.appended(tmp_path / "gone" / "a", b"1\n")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_mode_that_the_umask_leaves(mask: int, mode: int, tmp_path: Path) -> None:
    def write(draft: Path) -> None:  # a file of its own, which nobody else may read, as safetensors makes it
        draft.unlink()
        os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(mask)
    try:
        atomic.replaced(tmp_path / "a", write)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
