"""Lock: a folder that one process records in, until it ends, however it ends.

The lock is the operating system's (flock on a file `.lock`), so that a killed process leaves none behind. Where the
system or the file system knows no such locks, as on Windows, nothing keeps two processes apart.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN
from pathlib import Path

from fedtangent.errors import SettingError
from fedtangent.experiments import atomic
from fedtangent.experiments.tensor_file import printable

NAME = ".lock"
_AGAIN = 0.1  # seconds until a second try: `holder` may just be looking


def recorded(folder: Path, owner: str) -> str:
    """The sentence for a folder in which another process records."""
    return (
        f"`out` must not be in use; got {folder}, in which process {owner} records. Wait until it ends, or choose "
        "another --out."
    )


@contextmanager
def held(folder: Path, refusal: Callable[[Path, str], str] = recorded) -> Iterator[None]:
    """Inside, the folder is this process's own; it is made where it is not there, and taken away again if left empty.

    Args:
        folder: A path.
        refusal: Says of a folder and its owner that it is in use.

    Raises:
        ValueError: Another run is being recorded there.
        OSError: It cannot be made or written.
    """
    path = folder / NAME
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        with atomic.explained(path):
            folder.mkdir(parents=True, exist_ok=True)
            handle = _taken(path, refusal)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: nobody else can hold this file, nor find it afterwards
            os.close(handle)
    finally:
        with suppress(OSError):  # one that is not empty stays
            for one in made:
                one.rmdir()


def holder(folder: Path) -> str | None:
    """Who holds a folder, without a word to it: a number and a machine's name; None where nobody does."""
    if sys.platform == "win32":
        return None
    import fcntl

    with suppress(FileNotFoundError), open(folder / NAME, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return _owner(file.fileno()) if error.errno in (EAGAIN, EACCES) else None
    return None


def _owner(handle: int) -> str:
    return printable(os.pread(handle, 100, 0).decode(errors="replace").strip()) or "another one"


def _taken(path: Path, refusal: Callable[[Path, str], str]) -> int:
    """The open file, locked; it is the one that lies at the path, not one that its last holder took away."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, path, refusal)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                _signed(handle, path)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _signed(handle: int, path: Path) -> None:
    """Writes into a locked file who holds it; on a full disk the file goes."""
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {platform.node()}\n".encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _lock(handle: int, path: Path, refusal: Callable[[Path, str], str]) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    for last in (False, True):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (EAGAIN, EACCES):  # no such locks on this file system
                return
            if last:
                raise SettingError(refusal(path.parent, _owner(handle))) from error
        time.sleep(_AGAIN)
