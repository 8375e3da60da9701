"""What a kernel will cost, and how every use of parameters will be contracted, before anything of size is allocated."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.layers import Affine, Matrix, Sums
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.room import room
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.capture.verified_uses import uses
from fedtangent.tangents.capture.whole import Whole
from fedtangent.tangents.given import given
from fedtangent.tangents.numerics.budget import Budget, Cuts, TooLittle
from fedtangent.tangents.numerics.kernel_parts import Kind, Part, Piece, Way, cuts, parts

MEMORY = 2**30


@dataclass(frozen=True)
class Line:
    """A part of the model: what it is, how it is contracted, and the operations that takes for the whole kernel.

    Attributes:
        part, what, way, operations: These.
        tile: Samples on either side of a tile.
        spots: Positions of a sample on either side of a tile, fewer than it has where their sum is cut.
        of, pieces: Rows of a matrix, or groups, by whose gradients it is contracted, and how many at a time.
    """

    part: Part
    what: str
    way: Way
    operations: float
    tile: int
    spots: int
    of: int
    pieces: int


class Share(NamedTuple):
    """A line, or a piece of its matrix."""

    line: Line
    piece: Piece


@dataclass(frozen=True)
class Plan:
    """How a kernel will be computed. `print(plan)` shows it.

    Attributes:
        kind: full, trace or diagonal.
        samples: n1 and n2.
        outputs: C.
        lines: One a part of the model, in the order of the forward pass.
        batches: Those that are contracted together, as far as memory goes, and the pieces of those that are cut.
        cuts: How many samples and outputs have their factors in memory at once; where that is not all, they are
            computed anew for every pair of blocks. How many samples go through the network at once.
        operations: Of the contractions and of the passes through the network's matrices, 2 a multiply-add.
        peak_bytes: At most so much beside the result.
        result_bytes: Of the kernel.
        unused: Parameters that no output depends on: columns of zeros in J.
    """

    kind: Kind
    samples: tuple[int, int]
    outputs: int
    lines: tuple[Line, ...]
    batches: tuple[tuple[Share, ...], ...]
    cuts: Cuts
    operations: float
    peak_bytes: int
    result_bytes: int
    unused: tuple[str, ...] = ()

    @property
    def block(self) -> int:
        """Samples whose factors are in memory at once."""
        return self.cuts.block

    @property
    def chunk(self) -> int:
        """Samples that go through the network at once."""
        return self.cuts.chunk

    def __str__(self) -> str:
        rows = [("parameters", "what", "positions", "way", "GFLOP")]
        for line in self.lines:
            names = ", ".join(line.part.names)
            spots = str(line.part.positions) if line.part.positions else "-"
            rows.append((names, line.what, spots, line.way, f"{line.operations / 1e9:.3g}"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )
        n1, n2 = self.samples
        return (
            f"{table}\n{self.kind} kernel of {n1} x {n2} samples, {self.outputs} outputs: "
            f"{self.operations / 1e9:.3g} GFLOP, {self.result_bytes / 2**20:.3g} MiB of result, "
            f"at most {self.peak_bytes / 2**20:.3g} MiB beside it; "
            f"{self.block} samples in memory"
            + (f" with {self.cuts.outputs} of the outputs" if self.cuts.outputs < self.outputs else "")
            + f", {self.chunk} at once through the model"
            + self._cut()
            + (f"\nnot used, columns of zeros: {', '.join(self.unused)}" if self.unused else "")
        )

    def _cut(self) -> str:
        rows = [line for line in self.lines if line.pieces < line.of]
        spots = [line for line in self.lines if line.way == "factors" and line.spots < line.part.positions]
        told = [(rows, "gradients of some rows at a time"), (spots, "some positions at a time")]
        return "".join(f"\n{how}: {', '.join(line.part.names[0] for line in lines)}" for lines, how in told if lines)


@without_autocast()
def plan(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    kind: Kind = "full",
    w: Weights | None = None,
    outputs: Outputs = None,
    memory_bytes: int = MEMORY,
) -> Plan:
    """How `kernel` with these arguments will go: the way of every layer, operations and peak bytes.

    Costs a few passes of up to 8 samples.

    Raises:
        TypeError, ValueError: As `kernel`.
    """
    model, w, own, its, _ = given(model, x1, x2, w=w, outputs=outputs, name="x1", memory_bytes=memory_bytes)
    return planned(uses(model, w, own), w, own, its, kind, memory_bytes)


def planned(uses: Uses, w: Weights, x1: Samples, x2: Samples | None, kind: Kind, memory_bytes: int) -> Plan:
    """The plan from the uses."""
    if kind not in ("full", "trace", "diagonal"):
        raise SettingError(f"`kind` must be 'full', 'trace' or 'diagonal'; got {kind!r}. Choose one of the three.")
    n1, n2, c = len(x1), len(x1 if x2 is None else x2), uses.outputs
    number = trees.number_bytes(w)
    budget = Budget(uses, parts(uses, w), kind, n1, n2, x2 is None, number)
    least = room(uses, w, 1, 0).bytes
    try:
        its = budget.fitting(memory_bytes)
    except TooLittle as error:
        least = max(least, error.least)
    if memory_bytes < least:
        raise SettingError(
            f"`memory_bytes` must be at least {least} for this model, one sample at a time; got {memory_bytes}. "
            "Give more."
        )
    slices = cuts(c, its.outputs)
    pairs = n1 * n2 if x2 is not None else n1 * (n1 + 1) / 2
    lines = []
    for load, pieces, tile in zip(budget.loads(its.outputs), budget.pieces(its), budget.tiles(its), strict=True):
        part = load.part
        gated = uses.gated in part.keys or uses.last in part.keys
        each = part.operations(kind, max(_lengths(slices)), gated)[load.way]
        operations = pairs * each * (len(slices) ** 2 if kind == "full" else len(slices))
        lines.append(Line(part, _what(part), load.way, operations, tile.samples, tile.spots, load.pieces, pieces))
    batches = tuple(
        tuple(batch)
        for numbers in budget.batches(its)
        for batch in zip(*(_pieces(lines[number]) for number in numbers), strict=True)
    )
    forward = sum(
        2.0 * one.groups * one.fan_out * one.fan_in * one.positions
        for one in uses.by_name.values()
        if isinstance(one, Matrix) and not one.lookup
    )
    passes = _passes(n1, n2, x2 is None, kind, its, len(slices))
    backward = its.outputs if any(key not in (uses.last, uses.gated) for key in uses.by_name) else 1
    return Plan(
        kind,
        (n1, n2),
        c,
        tuple(lines),
        batches,
        its,
        sum(line.operations for line in lines) + passes * (1 + backward) * forward,
        max(budget.peak(its), room(uses, w, n1, memory_bytes).bytes),
        n1 * n2 * {"full": c * c, "trace": 1, "diagonal": c}[kind] * number,
        uses.unused,
    )


def least_bytes(uses: Uses, w: Weights, n: int, kind: Kind, symmetric: bool = True) -> int:
    """The least memory that a kernel of n samples can be given, with themselves or with n others."""
    number = trees.number_bytes(w)
    least = room(uses, w, 1, 0).bytes
    try:
        Budget(uses, parts(uses, w), kind, n, n, symmetric, number).fitting(least)
    except TooLittle as error:
        least = max(least, error.least)
    return least


def _lengths(slices: list[slice]) -> list[int]:
    return [part.stop - part.start for part in slices]


def _pieces(line: Line) -> list[Share]:
    if line.pieces == line.of:
        return [Share(line, None)]
    return [Share(line, piece) for piece in cuts(line.of, line.pieces)]


def _passes(n1: int, n2: int, symmetric: bool, kind: Kind, its: Cuts, slices: int) -> float:
    """How many samples go through the model, for some of the outputs each."""
    rows = math.ceil(n1 / its.block)
    every, each = (slices, 1) if kind == "full" else (1, slices)
    if not symmetric:
        return each * (every * n1 + rows * every * every * n2)
    own = every * n1
    # of every pair of different blocks the columns are computed anew
    return each * (own + (rows * every - 1) / 2 * own)


def _what(part: Part) -> str:
    one = part.uses[0]
    if isinstance(one, Whole):
        return "the whole model through autograd"
    if isinstance(one, Matrix):
        name = (
            "embedding"
            if one.lookup
            else "linear"
            if one.window is None
            else ("transposed " if one.spread else "")
            + ("convolution" + (f", {one.groups} groups" if one.groups > 1 else ""))
        )
    else:
        name = (
            "scale and shift"
            if isinstance(one, Affine)
            else getattr(one.call.function, "__name__", "sum").strip("_")
            if isinstance(one, Sums)
            else f"{getattr(one.call.function, '__name__', 'call')} through torch.func"
        )
    return f"{name}, used {len(part.uses)} times" if len(part.uses) > 1 else name
