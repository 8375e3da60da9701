"""Lock: a folder that one process records in, until it ends, however it ends.

The lock is the operating system's (flock on a file `.lock`), so that a killed process leaves none behind. Where the
system or the file system knows no such locks, as on Windows, nothing keeps two processes apart.
"""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN
from pathlib import Path

from fedtangent.errors import SettingError
from fedtangent.experiments import atomic
from fedtangent.experiments.tensor_file import printable

NAME = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, the folder is this process's own; it is made where it is not there, and taken away again if left empty.

    Raises:
        ValueError: Another run is being recorded there.
        OSError: It cannot be made or written.
    """
    path = folder / NAME
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    with atomic.explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _taken(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: nobody else can hold this file, nor find it afterwards
        os.close(handle)
        with suppress(OSError):  # one that is not empty stays
            for one in made:
                one.rmdir()


def _taken(path: Path) -> int:
    """The open file, locked; it is the one that lies at the path, not one that its last holder took away."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, path)
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()} on {platform.node()}\n".encode())
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (EAGAIN, EACCES):  # no such locks on this file system
            return
        owner = printable(os.pread(handle, 100, 0).decode(errors="replace").strip()) or "another one"
        raise SettingError(
            f"`out` must not be in use; got {path.parent}, in which process {owner} records. Wait until it ends, "
            "or choose another --out."
        ) from error
