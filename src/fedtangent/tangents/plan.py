"""What a kernel will cost, and how every use of parameters will be contracted, before anything of size is allocated."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedtangent.tangents.contract import Kind, Part, Way, parts
from fedtangent.tangents.functional import Weights
from fedtangent.tangents.given import given
from fedtangent.tangents.layers import Affine, Matrix, Sums
from fedtangent.tangents.outputs import Outputs
from fedtangent.tangents.samples import Samples
from fedtangent.tangents.uses import Uses
from fedtangent.tangents.verified_uses import uses
from fedtangent.tangents.whole import Whole

MEMORY = 2**30
_SCRATCH = 2**21  # bytes for a tile and its temporaries: about what stays in a core's cache
_ROWS = 128  # of a tile, from which on a matrix product is fast


@dataclass(frozen=True)
class Line:
    """A part of the model: what it is, how it is contracted, and the operations that takes for the whole kernel."""

    part: Part
    what: str
    way: Way
    operations: float
    tile: int


@dataclass(frozen=True)
class Plan:
    """How a kernel will be computed. `print(plan)` shows it.

    Attributes:
        kind: full, trace or diagonal.
        samples: n1 and n2.
        outputs: C.
        lines: One a part of the model, in the order of the forward pass.
        batches: Those that are contracted together, as far as memory goes.
        block: Samples whose factors are in memory at once; where that is not all, they are computed anew for every pair
            of blocks.
        chunk: Samples that go through the network at once.
        operations: Of the contractions and of the passes through the network's matrices, 2 a multiply-add.
        peak_bytes: At most so much beside the result.
        result_bytes: Of the kernel.
        unused: Parameters that no output depends on: columns of zeros in J.
    """

    kind: Kind
    samples: tuple[int, int]
    outputs: int
    lines: tuple[Line, ...]
    batches: tuple[tuple[Line, ...], ...]
    block: int
    chunk: int
    operations: float
    peak_bytes: int
    result_bytes: int
    unused: tuple[str, ...] = ()

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
            f"{self.block} samples in memory, {self.chunk} at once through the model"
            + (f"\nnot used, columns of zeros: {', '.join(self.unused)}" if self.unused else "")
        )


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
    model, w, own, its, _ = given(model, x1, x2, w=w, outputs=outputs, name="x1")
    return planned(uses(model, w, own), w, own, its, kind, memory_bytes)


def planned(uses: Uses, w: Weights, x1: Samples, x2: Samples | None, kind: Kind, memory_bytes: int) -> Plan:
    """The plan from the uses."""
    if kind not in ("full", "trace", "diagonal"):
        raise ValueError(f"`kind` must be 'full', 'trace' or 'diagonal'; got {kind!r}. Choose one of the three.")
    n1, n2, c = len(x1), len(x1 if x2 is None else x2), uses.outputs
    number = next(iter(w.values())).element_size()
    pairs = n1 * n2 if x2 is not None else n1 * (n1 + 1) / 2
    scratch = min(memory_bytes // 8, _SCRATCH) // number
    lines = []
    for part in parts(uses, w):
        way = part.way(kind, c)
        tile = math.isqrt(int(scratch / _pair_numbers(part, way, kind, c)))
        if x2 is None:  # finer than the cache asks, for only tiles on the diagonal are computed whole
            tile = min(tile, max(math.ceil(n1 / 4), math.ceil(_ROWS / c if kind == "full" else _ROWS)))
        gated = uses.gated in part.keys or uses.last in part.keys
        lines.append(Line(part, _what(part), way, pairs * part.operations(kind, c, gated)[way], tile))
    batches = _batches(lines, _stored_numbers(uses), c)
    stored = number * (_stored_numbers(uses) + max(sum(_side_numbers(line, c) for line in batch) for batch in batches))
    passing = number * (3 * uses.touched + _stored_numbers(uses) + 2 * c * _widest(uses))
    total = n1 + (0 if x2 is None else n2)
    block = min(total, memory_bytes // 2 // stored)
    if block < total:
        block = min(max(n1, n2), memory_bytes // 2 // (2 * stored))
    chunk = min(block, memory_bytes // 4 // passing)
    if block < 1 or chunk < 1 or any(line.tile < 1 for line in lines):
        least = max(
            4 * stored, 4 * passing, *(8 * number * int(_pair_numbers(line.part, line.way, kind, c)) for line in lines)
        )
        raise ValueError(
            f"`memory_bytes` must be at least {least} for this model, one sample at a time; got {memory_bytes}. "
            "Give more."
        )
    forward = sum(
        2.0 * one.groups * one.fan_out * one.fan_in * one.positions
        for one in uses.by_name.values()
        if isinstance(one, Matrix) and not one.lookup
    )
    captured = total if block >= total else n1 + math.ceil(n1 / block) * n2 / (2 if x2 is None else 1)
    backward = c if any(key not in (uses.last, uses.gated) for key in uses.by_name) else 1
    operations = sum(line.operations for line in lines) + captured * (1 + backward) * forward
    beside = min(total, 2 * block) * stored + chunk * passing + 2 * scratch * number
    size = {"full": c * c, "trace": 1, "diagonal": c}[kind]
    return Plan(
        kind, (n1, n2), c, tuple(lines), batches, block, chunk, operations, beside, n1 * n2 * size * number, uses.unused
    )


def _batches(lines: list[Line], stored: int, c: int) -> tuple[tuple[Line, ...], ...]:
    """Lines whose sides together take no more than the largest one, or than the factors."""
    limit = max(stored, *(_side_numbers(line, c) for line in lines))
    batches: list[list[Line]] = [[]]
    for line in lines:
        if sum(_side_numbers(other, c) for other in [*batches[-1], line]) > limit:
            batches.append([])
        batches[-1].append(line)
    return tuple(tuple(batch) for batch in batches if batch)


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


def _stored_numbers(uses: Uses) -> int:
    """Of the factors of one sample."""
    dense = [one for key, one in uses.by_name.items() if key not in (uses.last, uses.gated)]
    gate = math.prod(uses.by_name[uses.gated].call.shapes[0]) if uses.gated else 0
    return (
        sum(uses.kept.values())
        + gate
        + uses.outputs * sum(math.prod(shape) for one in dense for shape in one.call.shapes)
    )


def _widest(uses: Uses) -> int:
    return max(math.prod(shape) for one in uses.by_name.values() for shape in one.call.shapes)


def _side_numbers(line: Line, c: int) -> int:
    """That contracting a part takes for one sample, beside its factors."""
    matrix = line.part.matrix
    results = sum(math.prod(shape) for one in line.part.uses for shape in one.call.shapes)
    columns = sum(one.unfolded(c) for one in line.part.uses if isinstance(one, Matrix))
    return columns + (2 * c * line.part.size if line.way == "explicit" else 0) + (2 if matrix else 1) * c * results


def _pair_numbers(part: Part, way: Way, kind: Kind, c: int) -> float:
    """The tile itself and temporaries, for a pair of samples."""
    own = {"full": c * c, "trace": 1, "diagonal": c}[kind]
    matrix = part.matrix
    if way == "explicit" or matrix is None or (part.positions == 1 and not matrix.lookup):
        return 1.0 + 2.0 * own
    s, o = part.positions, matrix.fan_out
    return own + matrix.groups * s**2 + (3.0 * s * c * o + own if kind == "full" else 2.0 * s**2)
