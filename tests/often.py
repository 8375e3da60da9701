"""Which of many like cases every run of the tests takes; the others are slow, and `make test-slow` runs them."""

from collections.abc import Iterable
from typing import Any

import pytest

# The methods that the project is for: with a server and without, averaging, partial and in the tangent space.
METHODS = ("dfedavg", "dfedkfac", "fedavg", "fedkfac", "fedpart", "ntkdfl", "ntkfl")


def often(values: Iterable[Any], chosen: Iterable[Any] = METHODS) -> list[Any]:
    """All values, as `pytest.mark.parametrize` takes them."""
    kept = [*chosen]
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]
