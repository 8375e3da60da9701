"""Where the data sets lie that no test can make up, and how to skip without them."""

import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NEEDS_SHARED = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"needs the data sets in {SHARED.name} beside the repository"
)


def unpacked(name: str, folder: Path) -> Path:
    """The folder, with a data set unpacked into it."""
    subprocess.run([sys.executable, "-B", SHARED / "unpack.py", folder, name], check=True, capture_output=True)
    return folder
