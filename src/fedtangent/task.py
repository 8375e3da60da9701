"""What is learnt: a model, its loss and its first weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from fedtangent.losses import Loss, cross_entropy
from fedtangent.tied import every_name

Weights = dict[str, Tensor]

_FROZEN: ContextVar[Mapping[str, Tensor]] = ContextVar("frozen", default=MappingProxyType({}))


class Augmentation(NamedTuple):
    """What is done at random to inputs that batches are trained on, and never to those that are measured on.

    Attributes:
        draw: (rng, rows) -> numbers for so many rows, a tree of tensors (rows, ...).
        apply: (x, numbers) -> the inputs changed; no step depends on values, so that vmap can map it over nodes.
    """

    draw: Callable[[np.random.Generator, int], Any]
    apply: Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Task:
    """A model and its loss; methods are written in terms of `predict` and the loss.

    Args:
        model: The network. Its own parameters are the first weights, the same on every node.
        loss: From `fedtangent.losses`; `losses.custom` makes one of any function.
        example: A few rows of inputs, for what only a forward pass can tell of the model; none tells nothing.
        names: The parameters that are trained, all others frozen; none is all. From `part`.
        augment: What happens to the rows of a batch, from `solvers.shuffled`; none leaves them.
    """

    model: nn.Module
    loss: Loss = cross_entropy
    example: Tensor | None = field(default=None, repr=False)
    names: tuple[str, ...] | None = None
    augment: Augmentation | None = None
    w_0: Weights = field(init=False, repr=False)
    _all: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Takes the model's parameters as the first weights."""
        _check(self.model)
        w_0 = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        if not w_0:
            raise ValueError("`model` must have trainable parameters; got none. Set requires_grad on those to train.")
        object.__setattr__(self, "_all", frozenset(w_0))
        if self.names is not None:
            w_0 = {name: w_0[name] for name in self.names}
        object.__setattr__(self, "w_0", w_0)

    @property
    def size(self) -> int:
        """The number of trainable parameters."""
        return sum(w.numel() for w in self.w_0.values())

    def predict(self, w: Weights, x: Tensor) -> Tensor:
        """The network's outputs f(x; w), (rows, outputs); of a part, only inside `holding` its frozen parameters.

        Raises:
            RuntimeError: A parameter is neither given nor held.
        """
        if self.names is not None:
            w = {**_FROZEN.get(), **w}
        if absent := self._all - w.keys():
            raise RuntimeError(
                f"`predict` must have every parameter, a part of a model those that it is `holding` too; got none of "
                f"{min(absent)!r}."
            )
        w = every_name(self.model, w)
        return torch.func.functional_call(self.model, w, (x,), tie_weights=False)  # type: ignore[no-any-return]

    def part(self, names: Sequence[str]) -> "Task":
        """The same task, of which only these parameters are trained: neither gradients of others nor any below them."""
        return replace(self, names=tuple(names))

    def under(self, loss: Loss) -> "Task":
        """The same task under another loss; model and first weights are shared, not checked and copied once more."""
        other = copy(self)
        object.__setattr__(other, "loss", loss)
        return other

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Task":
        """The same task on another device or in another floating-point type."""
        x = self.example
        example = None if x is None else x.to(device, dtype if x.is_floating_point() else x.dtype)
        return replace(self, model=deepcopy(self.model).to(device=device, dtype=dtype), example=example)


@contextmanager
def holding(frozen: Weights) -> Iterator[None]:
    """Inside, a part of a task takes its frozen parameters from here."""
    token = _FROZEN.set(frozen)
    try:
        yield
    finally:
        _FROZEN.reset(token)


def _check(model: nn.Module) -> None:
    """Raises one clear sentence where outputs would depend on hidden chance, or a forward pass change hidden state."""
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"`model` must not normalise by whatever rows come together; got batch norm without statistics at "
                f"{name!r}. Use fedtangent.batch_norm.BatchNorm, or GroupNorm."
            )
        if not part.training:
            continue
        if isinstance(part, _DropoutNd) and part.p > 0:
            raise ValueError(
                f"`model` must be deterministic; got dropout in train mode at {name!r}. Call model.eval()."
            )
        if isinstance(part, _NormBase) and part.track_running_stats:
            raise ValueError(
                f"`model` must not change in a forward pass; got running statistics in train mode at {name!r}. "
                "Call model.eval(), or use GroupNorm."
            )
