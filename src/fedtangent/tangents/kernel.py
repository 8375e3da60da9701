"""The empirical tangent kernel of any model, J J^T without J: in tiles, in bounded memory.

n samples, C outputs, P parameters, J (n C, P). `full[n, m, c, d]` = J_nc . J_md (Jacot, Gabriel, Hongler, Neural
tangent kernel, 2018), `trace[n, m]` its mean over c = d, the kernel of NTK-FL and NTK-DFL, `diagonal[n, m, c]` its
entries at c = d.
"""

import math
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.memory import out_of_memory
from fedtangent.tangents import on_disk
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.blocks import Work, empty
from fedtangent.tangents.capture.functional import Weights, call, plain, trainable
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.stream import stream
from fedtangent.tangents.capture.uses import Uses, UsesDiffer
from fedtangent.tangents.capture.verified_uses import all_by_autograd, uses
from fedtangent.tangents.given import given
from fedtangent.tangents.numerics.kernel_parts import Kind
from fedtangent.tangents.on_disk import Out
from fedtangent.tangents.plan import MEMORY, least_bytes, planned

# Samples of a stream on which a model is looked at.
_FIRST = 8


@without_autocast()
def kernel(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    kind: Kind = "full",
    w: Weights | None = None,
    outputs: Outputs = None,
    memory_bytes: int = MEMORY,
    out: Out | None = None,
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
        out: A file that the kernel is written to, tile by tile, in numpy's format, or a memmap. Samples may then be a
            DataLoader or any iterable of batches that starts anew; of a batch that is a list, as torch's loaders make
            of samples and labels, the first part. They are read once to be counted, and once for every block of rows.
            The same call goes on after a kill, to the same bits.
        progress: Show a bar.

    Returns:
        (n1, n2, C, C), (n1, n2) or (n1, n2, C); with `out`, on the CPU, of the file.

    Raises:
        TypeError: Samples or results that are no tensors; numbers that are not real.
        ValueError: A model whose outputs depend on chance or on other samples, or that leaves a parameter unused;
            samples that are not finite, of different shapes or of a wrong type; too little memory. A file that holds
            something else, no room on its disk, or samples that change from pass to pass.

    Example:
        >>> kernel(torch.nn.Linear(5, 3), torch.ones(4, 5), kind="trace")[0].tolist()
        [6.0, 6.0, 6.0, 6.0]
    """
    if out is not None:
        return _written(model, x1, x2, kind, w, outputs, memory_bytes, out, progress)
    model, w, own, its, _ = given(model, x1, x2, w=w, outputs=outputs, name="x1", memory_bytes=memory_bytes)
    with torch.no_grad():
        return computed(model, w, own, its, kind, uses(model, w, own, memory_bytes), memory_bytes, progress)


def filled(model: nn.Module, w: Weights, x: Samples, kind: Kind, found: Uses, memory_bytes: int) -> Tensor:
    """The kernel of samples with themselves, (n, C, n, C) or (n, n), with uses that are known; not finite where J is.

    At least as much memory as one sample needs is taken.
    """
    with torch.no_grad():
        memory_bytes = max(memory_bytes, least_bytes(found, w, len(x), kind))
        its = planned(found, w, x, None, kind, memory_bytes)
        out = empty(its, next(iter(w.values())))
        for _ in Work(model, w, found, its, finite=False).fill([out], x, None):
            pass
    return out


def computed(
    model: nn.Module,
    w: Weights,
    x1: Samples,
    x2: Samples | None,
    kind: Kind,
    found: Uses,
    memory_bytes: int,
    progress: bool = False,
) -> Tensor:
    """The kernel, by automatic differentiation of the whole model where samples use parameters in different ways."""
    try:
        out = _filled(model, w, x1, x2, kind, found, memory_bytes, progress)
    except (UsesDiffer, RuntimeError) as error:
        # those that the uses were found on may have missed a rare way, such as one expert of many
        if out_of_memory(error):
            raise
        out = _filled(model, w, x1, x2, kind, all_by_autograd(model, w, found), memory_bytes, progress)
    return out.movedim(2, 1) if kind == "full" else out


def _written(
    model: nn.Module,
    x1: Any,
    x2: Any,
    kind: Kind,
    w: Weights | None,
    outputs: Outputs,
    memory_bytes: int,
    out: Out,
    progress: bool,
) -> Tensor:
    """The kernel in a file: half of the memory is for two blocks of samples and their tile, half for the work on it."""
    device = next(iter(trainable(model, w).values())).device
    streams = [stream(name, x, device) for name, x in (("x1", x1), ("x2", x2)) if x is not None]
    few = [one.first(_FIRST) for one in streams]
    other = few[1] if x2 is not None else None
    picked, w, first, _, _ = given(model, few[0], other, w=w, outputs=outputs, name="x1", memory_bytes=memory_bytes)
    with torch.no_grad():
        found = uses(picked, w, first, memory_bytes)
        planned(found, w, first, None, kind, memory_bytes)  # is there such a kind, and memory for a sample?
        numbers = {"full": (found.outputs,) * 2, "trace": (), "diagonal": (found.outputs,)}[kind]
        like = next(iter(w.values()))
        pair_bytes = math.prod(numbers) * like.element_size()
        size = on_disk.block_size(first[:1], pair_bytes, memory_bytes // 2)
        its = [on_disk.blocks(one, size) for one in streams]
        found = uses(picked, w, its[0].few, memory_bytes)  # the first samples may be of one class
        work = memory_bytes - on_disk.tile_bytes(first[:1], pair_bytes, size)
        least = least_bytes(found, w, size, kind, symmetric=False)
        if work < least:
            raise SettingError(
                f"`memory_bytes` must be at least {2 * least} for this model, a tile at a time; got {memory_bytes}. "
                "Give more."
            )

        def tile(rows: Samples, columns: Samples | None) -> Tensor:
            return computed(picked, w, rows, columns, kind, found, work)

        shape = (its[0].count, its[-1].count, *numbers)
        columns = its[1] if x2 is not None else None
        with torch.enable_grad(), plain():  # a model may differentiate on its way
            f = call(picked, w, its[0].few[:1]).detach()
        made = on_disk.made_of(model, w, outputs, memory_bytes, f)
        steps = on_disk.written(out, shape, like.dtype, its[0], columns, tile, made)
        with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
            task = bar.add_task(f"{kind} kernel to disk", total=None)
            for at in steps:
                bar.update(task, completed=at.done, total=at.of)
    return torch.from_numpy(np.asarray(at.array))


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
    out = empty(its, next(iter(w.values())))
    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        for total in Work(model, w, found, its).fill([out], x1, x2):
            if not bar.tasks:
                bar.add_task(f"{kind} kernel", total=total)
            bar.advance(bar.tasks[0].id)
    return out
