"""Home: paths in which ~ stands for a home folder, which a shell has not always put in its place."""

import os
from pathlib import Path

from fedtangent.errors import SettingTypeError


def path(given: str | os.PathLike[str]) -> Path:
    """The path; a ~ whose home nobody knows stays, as in a shell.

    Raises:
        TypeError: Neither a text nor a path.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise SettingTypeError(f"`path` must be a text or a path; got {type(given).__name__}. Name a file or folder.")
    return Path(os.path.expanduser(given))
