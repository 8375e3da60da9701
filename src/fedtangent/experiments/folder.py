"""The folder that a run or a recipe leaves: its manifest, and that it holds nothing else."""

import platform
from pathlib import Path

import numpy as np
import torch

from fedtangent import __version__
from fedtangent.errors import SettingError

MANIFEST = "manifest.json"


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
