"""How long a call takes."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(
    work: Callable[[], Any], repeats: int = 5, pick: Callable[[list[float]], float] = statistics.median
) -> float:
    """The median time of some calls, or what else is picked of their times, after one call that warms up."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return pick(times)
