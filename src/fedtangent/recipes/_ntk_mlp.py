"""A dense network in the NTK parameterisation, whose kernel has a limit as its layers widen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


class NtkMlp(nn.Module):
    """z = weight_std / sqrt(inputs) W a + bias_std b with ReLU between the layers, all parameters from N(0, 1).

    Args:
        sizes: Of the layers, inputs first and outputs last.
        rng: Draws the parameters.
        weight_std: sigma_w.
        bias_std: sigma_b.
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, weight_std: float, bias_std: float) -> None:
        super().__init__()
        self.weight_std, self.bias_std = weight_std, bias_std
        draws = [(rng.standard_normal((o, i)), rng.standard_normal(o)) for i, o in pairwise(sizes)]
        self.weights = nn.ParameterList([torch.from_numpy(weight).float() for weight, _ in draws])
        self.biases = nn.ParameterList([torch.from_numpy(bias).float() for _, bias in draws])

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (n, outputs) of flattened inputs."""
        a = x.flatten(1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = self.weight_std / math.sqrt(weight.shape[1]) * nn.functional.linear(a, weight) + self.bias_std * bias
            a = z.relu() if layer < len(self.weights) - 1 else z
        return a
