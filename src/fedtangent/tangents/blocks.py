"""A kernel filled block by block and tile by tile: into one result, or into one for every group of parameters."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.tangents.capture.factors import Factors, Some, factors, head
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.layers import AnyCall
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.numerics.kernel_parts import Kind, Part, Side, cuts, side, total
from fedtangent.tangents.plan import Plan, Share


def empty(plan: Plan, like: Tensor) -> Tensor:
    """Room for a kernel: (n1, C, n2, C) full, (n1, n2) trace, (n1, n2, C) diagonal; `like` has its type and device."""
    n1, n2, c = *plan.samples, plan.outputs
    shape = {"full": (n1, c, n2, c), "trace": (n1, n2), "diagonal": (n1, n2, c)}[plan.kind]
    return torch.empty(shape, dtype=like.dtype, device=like.device)


class _Block(NamedTuple):
    """Rows of the kernel: of some samples, by some outputs."""

    samples: slice
    outputs: Some


class _Turn(NamedTuple):
    """Shares that are added to the result of a group together: its first ones, its last ones, or both, or neither."""

    group: int
    batch: tuple[Share, ...]
    first: bool
    last: bool


def _turns(plan: Plan, group: Callable[[Part], int]) -> list[_Turn]:
    """The batches of a plan, each group's shares of them by themselves."""
    found: list[tuple[int, tuple[Share, ...]]] = []
    for batch in plan.batches:
        of = [group(one.line.part) for one in batch]
        found += [(g, tuple(one for one, own in zip(batch, of, strict=True) if own == g)) for g in sorted(set(of))]
    order = [g for g, _ in found]
    return [_Turn(g, batch, g not in order[:at], g not in order[at + 1 :]) for at, (g, batch) in enumerate(found)]


class Work:
    """Fills a kernel block by block: factors of some samples, then tile by tile every part's share."""

    def __init__(self, model: nn.Module, w: Weights, uses: Uses, plan: Plan, finite: bool = True) -> None:
        """`finite` has factors refused that are not."""
        self.model, self.w, self.uses, self.plan, self.head = model, w, uses, plan, head(uses, w)
        self.finite = finite

    def fill(
        self, outs: Sequence[Tensor], x1: Samples, x2: Samples | None, group: Callable[[Part], int] = lambda part: 0
    ) -> Iterator[int]:
        """Adds up the kernel, and yields the number of steps after every one.

        Args:
            outs: Results as `empty` has them; those to which no part belongs are left as they are.
            x1: Samples of the rows.
            x2: Of the columns; without, those of the rows.
            group: The result, by its place in `outs`, to which a part's share is added.

        Raises:
            ValueError: A kernel that is not finite where the factors are, which the numbers' type cannot hold.
        """
        columns = x1 if x2 is None else x2
        pairs = self._pairs(len(x1), None if x2 is None else len(x2))
        turns, summed = _turns(self.plan, group), self.plan.kind == "trace"
        before: _Block | None = None
        own: Factors = {}
        whole: Any = 0.0
        for i, j in pairs:
            if i != before:
                before, own = i, {}  # what is held is let go first
                own = self._factors(x1[i.samples], i.outputs)
            its = own if x2 is None and i == j else self._factors(columns[j.samples], j.outputs)
            for turn in turns:
                fresh = turn.first and not (summed and i.outputs.start)
                last = turn.last and not (summed and i.outputs.stop < i.outputs.of)
                out = outs[turn.group]
                found = self._add(out, turn.batch, own, its, (i, j), fresh=fresh, mirrored=x2 is None and last)
                whole = whole + found if last else whole
                yield len(pairs) * len(turns)
            del its
        # the cheap sum first, and entry by entry only where that is not finite
        if self.finite and not math.isfinite(whole):
            _check_range(outs)

    def _pairs(self, n1: int, n2: int | None) -> list[tuple[_Block, _Block]]:
        """Blocks of rows and of columns: of a symmetric kernel each pair once; of the same outputs but for the full."""
        its, count = self.plan.cuts, self.plan.outputs
        outputs = [Some(cut.start, cut.stop, count) for cut in cuts(count, its.outputs)]
        groups = [outputs] if self.plan.kind == "full" else [[some] for some in outputs]
        pairs = []
        for some in groups:
            rows, columns = (
                [_Block(i, c) for i in cuts(n, its.block) for c in some] for n in (n1, n1 if n2 is None else n2)
            )
            pairs += [(i, j) for a, i in enumerate(rows) for b, j in enumerate(columns) if n2 is not None or b >= a]
        return pairs

    def _factors(self, x: Samples, outputs: Some) -> Factors:
        """Of some samples, in the place of the whole from the first chunk on."""
        whole: Factors = {}
        done = 0
        for part in x.split(self.plan.chunk):
            f, its = factors(self.model, self.w, part, self.uses, outputs)
            # the inputs of an unknown call may be infinite: a mask
            known = [its[key].a for key, one in self.uses.by_name.items() if not isinstance(one, AnyCall)]
            if self.finite and not trees.is_finite([f, known, [factor[1:] for factor in its.values()]]):
                raise SettingError(
                    "`model` must have finite gradients; got NaN or infinity. Check its weights and samples."
                )
            if len(part) == len(x):
                return its
            if not whole:
                whole = trees.map(lambda leaf: leaf.new_empty(len(x), *leaf.shape[1:]), its)
            rows = slice(done, done + len(part))
            trees.map(lambda leaf, own, rows=rows: leaf[rows].copy_(own), whole, its)
            done += len(part)
            del f, its, known
        return whole

    def _add(
        self,
        out: Tensor,
        batch: tuple[Share, ...],
        own: Factors,
        its: Factors,
        at: tuple[_Block, _Block],
        *,
        fresh: bool,
        mirrored: bool,
    ) -> Any:
        """Adds the share of some parts to a block at `at`, in tiles that stay in the cache; the sum of all there."""
        kind, lines = self.plan.kind, [one.line for one in batch]
        rows = [self._side(one, own, at[0].outputs) for one in batch]
        columns = rows if own is its else [self._side(one, its, at[1].outputs) for one in batch]
        of, most, spots = [line.part for line in lines], [line.tile for line in lines], [line.spots for line in lines]
        size = max(
            line.tile for line in self.plan.lines
        )  # of all batches alike: half of a symmetric tile is not filled
        found: Any = 0.0
        for i in cuts(rows[0].samples, size):
            for j in cuts(columns[0].samples, size):
                if own is its and j.start < i.start:
                    continue
                to = _moved(at[0], i), _moved(at[1], j)
                target = _tile(out, kind, *to)
                tile = total(
                    kind, of, [row.rows(i) for row in rows], [column.rows(j) for column in columns], most, spots
                )
                if not fresh:
                    tile += target
                if mirrored and to[0] == to[1]:
                    tile = _symmetric(tile)
                target.copy_(tile)
                if mirrored and to[0] != to[1]:
                    _tile(out, kind, *reversed(to)).copy_(_transposed(tile))
                found = found + tile.sum()
        return found

    def _side(self, one: Share, factors: Factors, outputs: Some) -> Side:
        line = one.line
        return side(line.part, line.way, self.plan.kind, self.w, factors, self.head, outputs, one.piece)


def _check_range(outs: Sequence[Tensor]) -> None:
    if not all(bool(row.isfinite().all()) for out in outs for row in out):
        dtype = outs[0].dtype
        remedy = "Scale the samples." if dtype == torch.float64 else "Take float64: model.double()."
        raise SettingError(
            f"`model` must have a kernel within the range of {dtype}, {torch.finfo(dtype).max:.1e}; got infinity or "
            f"NaN, though its gradients are finite. {remedy}"
        )


def _moved(block: _Block, part: slice) -> _Block:
    start = block.samples.start
    return block._replace(samples=slice(start + part.start, start + part.stop))


def _tile(out: Tensor, kind: Kind, rows: _Block, columns: _Block) -> Tensor:
    if kind == "full":
        return out[rows.samples, rows.outputs.part, columns.samples, columns.outputs.part]
    tile = out[rows.samples, columns.samples]
    return tile if kind == "trace" else tile[..., rows.outputs.part]


def _transposed(tile: Tensor) -> Tensor:
    return tile.permute((2, 3, 0, 1)) if tile.dim() == 4 else tile.transpose(0, 1)


def _symmetric(tile: Tensor) -> Tensor:
    """The mean of the tile and its transpose, which is symmetric to the last bit."""
    return (tile + _transposed(tile)).mul_(0.5)
