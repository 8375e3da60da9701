"""What is learnt: a model, its loss and its first weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from fedtangent import forward, trees
from fedtangent.errors import SettingError
from fedtangent.forward import Picker
from fedtangent.intercept import Intercept, Table
from fedtangent.module_state import cast, check_hooks, copied, unchanged
from fedtangent.training import batch_norm, dropout
from fedtangent.training.losses import Loss, cross_entropy
from fedtangent.training.steps import PLAIN, Steps

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
        outputs: Which of the model's results are the outputs, such as 'logits'; none where it returns these alone.
        steps: How local steps are taken, beside a method's own settings.
        first: Draws the first weights of a node, where every node has its own; none is the model's.

    Attributes:
        w_0: The first weights.
        cache: What was worked out of it once, by name, such as its function of the weights.
    """

    model: nn.Module
    loss: Loss = cross_entropy
    example: Any = field(default=None, repr=False)
    names: tuple[str, ...] | None = None
    augment: Augmentation | None = None
    outputs: Picker | None = None
    steps: Steps = PLAIN
    first: Callable[[np.random.Generator], Weights] | None = field(default=None, repr=False)
    w_0: Weights = field(init=False, repr=False)
    cache: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    _all: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Takes the model's parameters as the first weights."""
        _check(self.model)
        w_0 = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        if not w_0:
            raise SettingError("`model` must have trainable parameters; got none. Set requires_grad on those to train.")
        object.__setattr__(self, "_all", frozenset(w_0))
        if self.names is not None:
            w_0 = {name: w_0[name] for name in self.names}
        object.__setattr__(self, "w_0", w_0)

    @property
    def size(self) -> int:
        """The number of trainable parameters."""
        return sum(w.numel() for w in self.w_0.values())

    def predict(self, w: Weights, x: Any) -> Tensor:
        """The network's outputs f(x; w), (rows, outputs); of a part, only inside `holding` its frozen parameters.

        Inside `training` the model is in the mode that it was given in, each module of it; elsewhere in eval mode, so
        that it drops nothing out and its batch norm takes the statistics that w or the model hold.

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
        by_batch, trains = batch_norm.is_inside(), dropout.is_on()
        measuring = nullcontext() if trains else _measuring(self.model, (_BatchNorm,) if by_batch else ())
        with unchanged(self.model), measuring:
            if not by_batch or not self._replaced:
                return forward.outputs(self.model, w, x, self.outputs)
            counts = {name: torch.zeros((), dtype=torch.int64) for name in batch_norm.counters(self.model)}
            with Intercept(self._replaced):
                return forward.outputs(self.model, {**w, **counts}, x, self.outputs)

    @cached_property
    def draws(self) -> bool:
        """Whether the model draws random numbers in a training step, by its modules or by a pass of the example."""
        if dropout.place(self.model) is not None:
            return True
        if self.example is None or not any(part.training for part in self.model.modules()):
            return False
        held = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        key = torch.zeros((), dtype=torch.int64, device=trees.leaves(self.example)[0].device)
        replaced = Intercept(batch_norm.REPLACED | dropout.REPLACED)
        with torch.no_grad(), torch.random.fork_rng(devices=[]), training(None, key) as draws, replaced:
            forward.outputs(self.model, {**self.w_0, **held}, self.example, self.outputs)
        return draws.calls > 0

    @cached_property
    def _replaced(self) -> Table:
        """The functions of torch that a training step runs otherwise."""
        norms = batch_norm.REPLACED if batch_norm.counters(self.model) else {}
        return norms | (dropout.REPLACED if self.draws else {})

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
        example = None if self.example is None else trees.to(self.example, device, dtype)
        return replace(self, model=cast(copied(self.model), device, dtype), example=example)


@contextmanager
def training(real: Tensor | None, key: Tensor | None) -> Iterator[dropout.Draws]:
    """Inside, `Task.predict` is that of a training step.

    Args:
        real: Which rows of the batch are, (rows,) as bool, for batch norm; None where all of them are known to be.
        key: What dropout's masks hang on, a scalar of int64; None for a model that draws nothing.
    """
    with batch_norm.over(real), dropout.keyed(key) as draws:
        yield draws


@contextmanager
def _measuring(model: nn.Module, but: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Inside, all modules are in eval mode but those of some kinds; then each is in its own again."""
    changed = [part for part in model.modules() if part.training and not isinstance(part, but)]
    fast = torch.backends.mha.get_fastpath_enabled()
    if changed:  # else attention in eval mode would run otherwise, which vmap cannot map
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        for part in changed:
            part.__dict__["training"] = False  # what train() would do besides is not wanted
        yield
    finally:
        for part in changed:
            part.__dict__["training"] = True
        torch.backends.mha.set_fastpath_enabled(fast)


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
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(p):
            raise SettingError(
                f"`model` must have all its parameters; got {name!r}, which is lazy. Call the model once on a few "
                "samples."
            )
        if p.requires_grad and p.is_complex():
            raise SettingError(
                f"`model` must train real parameters; got {p.dtype} at {name!r}. Hold torch.view_as_real of it as the "
                "parameter, and call torch.view_as_complex in forward."
            )
    check_hooks(model)
    for name, part in model.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise SettingError(
                f"`model` must have no backward hooks; got one at {name!r}. Remove it, or do in the forward pass what "
                "it does."
            )
        hides = part.training if isinstance(part, _NormBase) else False
        if isinstance(part, _BatchNorm) and (part.running_mean is None or (hides and not part.track_running_stats)):
            raise SettingError(
                f"`model` must not normalise by whatever rows come together; got batch norm without statistics at "
                f"{name!r}. Use fedtangent.batch_norm.BatchNorm, or GroupNorm."
            )
        if hides and part.track_running_stats and not isinstance(part, _BatchNorm):
            raise SettingError(
                f"`model` must not change in a forward pass; got running statistics in train mode at {name!r}. "
                "Call model.eval(), or use GroupNorm."
            )
        if isinstance(part, nn.RNNBase) and part.training and part.dropout > 0 and part.num_layers > 1:
            raise SettingError(
                f"`model` must not drop out inside of a recurrent layer in train mode; got dropout {part.dropout} at "
                f"{name!r}. Put torch.nn.Dropout between single layers, or call .eval() on it."
            )
