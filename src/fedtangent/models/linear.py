"""linear: one dense layer, the model that its own tangent space describes exactly."""

import numpy as np
from torch import nn

from fedtangent.models._dense import dense, features


def linear(inputs: tuple[int, ...], outputs: int, rng: np.random.Generator) -> nn.Sequential:
    """f(x) = W x + b of the flattened sample; W ~ N(0, 2 / features) as in `mlp`, b = 0.

    Args:
        inputs: The shape of one sample.
        outputs: The number of classes or targets.
        rng: Draws W.
    """
    return nn.Sequential(nn.Flatten(), dense(features(inputs, outputs), outputs, rng))
