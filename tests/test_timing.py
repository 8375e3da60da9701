"""A call is timed after one that warms up."""

import time

from fedtangent.timing import seconds


def test_the_first_call_does_not_count() -> None:
    calls = []

    def work() -> None:
        calls.append(time.sleep(0.0 if calls else 0.2))

    assert seconds(work, 3, max) < 0.1
    assert len(calls) == 4


def test_what_is_picked() -> None:
    taken: list[float] = []
    assert seconds(lambda: None, 7, lambda times: taken.extend(times) or 5.0) == 5.0
    assert len(taken) == 7 and min(taken) >= 0
