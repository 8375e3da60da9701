"""Files that are written whole or not at all: a crash or a full disk leaves the older one as it was."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns a failure to write into a sentence with a remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"`out` must be a folder that can be written; got {path.parent} ({reason}, at {path.name}). "
            "Free some space or choose another; what was recorded before is kept, and can be gone on from."
        ) from error


def replaced(
    path: Path,
    content: str | Callable[[Path], object],
    *,
    draft: Path | None = None,
    explained: Callable[[Path], AbstractContextManager[None]] = explained,
) -> None:
    """Writes a file under another name beside it, makes sure that it is on the disk, and renames it.

    Args:
        path: The file.
        content: Its text, or what writes it at the path that it is given.
        draft: The other name; none is one that the next writer of this file uses again.
        explained: A context that turns a failure to write into a sentence.

    Raises:
        OSError: It cannot be written; an older one is still there.
    """
    draft = draft or path.with_name(f".{path.name}.new")
    with explained(path):
        try:
            draft.touch()
            mode = draft.stat().st_mode & 0o777  # what the umask leaves; safetensors makes a file of its own
            if isinstance(content, str):
                draft.write_text(content, "utf-8", "backslashreplace", "\n")  # a name's bytes may be no UTF-8
            else:
                content(draft)
            draft.chmod(mode)
            _sync(draft)
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def renamed(path: Path, other: Path) -> None:
    """Gives a file another name, in place of what has it.

    Raises:
        OSError: The folder cannot be written.
    """
    with explained(path):
        os.replace(path, other)
        _sync(path.parent)


def appended(path: Path, line: bytes) -> None:
    """Adds a line to a file and makes sure that it is on the disk.

    Raises:
        OSError: It cannot be written; what a file has beyond its checkpoint is cut off when the run is resumed.
    """
    with explained(path), path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
