"""Home: paths in which ~ stands for a home folder, which a shell has not always put in its place."""

import os
from pathlib import Path


def path(given: str | os.PathLike[str]) -> Path:
    """The path; a ~ whose home nobody knows stays, as in a shell."""
    return Path(os.path.expanduser(given))
