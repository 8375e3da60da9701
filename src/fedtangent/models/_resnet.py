"""Residual networks as FedPart trains them, with GroupNorm in place of batch norm."""

from collections import OrderedDict

import numpy as np
from torch import nn

from fedtangent.models._draw import drawn, image

NORM_GROUPS = 32  # Wu and He's number


def resnet(
    inputs: tuple[int, ...], outputs: int, rng: np.random.Generator, *, widths: tuple[int, ...], blocks: int
) -> nn.Sequential:
    """Stem (7 x 7 by 2, max-pool 3 x 3 by 2), a stage of `blocks` basic blocks a width, mean over positions, dense.

    Every stage but the first halves the image. Convolutions have no bias and are Kaiming normal by fan-out.

    Modules come in the order of a forward pass, a block's shortcut last. Normalisation is GroupNorm: batch norm's
    statistics mix the rows of a batch, padding included; they differ from client to client, and running ones would have
    to be kept, averaged or estimated anew somewhere. Scales and shifts are as many as batch norm's.

    Args:
        inputs: Channels, height and width.
        outputs: The number of classes or targets.
        rng: Draws the weights.
        widths: Channels of each stage, multiples of 32.
        blocks: Basic blocks a stage.
    """
    channels, _, _ = image(inputs, outputs)
    from torchvision.models.resnet import BasicBlock  # slow to import

    def stage(before: int, width: int, stride: int) -> nn.Sequential:
        down = None
        if stride > 1:
            down = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), _norm(width))
        first = BasicBlock(before, width, stride, down, norm_layer=_norm)
        return nn.Sequential(first, *(BasicBlock(width, width, norm_layer=_norm) for _ in range(blocks - 1)))

    def build() -> nn.Sequential:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(channels, widths[0], 7, stride=2, padding=3, bias=False),
            norm=_norm(widths[0]),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
        for number, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            parts[f"stage{number}"] = stage(before, width, 1 if number == 0 else 2)
        parts |= {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "classifier": nn.Linear(widths[-1], outputs)}
        return nn.Sequential(parts)

    return drawn(build, rng, fan="out")


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, width)
