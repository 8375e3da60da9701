"""The first weights of any module from a numpy generator, never from torch's global one."""

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from fedtangent.errors import SettingError
from fedtangent.models._dense import features
from fedtangent.shard import channels_last
from fedtangent.training.batch_norm import BatchNorm

Module = TypeVar("Module", bound=nn.Module)


def drawn(
    build: Callable[[], Module],
    rng: np.random.Generator,
    *,
    gain: float = math.sqrt(2),
    fan: Literal["in", "out"] = "in",
) -> Module:
    """What `build` builds, in float32, weights N(0, gain^2 / fan) layer by layer in the order of modules.

    Embeddings are N(0, 1), biases 0, and normalisations scale by 1 and add 0.

    Args:
        build: Makes the module; nothing is drawn while it runs.
        rng: Draws the weights.
        gain: sqrt(2) is Kaiming's for ReLU.
        fan: Whether a convolution's fan counts inputs or outputs; a dense layer's counts inputs.
    """
    with torch.device("meta"):  # there nothing is drawn
        model = build().to(torch.float32)
    model.to_empty(device="cpu")
    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear, nn.Embedding)):
            draw = torch.from_numpy(rng.standard_normal(tuple(part.weight.shape), dtype=np.float32))
            with torch.no_grad():
                part.weight.copy_(draw if isinstance(part, nn.Embedding) else draw.mul_(gain / _fan(part, fan) ** 0.5))
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm, BatchNorm)):
            nn.init.ones_(part.weight)
        if isinstance(part, BatchNorm):
            nn.init.zeros_(part.mean)
            nn.init.ones_(part.var)
        if isinstance(bias := getattr(part, "bias", None), nn.Parameter):
            nn.init.zeros_(bias)
    return model


def _fan(layer: nn.Conv2d | nn.Linear, fan: Literal["in", "out"]) -> int:
    """Values that meet in one output, or outputs that one input meets."""
    outputs = isinstance(layer, nn.Conv2d) and fan == "out"
    return (layer.weight[:, 0] if outputs else layer.weight[0]).numel()


def image(inputs: tuple[int, ...], outputs: int) -> tuple[int, int, int]:
    """Channels, height and width of one sample, once these and the outputs are found sound."""
    features(inputs, outputs)
    if len(inputs) != 3:
        raise SettingError(
            f"`inputs` must be (channels, height, width) for a convolutional network; got {inputs}. "
            "Use images, or the models mlp and linear for other data."
        )
    if channels_last(inputs):
        raise SettingError(
            f"`x_train` must hold images with their channels first, (rows, channels, height, width), for a "
            f"convolutional network; got (rows, {', '.join(map(str, inputs))}). Transpose with (0, 3, 1, 2)."
        )
    channels, height, width = inputs
    return channels, height, width
