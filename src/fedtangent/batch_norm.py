"""Batch norm that hides nothing: its rows come from who trains, its statistics from sums over the clients' rows.

Ioffe, Szegedy. Batch Normalization. ICML 2015. arXiv 1502.03167. In training, inside `over`, a batch's real rows
normalise each other; elsewhere the statistics do, which are buffers that a weights dict may hold. They are measured
anew for new weights (`sums`, `statistics`), and no running averages are kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_BATCH: ContextVar["Batch | None"] = ContextVar("batch", default=None)


Sums = tuple[Tensor, Tensor, Tensor]  # by channel of values and of their squares, and the number of values


class Batch(NamedTuple):
    """What a batch norm must know of the batch that it normalises.

    Attributes:
        real: Which rows are, (rows,) as bool; None where all of them are known to be.
        sums: Where every layer leaves those of what goes into it; None where nobody asks.
    """

    real: Tensor | None
    sums: dict[nn.Module, Sums] | None = None


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
        batch, mean, var = _BATCH.get(), self.mean, self.var
        shape = (-1, *[1] * (x.dim() - 2))
        if batch is not None and batch.real is None and x[:, 0].numel() > 1:  # torch's own, which is faster
            return torch.nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if batch is not None:
            real = x.new_ones(len(x), dtype=torch.bool) if batch.real is None else batch.real
            if batch.sums is not None:
                batch.sums[self] = _summed(x.double(), real)
            total, _, count = _summed(x, real)
            count = count.clamp(min=1)  # of padding alone
            mean = total / count
            var = _summed(x - mean.reshape(shape), real)[1] / count
        scale = self.weight / (var + self.eps).sqrt()
        return (x - mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(shape)


@contextmanager
def over(real: Tensor | None, sums: dict[nn.Module, Sums] | None = None) -> Iterator[None]:
    """Inside, a batch is normalised by its own real rows, (rows,) as bool, by all for None; and summed where asked."""
    token = _BATCH.set(Batch(real, sums))
    try:
        yield
    finally:
        _BATCH.reset(token)


def layers(model: nn.Module) -> dict[str, BatchNorm]:
    """The batch norms of a model by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, BatchNorm)}


def sums(model: nn.Module, forward: Callable[[], Any], real: Tensor) -> dict[str, Sums]:
    """What goes into every batch norm, summed over the real rows of a batch, as in training: see `statistics`.

    Args:
        model: Whose layers they are.
        forward: Passes the batch.
        real: Its real rows.
    """
    found: dict[nn.Module, Sums] = {}
    with over(real, found), torch.no_grad():
        forward()
    return {name: found[part] for name, part in layers(model).items() if part in found}


def statistics(total: dict[str, Sums], dtype: torch.dtype) -> dict[str, Tensor]:
    """The buffers of every batch norm from its sums over all rows: of values, of their squares, and how many."""
    found: dict[str, Tensor] = {}
    for name, (values, squares, count) in total.items():
        mean = values / count
        found[f"{name}.mean"] = mean.to(dtype)
        found[f"{name}.var"] = (squares / count - mean**2).clamp(min=0).to(dtype)
    return found


def _summed(x: Tensor, real: Tensor) -> Sums:
    """Sums and sums of squares by channel, and the number of values, of real rows."""
    kept = torch.where(real.reshape(-1, *[1] * (x.dim() - 1)), x, 0)
    rest = [0, *range(2, x.dim())]
    count = real.sum() * x[0, 0].numel()
    return kept.sum(rest), (kept**2).sum(rest), count.to(x.dtype)
