"""The channels as loops over numbers."""

import math


def largest(values: list[float], rows: int, share: float) -> list[int]:
    """The places of the largest; of equals those that come first in their rows, and then in the first rows."""
    width = len(values) // rows
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i % width, i // width))
    return order[: max(math.floor(share * len(values) + 1e-9), 1)]


def decoded(values: list[float], rows: int, share: float, levels: int | None) -> list[float]:
    """A receiver's numbers, of some rows put end to end."""
    sent = largest(values, rows, share)
    low, high = min(abs(values[i]) for i in sent), max(abs(values[i]) for i in sent)
    found = [0.0] * len(values)
    for i in sent:
        grid = [abs(values[i])]
        if levels is not None and levels % 2:
            step = 2 * (high - low) / (levels - 1)
            grid = [low + step * j for j in range((levels + 1) // 2)]
        elif levels is not None:
            step = 2 * (high - low) / levels
            grid = [low + step * (j + 0.5) for j in range(levels // 2)]
        nearest = min(grid, key=lambda point: abs(point - abs(values[i])))
        found[i] = math.copysign(nearest, values[i])
    return found
