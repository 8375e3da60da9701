"""What the benchmarks share: medians, peak memory in a process of its own, and a table of ratios."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fedtangent.timing import seconds


def once(work: Callable[[], Any]) -> float:
    """The time of a call, with nothing before it."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def alone(
    file: str, *words: str, threads: int, limit_s: float | None = None, by: Sequence[str] = (sys.executable,)
) -> dict[str, float]:
    """What a benchmark's file prints as JSON when it is run as a process of its own, by this interpreter or another."""
    done = subprocess.run(
        [*by, file, *words],
        env={**_environment(), "OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
        text=True,
        timeout=limit_s,
    )
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def peak(work: Callable[[], Any]) -> float:
    """By how many GiB a call raises the process's memory at its highest (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew from here
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 2**20


def within(share: float) -> None:
    """Has allocations fail beyond this share of the machine's memory, rather than the machine."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_DATA, (int(share * total),) * 2)


def matrix_speed() -> float:
    """Operations a second of this machine's matrix product, at the sizes of a tangent kernel, in float32."""
    a = torch.randn(1200, 800)
    return 2 * 1200 * 1200 * 800 / seconds(lambda: a @ a.T, 20)


def table(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    """A Markdown table; numbers with three digits."""
    text = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *text])


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "src")}
