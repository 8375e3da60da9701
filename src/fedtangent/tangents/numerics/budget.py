"""How a kernel is cut so that it fits in memory: by samples, outputs, rows of a matrix, and positions.

The factors of a block of samples are held at once, of all outputs or, where not even one sample fits, of some. From
them every part has its sides, which for explicit gradients may be pieces of the matrix, some of its rows at a time.
Sides are contracted in tiles of some samples; where one pair of samples is too large, the sum over pairs of positions
is cut. All of it is told from shapes.

n samples, C outputs; a matrix at S positions with G groups of I inputs and O results.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from fedtangent.tangents.capture.layers import Affine, Matrix, Sums
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.capture.whole import Whole
from fedtangent.tangents.numerics.kernel_parts import Kind, Part, Way

_CACHED = 2**21  # bytes for a tile and its temporaries: about what stays in a core's cache
_PASSING = 2**23  # bytes of what one sample makes of the others of a tile, at several positions
_COLUMNS, _SPOTS = 256, 64  # of a piece and of a cut, from which on a matrix product is fast
_ROWS = 128  # of a tile, likewise


class Cuts(NamedTuple):
    """How much is held at once.

    Attributes:
        outputs: Whose factors.
        block: Samples whose factors.
        chunk: Samples that go through the model.
        side: Numbers that the sides of one sample should take.
        scratch: Numbers that a tile and its temporaries should take.
    """

    outputs: int
    block: int
    chunk: int
    side: int
    scratch: int


class Tile(NamedTuple):
    """How a part is contracted: for so many samples on either side, and so many positions."""

    samples: int
    spots: int


@dataclass(frozen=True)
class Load:
    """What contracting a part takes in memory, in numbers, c outputs at a time.

    Attributes:
        part: With its way.
        way: Of contracting it.
        kind: Of kernel.
        outputs: c.
        stored: Whether its sensitivities are among the factors.
        passing: Numbers of a pass of one sample, for parts that need one.
    """

    part: Part
    way: Way
    kind: Kind
    outputs: int
    stored: bool
    passing: int

    @property
    def pieces(self) -> int:
        """Into how many pieces its gradients can be cut: groups, or rows where there is one group."""
        matrix = self.part.matrix
        if matrix is None or matrix.lookup or self.way == "factors":
            return 1
        return matrix.groups if matrix.groups > 1 else matrix.fan_out

    @property
    def results(self) -> int:
        """Numbers that the uses of a sample give."""
        return sum(
            one.groups * one.fan_out * one.positions
            if isinstance(one, Matrix) and not one.lookup
            else sum(map(math.prod, one.call.shapes))
            for one in self.part.uses
        )

    @property
    def spots(self) -> int:
        """S, over which its sum can be cut; 1 where there is no such sum."""
        matrix = self.part.matrix
        return 1 if matrix is None or self.way == "explicit" else self.part.positions

    def side(self, pieces: int) -> int:
        """Numbers of a sample's side, or of so many pieces of it."""
        if self.way == "explicit":
            return self.outputs * math.ceil(self.part.size * pieces / self.pieces)
        several = len(self.part.uses) > 1
        columns = sum(_columns(one, self.outputs) for one in self.part.uses if several or _windowed(one))
        anew = several or not self.stored or (self.kind == "trace" and self._single)
        return columns + (self.outputs * self.results if anew else 0)

    def making(self, pieces: int) -> int:
        """Numbers that come and go while a sample's side is made."""
        c, share = self.outputs, pieces / self.pieces
        columns = sum(_columns(one, c) for one in self.part.uses)
        if self.way == "factors":
            return columns + (0 if self.stored or self._single else c * self.results)
        if (matrix := self.part.matrix) is not None and not matrix.lookup:
            anew = 0 if self.stored else c * self.results
            grouped = self.side(pieces) if matrix.groups > 1 else 0
            return 2 * columns + anew + math.ceil(c * self.results * share) + grouped
        copies = 1 + sum(not isinstance(one, (Matrix, Affine, Sums)) for one in self.part.uses)
        return copies * c * self.part.size + c * self.results + self.passing

    def temporaries(self, samples: int, spots: int) -> int:
        """Numbers that contracting a tile takes beside the tile."""
        c, matrix, s = self.outputs, self.part.matrix, spots
        if self.way == "explicit" or matrix is None:
            return 0
        if self._single:
            return samples**2 * (1 + c if self.kind == "full" else 1) + 2 * samples * c * self.results
        o, g = matrix.fan_out, matrix.groups
        inner, alike = 2 * (0 if matrix.lookup else g * matrix.fan_in * s), (g + 1) * s * s
        if self.kind == "full":
            return samples**2 * (alike + c * c) + samples * (inner + c * s * (s + o)) + c * s * o
        return samples**2 * (alike + (2 if matrix.lookup else 1) * s * s) + samples * (inner + 2 * c * s * o)

    def cached(self, number: int) -> int:
        """Samples on either side of a tile that stays in the cache."""
        own, matrix, s = _own(self.kind, self.outputs), self.part.matrix, self.part.positions
        if self.way == "explicit" or matrix is None or self._single:
            return max(1, math.isqrt(_CACHED // number // (1 + 2 * own)))
        pair = own + matrix.groups * s**2
        if self.kind != "full":
            return max(1, math.isqrt(_CACHED // number // (pair + 2 * s**2)))
        passing = 2 * self.outputs * s * matrix.fan_out
        return max(1, min(math.isqrt(_CACHED // number // (pair + own)), _PASSING // number // passing))

    @property
    def _single(self) -> bool:
        matrix = self.part.matrix
        return matrix is not None and self.part.positions == 1 and not matrix.lookup and matrix.groups == 1


class Budget:
    """What the kernel of n1 x n2 samples takes in memory, by how it is cut; `symmetric` where these are the same."""

    def __init__(
        self, uses: Uses, parts: Sequence[Part], kind: Kind, n1: int, n2: int, symmetric: bool, number: int
    ) -> None:
        self.uses, self.parts, self.kind, self.n1, self.n2 = uses, parts, kind, n1, n2
        self.symmetric, self.number = symmetric, number
        self.loads = cache(self._loads)

    def _loads(self, outputs: int) -> tuple[Load, ...]:
        """Of all parts, so many outputs at a time."""
        known = {self.uses.last, self.uses.gated}
        return tuple(
            Load(
                part,
                part.way(self.kind, outputs),
                self.kind,
                outputs,
                not known & {*part.keys},
                self.passing(1) if any(isinstance(one, Whole) for one in part.uses) else 0,
            )
            for part in self.parts
        )

    def stored(self, outputs: int) -> int:
        """Numbers of the factors of one sample."""
        gated = self.uses.gated
        gate = math.prod(self.uses.by_name[gated].call.shapes[0]) if gated else 0
        return sum(self.uses.kept.values()) + gate + outputs * self._results

    def passing(self, outputs: int) -> int:
        """Numbers of a sample's way through the model and back, beside its factors."""
        uses = self.uses
        if not self._results:
            return uses.touched + (2 * uses.widest if uses.gated else 0)
        windows = any(map(_windowed, uses.by_name.values()))
        moving = (3 if windows else 1.5) * uses.widest + (self._results if uses.looped else 0)
        return uses.touched + math.ceil(outputs * moving)

    @property
    def _results(self) -> int:
        known = {self.uses.last, self.uses.gated}
        dense = [one for key, one in self.uses.by_name.items() if key not in known and not isinstance(one, Whole)]
        return sum(math.prod(shape) for one in dense for shape in one.call.shapes)

    def pieces(self, cuts: Cuts) -> list[int]:
        """How many pieces of every part are taken at once, by load."""
        return [
            _most(load.pieces, lambda count, load=load: load.side(count) + load.making(count) <= cuts.side)  # type: ignore[misc]
            for load in self.loads(cuts.outputs)
        ]

    def batches(self, cuts: Cuts) -> list[list[int]]:
        """The loads whose sides are held together, by number: one that is cut alone, others up to the limit."""
        batches: list[list[int]] = []
        free = 0
        for number, (load, pieces) in enumerate(zip(self.loads(cuts.outputs), self.pieces(cuts), strict=True)):
            size, cut = load.side(pieces), pieces < load.pieces
            if cut or size > free or not batches:
                batches.append([])
                free = 0 if cut else cuts.side
            batches[-1].append(number)
            free -= size
        return batches

    def tiles(self, cuts: Cuts) -> list[Tile]:
        """How every load is contracted, as far as possible in the given scratch."""
        loads, own = self.loads(cuts.outputs), 3 * _own(self.kind, cuts.outputs)
        largest = [load.cached(self.number) for load in loads]
        if self.symmetric:  # finer than the cache asks, for only tiles on the diagonal are computed whole
            rows = _ROWS / cuts.outputs if self.kind == "full" else _ROWS
            largest = [min(size, max(math.ceil(self.n1 / 4), math.ceil(rows))) for size in largest]
        size = max(largest)
        while True:
            rest = cuts.scratch - own * size**2
            tiles = [_tile(load, min(most, size), rest) for load, most in zip(loads, largest, strict=True)]
            whole = all(tile.spots == load.spots for load, tile in zip(loads, tiles, strict=True))
            if size == 1 or (
                whole and all(load.temporaries(*tile) <= rest for load, tile in zip(loads, tiles, strict=True))
            ):
                return tiles
            size //= 2

    def peak(self, cuts: Cuts) -> int:
        """Bytes at the most, beside the result."""
        rows, columns = _even(self.n1, cuts.block), _even(self.n2, cuts.block)
        once = self.symmetric and rows == self.n1 and (self.kind != "full" or cuts.outputs == self.uses.outputs)
        held, block = rows if once else rows + columns, max(rows, columns)
        stored, chunk = self.stored(cuts.outputs), min(cuts.chunk, block)
        flowing = chunk * (self.passing(cuts.outputs) + (stored if chunk < block else 0))
        loads, pieces, scratch = self.loads(cuts.outputs), self.pieces(cuts), self._scratch(cuts)
        contracting = 0
        for batch in self.batches(cuts):
            making = max(block * loads[i].making(pieces[i]) for i in batch)
            contracting = max(contracting, held * sum(loads[i].side(pieces[i]) for i in batch) + max(making, scratch))
        return self.number * (held * stored + max(flowing, contracting))

    def _scratch(self, cuts: Cuts) -> int:
        tiles = self.tiles(cuts)
        own = 3 * _own(self.kind, cuts.outputs) * max(tile.samples for tile in tiles) ** 2
        return own + max(load.temporaries(*tile) for load, tile in zip(self.loads(cuts.outputs), tiles, strict=True))

    def fitting(self, memory_bytes: int) -> Cuts:
        """The cuts with the fewest passes that fit.

        Raises:
            TooLittle: None does.
        """

        def fits(cuts: Cuts) -> bool:
            return self.peak(cuts) <= memory_bytes

        start = self._start(memory_bytes)
        c = start.outputs
        scratch = max(start.scratch, min(_PASSING, memory_bytes // 8) // self.number)
        most = max(self.n1, self.n2)
        found = None
        for side in (self._side(c, math.inf), max(self.stored(c), self._side(c, _COLUMNS)), self._side(c, _COLUMNS)):
            its = _first(most, lambda m, side=side: fits(_roomy(c, math.ceil(most / m), side, scratch)))  # type: ignore[misc]
            if its is not None and (found is None or its < found[0]):
                found = its, _roomy(c, math.ceil(most / its), side, scratch)
        cuts = start if found is None else found[1]
        block = cuts.block
        chunks = _first(block, lambda m: fits(cuts._replace(chunk=math.ceil(block / m))))
        cuts = cuts._replace(chunk=math.ceil(block / (chunks or block)))
        # what is left goes to tiles
        left = (memory_bytes - self.peak(cuts._replace(chunk=1, scratch=0))) // self.number + self._scratch(
            cuts._replace(scratch=0)
        )
        wide = cuts._replace(scratch=max(cuts.scratch, left))
        return wide if fits(wide) else cuts

    def _start(self, memory_bytes: int) -> Cuts:
        """One sample at a time, with as many outputs as fit."""
        counts = sorted({math.ceil(self.uses.outputs / k) for k in range(1, self.uses.outputs + 1)}, reverse=True)
        for c in counts:
            cuts = Cuts(c, 1, 1, self._side(c, _COLUMNS), self._temporary(c, _SPOTS))
            if self.peak(cuts) <= memory_bytes:
                return cuts
        least = {c: self.peak(Cuts(c, 1, 1, 0, 0)) for c in counts}
        if not (its := [c for c in counts if least[c] <= memory_bytes]):
            raise TooLittle(min(least.values()))
        return Cuts(its[0], 1, 1, 0, 0)

    def _side(self, outputs: int, columns: float) -> int:
        """The largest side, in pieces of so many parameters for each output."""
        found = 0
        for load in self.loads(outputs):
            pieces = min(load.pieces, max(1, math.ceil(min(columns, load.part.size) * load.pieces / load.part.size)))
            found = max(found, load.side(pieces) + load.making(pieces))
        return max(found, self.stored(outputs)) if columns == math.inf else found

    def _temporary(self, outputs: int, spots: int) -> int:
        """The scratch for one pair of samples, at so many positions."""
        own = 3 * _own(self.kind, outputs)
        return own + max(load.temporaries(1, min(spots, load.spots)) for load in self.loads(outputs))


class TooLittle(ValueError):
    """The least that would do, in bytes."""

    def __init__(self, least: int) -> None:
        super().__init__(least)
        self.least = least


def _roomy(outputs: int, block: int, side: int, scratch: int) -> Cuts:
    return Cuts(outputs, block, math.ceil(block / 8), side, scratch)


def _tile(load: Load, most: int, room: int) -> Tile:
    """The largest tile, of `most` samples at the most, whose temporaries fit; of some positions where one does not."""
    samples = _most(most, lambda count: load.temporaries(count, load.spots) <= room)
    if load.temporaries(samples, load.spots) <= room:
        return Tile(samples, load.spots)
    return Tile(1, _most(load.spots, lambda count: load.temporaries(1, count) <= room))


def _own(kind: Kind, c: int) -> int:
    return {"full": c * c, "trace": 1, "diagonal": c}[kind]


def _columns(one: object, outputs: int) -> int:
    """Numbers of what a matrix meets in one sample: of a convolution, what its window makes."""
    if not isinstance(one, Matrix) or one.lookup:
        return 0
    return one.unfolded(outputs) if one.window else one.groups * one.fan_in * one.positions


def _windowed(one: object) -> bool:
    return isinstance(one, Matrix) and one.window is not None


def _even(length: int, size: int) -> int:
    """The largest of slices of about one length, at most `size`."""
    return math.ceil(length / math.ceil(length / size))


def _first(most: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest number from 1 up to `most` for which it holds, if for any; once it holds it holds on."""
    if holds(1):
        return 1
    if not holds(most):
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _most(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `most` for which it holds, 1 where it holds for none; it holds for all below one."""
    beyond = _first(most, lambda number: not holds(number))
    return most if beyond is None else max(1, beyond - 1)
