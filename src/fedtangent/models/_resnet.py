"""Residual networks as FedPart trains them."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import nn

from fedtangent.errors import SettingError
from fedtangent.models._draw import drawn, image
from fedtangent.training.batch_norm import BatchNorm

Norm = Literal["group", "batch"]
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda width: nn.GroupNorm(32, width),  # Wu and He's number
    "batch": BatchNorm,
}


def resnet(
    inputs: tuple[int, ...],
    outputs: int,
    rng: np.random.Generator,
    *,
    widths: tuple[int, ...],
    blocks: int,
    norm: Norm,
) -> nn.Sequential:
    """Stem (7 x 7 by 2, max-pool 3 x 3 by 2), a stage of `blocks` basic blocks a width, mean over positions, dense.

    Every stage but the first halves the image. Convolutions have no bias and are Kaiming normal by fan-out.

    Modules come in the order of a forward pass, a block's shortcut last.

    Args:
        inputs: Channels, height and width.
        outputs: The number of classes or targets.
        rng: Draws the weights.
        widths: Channels of each stage, multiples of 32.
        blocks: Basic blocks a stage.
        norm: `group`, which asks nothing of the other rows, or `batch`; both have as many scales and shifts.
    """
    if norm not in NORMS:
        raise SettingError(f"`norm` must be 'group' or 'batch'; got {norm!r}. Choose one of the two.")
    make = NORMS[norm]
    channels, _, _ = image(inputs, outputs)
    from torchvision.models.resnet import BasicBlock  # slow to import

    def stage(before: int, width: int, stride: int) -> nn.Sequential:
        down = None
        if stride > 1:
            down = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), make(width))
        first = BasicBlock(before, width, stride, down, norm_layer=make)
        return nn.Sequential(first, *(BasicBlock(width, width, norm_layer=make) for _ in range(blocks - 1)))

    def build() -> nn.Sequential:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(channels, widths[0], 7, stride=2, padding=3, bias=False),
            norm=make(widths[0]),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
        for number, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            parts[f"stage{number}"] = stage(before, width, 1 if number == 0 else 2)
        parts |= {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "classifier": nn.Linear(widths[-1], outputs)}
        return nn.Sequential(parts)

    return drawn(build, rng, fan="out")
