"""mlp: dense layers with an activation between them, by default the papers' network, one hidden layer of 100 ReLU."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from torch import nn

from fedtangent.errors import SettingError
from fedtangent.models._dense import dense, features

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}


def mlp(
    inputs: tuple[int, ...],
    outputs: int,
    rng: np.random.Generator,
    *,
    hidden: tuple[int, ...] = (100,),
    activation: str = "relu",
) -> nn.Sequential:
    """A dense network of the flattened sample; all weights Kaiming normal (fan-in, gain sqrt(2)), biases zero.

    Args:
        inputs: The shape of one sample.
        outputs: The number of classes or targets.
        rng: Draws the weights, first layer first.
        hidden: Widths of the hidden layers.
        activation: One of relu, tanh, gelu, sigmoid, silu; the gain is sqrt(2) for all.
    """
    if not hidden or any(width < 1 for width in hidden):
        raise SettingError(
            f"`hidden` must be one or more positive widths; got {hidden}. Use the model linear for none."
        )
    if activation not in ACTIVATIONS:
        raise SettingError(
            f"`activation` must be one of {', '.join(ACTIVATIONS)}; got {activation!r}. Choose one of these."
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise((features(inputs, outputs), *hidden, outputs)):
        layers += [dense(fan_in, fan_out, rng), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
