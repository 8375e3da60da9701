"""The folder that a run or a recipe leaves: its manifest, and that it holds nothing else."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import numpy as np
import torch

from fedtangent import __version__
from fedtangent.errors import SettingError
from fedtangent.experiments import atomic

MANIFEST = "manifest.json"


@contextmanager
def fresh(parent: Path, name: str) -> Iterator[Path]:
    """A folder that was not there, and that no other process takes: the name, or with the first number that is free.

    Where nothing is written into it, it goes when the context ends, and its parent where that is empty then.

    Raises:
        OSError: It cannot be made.
    """
    with atomic.explained(parent / name):
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                break
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()
            parent.rmdir()


def check_free(folder: Path, expected: str) -> None:
    """Raises ValueError where a folder has no manifest and yet holds something; hidden files do not count.

    Args:
        folder: It may be missing.
        expected: What it may hold, for the message, such as "a run".
    """
    held = folder.exists() and not (folder / MANIFEST).is_file()
    if held and (not folder.is_dir() or any(not file.name.startswith(".") for file in folder.iterdir())):
        raise SettingError(
            f"`out` must be a new folder, or one with {expected}; got {folder}, which holds something else. "
            "Name another."
        )


def versions() -> dict[str, str]:
    """Of this package, Python and what both runs and recipes compute with."""
    return {
        "fedtangent": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
