"""Which of many like cases every run of the tests takes; the others are slow, and `make test-slow` runs them."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pytest

# The methods that the project is for: with a server and without, averaging, partial and in the tangent space.
METHODS = ("dfedavg", "dfedkfac", "fedavg", "fedkfac", "fedpart", "ntkdfl", "ntkfl")


def often(values: Iterable[Any], chosen: Iterable[Any] = METHODS) -> list[Any]:
    """All values, as `pytest.mark.parametrize` takes them."""
    kept = [*chosen]
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]


def thin_out(items: Iterable[pytest.Function]) -> None:
    """Marks the cases of `few(n)` slow beyond n, of every function that has more of them which are not yet slow."""
    for _, cases in groupby(items, lambda item: item.nodeid.split("[")[0]):
        quick = [case for case in cases if case.get_closest_marker("slow") is None]
        mark = quick[0].get_closest_marker("few") if quick else None
        if mark is not None:
            kept = chosen([case.callspec.indices for case in quick], *mark.args)
            for place, case in enumerate(quick):
                if place not in kept:
                    case.add_marker(pytest.mark.slow)


def chosen(cases: Sequence[dict[str, int]], count: int) -> set[int]:
    """The places of so many cases which show, between them, as many values of every parameter as can be.

    Each is the one that adds most values, the first of those that add as many.
    """
    kept: set[int] = set()
    shown: set[tuple[str, int]] = set()
    while len(kept) < min(count, len(cases)):
        left = [place for place in range(len(cases)) if place not in kept]
        best = max(left, key=lambda place: (len({*cases[place].items()} - shown), -place))
        kept.add(best)
        shown |= {*cases[best].items()}
    return kept
