"""How many samples, and how much of their gradients, are compared at once when the uses of parameters are verified."""

import math
from typing import NamedTuple

from fedtangent import trees
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.in_rows import can_be_cut, piece_rows
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.numerics.kernel_parts import Part, parts

NUMBERS = 2**20  # of a use's gradient at a time
_SAMPLES = 8  # the most that are compared


class Room(NamedTuple):
    """What fits in memory, at the least one sample and one row.

    Attributes:
        samples: That are compared.
        numbers: Of gradients at a time, of which a larger matrix is cut.
        bytes: That this takes.
    """

    samples: int
    numbers: int
    bytes: int


def room(found: Uses, w: Weights, samples: int, memory_bytes: int) -> Room:
    """What of so many samples fits, given uses that are verified or not yet."""
    number, its = trees.number_bytes(w), found.by_name.values()
    total = memory_bytes // number
    results = sum(math.prod(shape) for one in its for shape in one.call.shapes)
    columns = max(map(_columns, its), default=0)
    # two graphs, or the factors and what is made of them
    held = found.touched + sum(found.kept.values()) + results
    each = held + max(found.touched, columns + results) + 2 * found.widest
    numbers = max(0, min(memory_bytes // 32, (total - each) // 4))
    gradients = _gradients(parts(found, w), w, numbers)
    few = max(1, min(_SAMPLES, samples, (total - gradients) // max(1, each)))
    return Room(few, numbers, number * (few * each + gradients))


def _gradients(of_uses: list[Part], w: Weights, most: int) -> int:
    """Numbers of the gradients that are in memory at once, where larger matrices than `most` are cut."""
    rows, rest, largest = 0, 0, 0
    for part in of_uses:
        matrix = part.matrix
        if matrix is not None and w[matrix.weight].numel() > most and can_be_cut(part):
            shape = w[matrix.weight].shape
            rows = max(rows, piece_rows(shape, most) * math.prod(shape[1:]))
        else:
            rest += part.size
            plain = matrix is not None and not matrix.lookup
            largest = max(largest, part.size + (min(part.size, NUMBERS) if plain else 2 * part.size))
    return max(rows, largest, min(rest, most))


def _columns(one: object) -> int:
    """Numbers that a convolution's window makes."""
    return one.unfolded(1) if isinstance(one, Matrix) else 0
