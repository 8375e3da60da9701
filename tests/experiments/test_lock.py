"""A folder belongs to one process, until that ends or is killed."""

import errno
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedtangent.experiments import lock

HOLDING = """
import sys, time
from pathlib import Path
from fedtangent.experiments import lock
with lock.held(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "file").touch()
    print("held", flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")


def test_the_folder_is_made_and_an_empty_one_taken_away_again(tmp_path: Path) -> None:
    with lock.held(tmp_path / "a" / "b"):
        assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == [".lock"]
        assert (tmp_path / "a" / "b" / ".lock").read_text() == f"{os.getpid()} on {platform.node()}\n"
    assert not list(tmp_path.iterdir())
    with lock.held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_second_holder_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    message = rf"^`out` must not be in use; got {tmp_path}, in which process {os.getpid()} on .* records. Wait until it"
    with lock.held(tmp_path):
        for _ in range(2):
            with pytest.raises(ValueError, match=message), lock.held(tmp_path):
                pass
        assert (tmp_path / ".lock").is_file()
    with lock.held(tmp_path):
        pass
    assert tmp_path.is_dir()  # it was there before


def test_a_failure_gives_the_folder_free(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
            raise ZeroDivisionError


def test_a_lock_file_that_was_left_lying_is_none(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("1\n")
    with lock.held(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} on {platform.node()}\n"
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        message = rf"^`out` must not be in use; got .*process {process.pid} on .* records"
        with pytest.raises(ValueError, match=message), lock.held(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / ".lock").is_file()
    with lock.held(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def unsupported(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with lock.held(tmp_path), lock.held(tmp_path):
        pass


def test_a_holder_that_took_its_file_away_does_not_lock_out_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was opened, and waited for, is no longer the one at the path."""
    real, opened = os.open, []

    def slow(path: Path, *options: int) -> int:
        handle = real(path, *options)
        if not opened:  # its holder ends before it can be locked
            Path(path).unlink()
        opened.append(handle)
        return handle

    monkeypatch.setattr(os, "open", slow)
    with lock.held(tmp_path):
        assert len(opened) == 2
        with pytest.raises(ValueError, match="must not be in use"), lock.held(tmp_path):
            pass


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with (
        pytest.raises(
            OSError, match=r"^`out` must be a folder that can be written; got .* \(No space left on device, at"
        ),
        lock.held(tmp_path / "a" / "b"),
    ):
        pass
    assert not list(tmp_path.iterdir())
