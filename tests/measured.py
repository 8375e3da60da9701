"""A number that a script prints in a process of its own, where memory that is given back is no part of a peak.

The process is forked from one that has imported what the scripts import, and what torch imports for a first derivative,
once for all of a worker's tests, and has computed nothing.
"""

import atexit
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

FORKS = """
import io, json, os, sys, traceback
from contextlib import redirect_stdout
sys.path[:0] = ["src", "."]
import tests.preloaded, torch
import fedtangent.tangents, fedtangent.models
from fedtangent.methods import dfedkfac, fedkfac, ntkdfl, ntkfl
from tests import tiny_federation

def told(script, words):
    sys.argv = ["-c", *words]
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            exec(compile(script, "script", "exec"), {"__name__": "__main__"})
    except BaseException:
        return [1, traceback.format_exc()]
    return [0, printed.getvalue()]

for line in sys.stdin:
    if not os.fork():
        print(json.dumps(told(*json.loads(line))), flush=True)
        os._exit(0)
    if status := os.wait()[1]:
        print(json.dumps([status, "the process was ended from outside"]), flush=True)
"""


@cache
def _forks() -> subprocess.Popen[str]:
    """The process that others are forked from; it ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        cwd=Path(__file__).parents[1],
        env={"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def apart(script: str, *words: str) -> tuple[int, str]:
    """The script run from the checkout with these words: 0 and what it prints, or a signal or 1 and what went wrong."""
    process = _forks()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([script, words]) + "\n")
    process.stdin.flush()
    code, said = json.loads(process.stdout.readline())
    return code, said


def measured(script: str, *words: str) -> float:
    """The number that the script prints."""
    code, said = apart(script, *words)
    assert not code, said
    return float(said)
