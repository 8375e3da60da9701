"""Batch norm that hides nothing: its rows come from who trains, its statistics from sums over the clients' rows.

Ioffe, Szegedy. Batch Normalization. ICML 2015. arXiv 1502.03167. In training, inside `over`, a batch's real rows
normalise each other; elsewhere the statistics do, which are buffers that a weights dict may hold. They are measured
anew for new weights (`sums`, `statistics`), and no running averages are kept. torch's own batch norm does the same in
train mode, where its function is `REPLACED`, and is frozen in eval mode. Three things differ from torch's: momentum is
not used, the running variance is divided by n instead of n - 1, and a single value, an error in torch, is its own mean.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

_BATCH: ContextVar["Batch | None"] = ContextVar("batch", default=None)


Sums = tuple[Tensor, Tensor, Tensor, Tensor]  # by channel of values and of their squares, their number, batches


class Batch(NamedTuple):
    """What a batch norm must know of the batch that it normalises.

    Attributes:
        real: Which rows are, (rows,) as bool; None where all of them are known to be.
        sums: Where every layer leaves those of what goes into it, by the id of its mean; None where nobody asks.
    """

    real: Tensor | None
    sums: dict[int, Sums] | None = None


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias, channel by channel of (rows, channels, ...).

    Args:
        channels: How many.
        eps: Added to the variance.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises by the real rows of `over`; outside of it by the statistics."""
        if is_inside():
            return _by_batch(x, self.weight, self.bias, self.eps, self.mean)
        return _scaled(x, self.mean, self.var, self.weight, self.bias, self.eps)


def _by_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, layer: Tensor) -> Tensor:
    """Values normalised by the real rows of `over`; the layer is known by its mean."""
    batch = _BATCH.get()
    assert batch is not None
    if batch.real is None and batch.sums is None and x[:, 0].numel() > 1:  # torch's own, which is faster
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    real = x.new_ones(len(x), dtype=torch.bool) if batch.real is None else batch.real
    if batch.sums is not None:
        own, before = (*_summed(x.double(), real), real.any().double()), batch.sums.get(id(layer))
        batch.sums[id(layer)] = own if before is None else tuple(map(torch.add, before, own))  # type: ignore[assignment]
    total, _, count = _summed(x, real)
    count = count.clamp(min=1)  # of padding alone
    mean = total / count
    var = _summed(x - mean.reshape(-1, *[1] * (x.dim() - 2)), real)[1] / count
    return _scaled(x, mean, var, weight, bias, eps)


def _scaled(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 2))
    scale = (1 if weight is None else weight) / (var + eps).sqrt()
    scaled = (x - mean.reshape(shape)) * scale.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)


def _torchs(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch's function, with the batch's real rows in training."""
    if training and running_mean is not None and is_inside():
        return _by_batch(input, weight, bias, eps, running_mean)
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


REPLACED = {F.batch_norm: _torchs}


@contextmanager
def over(real: Tensor | None, sums: dict[int, Sums] | None = None) -> Iterator[None]:
    """Inside, a batch is normalised by its own real rows, (rows,) as bool, by all for None; and summed where asked."""
    token = _BATCH.set(Batch(real, sums))
    try:
        yield
    finally:
        _BATCH.reset(token)


def is_inside() -> bool:
    """Whether a batch's rows normalise each other here."""
    return _BATCH.get() is not None


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a model that train by the batch, by name: torch's in train mode, and all of ours."""
    return {name: part for name, part in model.named_modules() if isinstance(part, BatchNorm) or _learns(part)}


def counters(model: nn.Module) -> list[str]:
    """The names of the buffers in which torch's batch norms count the batches that they are trained on."""
    kept = {id(part.num_batches_tracked) for part in model.modules() if _learns(part)}
    return [name for name, buffer in model.named_buffers() if id(buffer) in kept]


def _learns(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and part.training and part.running_mean is not None


def sums(model: nn.Module, forward: Callable[[], Any], real: Tensor) -> dict[str, Sums]:
    """What goes into every batch norm, summed over the real rows of a batch, as in training: see `statistics`.

    By the name of the layer's buffer that holds the mean.

    Args:
        model: Whose layers they are.
        forward: Passes the batch.
        real: Its real rows.
    """
    by_layer: dict[int, Sums] = {}
    with over(real, by_layer), torch.no_grad():
        forward()
    return {name: by_layer[id(mean)] for name, mean in model.named_buffers() if id(mean) in by_layer}


def statistics(total: dict[str, Sums], dtype: torch.dtype) -> dict[str, Tensor]:
    """The buffers of every batch norm from its sums over all rows: of values, of their squares, and how many."""
    buffers: dict[str, Tensor] = {}
    for name, (values, squares, count, batches) in total.items():
        mean, prefix = values / count, name.removesuffix("mean")
        buffers[name] = mean.to(dtype)
        buffers[f"{prefix}var"] = (squares / count - mean**2).clamp(min=0).to(dtype)
        if prefix.endswith("running_"):
            buffers[f"{prefix.removesuffix('running_')}num_batches_tracked"] = batches.long()
    return buffers


def _summed(x: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums and sums of squares by channel, and the number of values, of real rows."""
    kept = torch.where(real.reshape(-1, *[1] * (x.dim() - 1)), x, 0)
    rest = [0, *range(2, x.dim())]
    count = real.sum() * x[0, 0].numel()
    return kept.sum(rest), (kept**2).sum(rest), count.to(x.dtype)
