"""Sums over rows in slices that fit in memory, and how many numbers a row takes on its way: told from shapes alone.

So a sum is cut alike wherever it is taken, whatever memory is free: by every engine, and on every machine.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from fedtangent import trees
from fedtangent.shard import Shard, at
from fedtangent.tangents.capture.derivatives import Ways
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.numerics.budget import Budget
from fedtangent.tangents.numerics.kernel_parts import cuts, parts

# Bytes of the rows of a slice: as many as keep matrix products fast, and small beside weights and data.
MEMORY = 2**27


def slices(rows: int, row_bytes: int) -> list[slice]:
    """As few slices as fit into `MEMORY`, of about one length; of one row where not even that fits."""
    return cuts(rows, max(1, MEMORY // max(1, row_bytes))) if rows else [slice(0, 0)]


def summed(one: Callable[[Shard], Any], data: Shard, row_bytes: int) -> Any:
    """`one` of all rows, a sum over them, as the sum over slices of so many bytes a row; itself where all fit."""
    found = slices(len(data.real), row_bytes)
    if len(found) == 1:
        return one(data)
    total = one(at(data, found[0]))
    for part in found[1:]:
        total = trees.add(total, one(at(data, part)))
    return total


def held(rows: int, row_bytes: int) -> int:
    """The bytes of the largest slice."""
    longest: int = max(part.stop - part.start for part in slices(rows, row_bytes))
    return row_bytes * longest


def of_moments(found: Uses, w: Weights, whole: Iterable[tuple[str, ...]]) -> int:
    """Bytes of a row on its way into moments: its factors, and what a pass or a use takes beside them.

    Args:
        found: The uses of the parameters.
        w: The weights.
        whole: The uses of every block that is kept whole.
    """
    c, number = found.outputs, trees.number_bytes(w)
    budget = Budget(found, parts(found, w), "full", 1, 1, True, number)
    using = [0]
    for use in found.by_name.values():
        if isinstance(use, Matrix):
            using.append(use.groups * use.positions * (2 * _entries(use) + 2 * c * use.fan_out))
    for keys in whole:
        uses = [found.by_name[key] for key in keys]
        size = sum(w[name].numel() for name in {name for use in uses for name in use.call.names})
        using.append(2 * c * max(math.prod(shape) for use in uses for shape in use.call.shapes) + 4 * c * size)
    return number * (budget.stored(c) + max(budget.passing(c), *using))


def of_inputs(found: Uses, w: Weights, keys: Iterable[str]) -> int:
    """Bytes of a row on its way into moments of the inputs of some uses: a forward pass."""
    using = [0]
    for key in keys:
        use = found.by_name[key]
        assert isinstance(use, Matrix)
        using.append(2 * use.groups * use.positions * _entries(use))
    return trees.number_bytes(w) * (sum(found.kept.values()) + max(3 * found.widest, *using))


def of_directions(found: Uses, w: Weights, count: int, ways: Ways) -> int:
    """Bytes of a row on its way forward with so many derivatives."""
    if ways.push == "forward":
        return trees.number_bytes(w) * (found.sample + (2 + 5 * count) * found.widest)
    return trees.number_bytes(w) * (1 + 2 * count) * (found.touched + 2 * found.widest)


def of_losses(found: Uses, w: Weights, count: int) -> int:
    """Bytes of a row on its way forward through so many models, which go `together` or one by one."""
    return trees.number_bytes(w) * (found.sample + 3 * found.widest * (count if together(found) else 1))


def together(found: Uses) -> bool:
    """Whether several models are faster together than one by one: of dense layers, on one vector a sample, alone.

    Stacked, convolutions become grouped ones, which are slower, and take as much memory as there are models.
    """
    return all(isinstance(use, Matrix) and use.dense for use in found.by_name.values())


def groups(count: int, w: Weights) -> list[slice]:
    """So many models in groups that fit into `MEMORY`."""
    return cuts(count, max(1, MEMORY // max(1, size(w))))


def size(w: Weights) -> int:
    """Bytes of the weights."""
    return sum(part.nbytes for part in w.values())


def _entries(use: Matrix) -> int:
    """Numbers of an input at a position."""
    return 2 if use.lookup else use.fan_in + 1
