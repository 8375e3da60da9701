"""What is learnt: a model, its loss and its first weights."""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from fedtangent.losses import Loss, cross_entropy

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """A model and its loss; methods are written in terms of `predict` and the loss.

    Args:
        model: The network. Its own parameters are the first weights, the same on every node.
        loss: From `fedtangent.losses`; `losses.custom` makes one of any function.
    """

    model: nn.Module
    loss: Loss = cross_entropy
    w_0: Weights = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Takes the model's parameters as the first weights."""
        _check(self.model)
        w_0 = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        if not w_0:
            raise ValueError("`model` must have trainable parameters; got none. Set requires_grad on those to train.")
        object.__setattr__(self, "w_0", w_0)

    @property
    def size(self) -> int:
        """The number of trainable parameters."""
        return sum(w.numel() for w in self.w_0.values())

    def predict(self, w: Weights, x: Tensor) -> Tensor:
        """The network's outputs f(x; w), (rows, outputs)."""
        return torch.func.functional_call(self.model, w, (x,))  # type: ignore[no-any-return]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Task":
        """The same task on another device or in another floating-point type."""
        return Task(deepcopy(self.model).to(device=device, dtype=dtype), self.loss)


def _check(model: nn.Module) -> None:
    """Raises one clear sentence where outputs would depend on hidden chance, or a forward pass change hidden state."""
    for name, part in model.named_modules():
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
