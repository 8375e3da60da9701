"""What is learnt: a model, its loss and its first weights."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

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
        return Task(self.model.to(device=device, dtype=dtype), self.loss)
