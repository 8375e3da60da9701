"""The empirical tangent kernel of any model, J J^T without J: in tiles, in bounded memory.

n samples, C outputs, P parameters, J (n C, P). `full[n, m, c, d]` = J_nc . J_md (Jacot, Gabriel, Hongler, Neural
tangent kernel, 2018), `trace[n, m]` its mean over c = d, the kernel of NTK-FL and NTK-DFL, `diagonal[n, m, c]` its
entries at c = d.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.tangents.capture.factors import Factors, Some, factors, head
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.layers import AnyCall
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import Uses, UsesDiffer
from fedtangent.tangents.capture.verified_uses import all_by_autograd, uses
from fedtangent.tangents.given import given
from fedtangent.tangents.numerics.kernel_parts import Kind, Side, cuts, side, total
from fedtangent.tangents.plan import MEMORY, Plan, Share, least_bytes, planned


def kernel(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    kind: Kind = "full",
    w: Weights | None = None,
    outputs: Outputs = None,
    memory_bytes: int = MEMORY,
    progress: bool = False,
) -> Tensor:
    """The tangent kernel of a model between samples x1 (n1, ...) and x2 (n2, ...), or of x1 with itself.

    Every use of a parameter is contracted in the cheaper of two ways, from its factors or from explicit gradients of
    this parameter alone; `plan` tells which, and the cost. In float32 or float64, on the device of model and samples.

    Args:
        model: Maps (n, ...) to outputs (n, C), each sample on its own: in eval mode where it has batch norm or dropout.
        x1: Samples along the first axis; a dict or a tuple of tensors is taken as model(**x1) or model(*x1).
        x2: More of them; without, x1, and half of the work.
        kind: `full`, `trace` (the mean over outputs) or `diagonal`.
        w: Weights to use in place of the model's own, by the names of model.named_parameters(); those left out are
            taken as constants.
        outputs: Which part of the model's result its outputs are: a name such as "logits", an index or a function.
        memory_bytes: For all that is in memory beside model, samples and result, the check of the model included. What
            does not fit is cut: samples, outputs, rows of a matrix, positions. Less takes longer.
        progress: Show a bar.

    Returns:
        (n1, n2, C, C), (n1, n2) or (n1, n2, C).

    Raises:
        TypeError: Samples or results that are no tensors; numbers that are not real.
        ValueError: A model whose outputs depend on chance or on other samples, or that leaves a parameter unused;
            samples that are not finite, of different shapes or of a wrong type; too little memory.
    """
    model, w, own, its, _ = given(model, x1, x2, w=w, outputs=outputs, name="x1")
    with torch.no_grad():
        found = uses(model, w, own, memory_bytes)
        try:
            out = _filled(model, w, own, its, kind, found, memory_bytes, progress)
        except UsesDiffer:
            found = all_by_autograd(model, w, found)
            out = _filled(model, w, own, its, kind, found, memory_bytes, progress)
    return out.movedim(2, 1) if kind == "full" else out


def filled(model: nn.Module, w: Weights, x: Samples, kind: Kind, found: Uses, memory_bytes: int) -> Tensor:
    """The kernel of samples with themselves, (n, C, n, C) or (n, n), with uses that are known; not finite where J is.

    At least as much memory as one sample needs is taken.
    """
    with torch.no_grad():
        memory_bytes = max(memory_bytes, least_bytes(found, w, len(x), kind))
        its = planned(found, w, x, None, kind, memory_bytes)
        shape = (len(x), its.outputs) * 2 if kind == "full" else (len(x),) * 2
        like = next(iter(w.values()))
        out = torch.empty(shape, dtype=like.dtype, device=like.device)
        for _ in _Work(model, w, found, its, finite=False).fill(out, x, None):
            pass
    return out


def _filled(
    model: nn.Module,
    w: Weights,
    x1: Samples,
    x2: Samples | None,
    kind: Kind,
    found: Uses,
    memory_bytes: int,
    progress: bool,
) -> Tensor:
    its = planned(found, w, x1, x2, kind, memory_bytes)
    n1, n2, c = *its.samples, its.outputs
    like = next(iter(w.values()))
    shape = {"full": (n1, c, n2, c), "trace": (n1, n2), "diagonal": (n1, n2, c)}[kind]
    out = torch.empty(shape, dtype=like.dtype, device=like.device)
    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        for total in _Work(model, w, found, its).fill(out, x1, x2):
            if not bar.tasks:
                bar.add_task(f"{kind} kernel", total=total)
            bar.advance(bar.tasks[0].id)
    return out


class _Block(NamedTuple):
    """Rows of the kernel: of some samples, by some outputs."""

    samples: slice
    outputs: Some


class _Work:
    """Fills a kernel block by block: factors of some samples, then tile by tile every part's share."""

    def __init__(self, model: nn.Module, w: Weights, uses: Uses, plan: Plan, finite: bool = True) -> None:
        """`finite` has factors refused that are not."""
        self.model, self.w, self.uses, self.plan, self.head = model, w, uses, plan, head(uses, w)
        self.finite = finite

    def fill(self, out: Tensor, x1: Samples, x2: Samples | None) -> Iterator[int]:
        """Adds up the kernel, and yields the number of steps after every one."""
        columns = x1 if x2 is None else x2
        pairs = self._pairs(len(x1), None if x2 is None else len(x2))
        batches, summed = self.plan.batches, self.plan.kind == "trace"
        before: _Block | None = None
        own: Factors = {}
        for i, j in pairs:
            if i != before:
                before, own = i, {}  # what is held is let go first
                own = self._factors(x1[i.samples], i.outputs)
            its = own if x2 is None and i == j else self._factors(columns[j.samples], j.outputs)
            for number, batch in enumerate(batches):
                fresh = number == 0 and not (summed and i.outputs.start)
                last = number == len(batches) - 1 and not (summed and i.outputs.stop < i.outputs.of)
                self._add(out, batch, own, its, (i, j), fresh=fresh, mirrored=x2 is None and last)
                yield len(pairs) * len(batches)
            del its

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
    ) -> None:
        """Adds the share of some parts to a block at `at`, in tiles that stay in the cache where they can."""
        kind, lines = self.plan.kind, [one.line for one in batch]
        rows = [self._side(one, own, at[0].outputs) for one in batch]
        columns = rows if own is its else [self._side(one, its, at[1].outputs) for one in batch]
        of, most, spots = [line.part for line in lines], [line.tile for line in lines], [line.spots for line in lines]
        size = max(
            line.tile for line in self.plan.lines
        )  # of all batches alike: half of a symmetric tile is not filled
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

    def _side(self, one: Share, factors: Factors, outputs: Some) -> Side:
        line = one.line
        return side(line.part, line.way, self.plan.kind, self.w, factors, self.head, outputs, one.piece)


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
