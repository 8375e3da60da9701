"""Steps: how local steps are taken, whatever the method: learning rates by round, clipping, weight decay, precision."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees

Schedule = Literal["constant", "cosine", "step"]
Precision = Literal["bfloat16", "float16"]

SCALE, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000  # torch.amp.GradScaler's own


class Rates(NamedTuple):
    """How the learning rate goes by the rounds: its factor is that of torch's schedulers, stepped once a round.

    While it warms up it is k / (warm_up + 1) in round k. After that, with t the rounds since then from 0: `constant` 1,
    `cosine` least + (1 - least) (1 + cos(pi t / T)) / 2 with T = over - warm_up, where it stays once t is T; `step`
    gamma^floor(t / every).

    Attributes:
        schedule: Which of these.
        warm_up: How many rounds the rate rises in.
        over: The round in which the cosine ends.
        least: Where it ends.
        every: Rounds of a step.
        gamma: Of each step.
    """

    schedule: Schedule = "constant"
    warm_up: int = 0
    over: int = 1
    least: float = 0.0
    every: int = 10
    gamma: float = 0.1

    def at(self, k: Tensor) -> Tensor:
        """The factor in rounds k, in float64; k from 1."""
        t = (k - self.warm_up - 1).clamp(min=0).double()
        if self.schedule == "cosine":
            turned = torch.pi * (t / (self.over - self.warm_up)).clamp(max=1.0)
            later = self.least + (1 - self.least) * (1 + torch.cos(turned)) / 2
        elif self.schedule == "step":
            later = self.gamma ** torch.floor(t / self.every)
        else:
            later = torch.ones_like(t)
        return torch.where(k <= self.warm_up, k.double() / (self.warm_up + 1), later)


class Steps(NamedTuple):
    """What every local step of a task does beside its method's own settings.

    Attributes:
        rates: How the learning rate goes by the rounds; None where it is the same in all.
        clip: The largest L2 norm of a batch's gradient; None leaves it.
        weight_decay: Times the weights, added to the gradient.
        amp: The type of the forward pass on an accelerator, by torch.autocast; None is that of the weights.
    """

    rates: Rates | None = None
    clip: float | None = None
    weight_decay: float = 0.0
    amp: Precision | None = None


PLAIN = Steps()


class Scaler(NamedTuple):
    """What a float16 loss is multiplied by before its backward pass, as torch.amp.GradScaler has it.

    Attributes:
        scale: It, a scalar in float32.
        good: How many steps in a row were finite, a scalar of int64.
    """

    scale: Tensor
    good: Tensor

    @classmethod
    def start(cls, device: torch.device) -> "Scaler":
        """That of the first step."""
        return cls(torch.tensor(SCALE, device=device), torch.tensor(0, device=device))

    def after(self, fine: Tensor) -> "Scaler":
        """Halved after a step that is not finite, doubled after 2000 in a row that are."""
        good = torch.where(fine, self.good + 1, 0)
        grown = good == INTERVAL
        scale = torch.where(fine, torch.where(grown, self.scale * GROWTH, self.scale), self.scale * BACKOFF)
        return Scaler(scale, torch.where(grown, 0, good))


def clipped(g: dict[str, Tensor], most: float) -> dict[str, Tensor]:
    """g min(1, most / (|g| + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it; |g| is over all tensors together."""
    norm = trees.inner(g, g).sqrt()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    return trees.map(lambda leaf: leaf * factor.to(leaf.dtype), g)  # type: ignore[no-any-return]


def finite(g: dict[str, Tensor]) -> Tensor:
    """Whether every number is, as a tensor."""
    return torch.stack([leaf.isfinite().all() for leaf in trees.leaves(g)]).all()
