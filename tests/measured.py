"""A number that a script prints in a process of its own, where memory that is given back is no part of a peak."""

import subprocess
import sys
from pathlib import Path


def measured(script: str, *words: str) -> float:
    """What the script prints, run from the checkout with these words."""
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=Path(__file__).parents[1],
        env={
            "PYTHONPATH": "src",
            "OMP_NUM_THREADS": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TRIM_THRESHOLD_": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
