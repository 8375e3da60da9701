"""Steps: how local steps are taken, whatever the method: learning rates by round, clipping, weight decay, precision."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError

Schedule = Literal["constant", "cosine", "step"]
Precision = Literal["bfloat16", "float16"]

SCALE, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000  # torch.amp.GradScaler's own


class Steps(NamedTuple):
    """What every local step of a task does beside its method's own settings.

    Attributes:
        factors: Of the learning rate, by round from the first; empty where it is the same in all.
        clip: The largest L2 norm of a batch's gradient; None leaves it.
        weight_decay: Times the weights, added to the gradient.
        amp: The type of the forward pass on an accelerator, by torch.autocast; None is that of the weights.
    """

    factors: tuple[float, ...] = ()
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


def factors(
    schedule: Schedule,
    rounds: int,
    *,
    warm_up: int = 0,
    over: int | None = None,
    least: float = 0.0,
    every: int = 10,
    gamma: float = 0.1,
) -> tuple[float, ...]:
    """The factor of the learning rate in every round, those of torch's schedulers stepped once a round.

    While it warms up it is k / (warm_up + 1) in round k. After that, with t the rounds since then from 0: `constant` 1,
    `cosine` least + (1 - least) (1 + cos(pi t / T)) / 2 with T = over - warm_up, where it stays once t is T; `step`
    gamma^floor(t / every).

    Args:
        schedule: Which of these.
        rounds: How many there are.
        warm_up: How many of them the rate rises in.
        over: The round in which the cosine ends; None is the last one.
        least: Where the cosine ends.
        every: Rounds of a step.
        gamma: Of each step.

    Raises:
        ValueError: A number that cannot be.
    """
    end = rounds if over is None else over
    if not 0 <= warm_up < max(end, rounds):
        raise SettingError(f"`lr_warm_up` must be from 0 to below the rounds, {rounds}; got {warm_up}. Take fewer.")
    if end <= warm_up and schedule == "cosine":
        raise SettingError(f"`lr_rounds` must be above `lr_warm_up`, {warm_up}; got {end}. Give more rounds.")
    if every < 1:
        raise SettingError(f"`lr_every` must be at least 1; got {every}. Give a number of rounds.")
    for name, value in (("lr_least", least), ("lr_gamma", gamma)):
        if not (0 <= value <= 1 and (value or name == "lr_least")):
            raise SettingError(f"`{name}` must be from 0 to 1; got {value}. Give a share of the learning rate.")

    def factor(k: int) -> float:
        if k <= warm_up:
            return k / (warm_up + 1)
        t = k - warm_up - 1
        if schedule == "cosine":
            return least + (1 - least) * (1 + math.cos(math.pi * min(t / (end - warm_up), 1.0))) / 2
        return float(gamma ** (t // every)) if schedule == "step" else 1.0

    found = tuple(factor(k) for k in range(1, rounds + 1))
    return () if all(one == 1 for one in found) else found


def clipped(g: dict[str, Tensor], most: float) -> dict[str, Tensor]:
    """g min(1, most / (|g| + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it; |g| is over all tensors together."""
    norm = trees.inner(g, g).sqrt()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    return trees.map(lambda leaf: leaf * factor.to(leaf.dtype), g)  # type: ignore[no-any-return]


def finite(g: dict[str, Tensor]) -> Tensor:
    """Whether every number is, as a tensor."""
    return torch.stack([leaf.isfinite().all() for leaf in trees.leaves(g)]).all()
