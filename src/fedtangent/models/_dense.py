"""Dense layers whose first weights come from a numpy generator, never from torch's global one."""

import math

import numpy as np
import torch
from torch import nn

from fedtangent.errors import SettingError


def dense(inputs: int, outputs: int, rng: np.random.Generator) -> nn.Linear:
    """A float32 layer W x + b with W ~ N(0, 2 / inputs), Kaiming normal by fan-in with gain sqrt(2), and b = 0."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu").to(torch.float32)  # meta: nothing is drawn
    draw = rng.standard_normal((outputs, inputs), dtype=np.float32)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(draw).mul_(math.sqrt(2 / inputs)))
        layer.bias.zero_()
    return layer


def features(inputs: tuple[int, ...], outputs: int) -> int:
    """The number of values in one sample of shape `inputs`, once shape and outputs are found sound."""
    if not inputs or any(size < 1 for size in inputs):
        raise SettingError(f"`inputs` must be the shape of one sample, positive sizes; got {inputs}. Pass x.shape[1:].")
    if outputs < 1:
        raise SettingError(f"`outputs` must be at least 1; got {outputs}. Pass the number of classes or of targets.")
    return math.prod(inputs)
