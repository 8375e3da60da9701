"""Infinite width: the kernels of fully connected networks of unbounded width, in closed form.

NNGP, the covariance of the outputs of a random network (Lee et al., Deep neural networks as Gaussian processes, 2018),
and NTK, the kernel of its training (Jacot, Gabriel, Hongler, Neural tangent kernel, 2018). As in the latter a layer is
z = weight_std / sqrt(inputs) W phi(z_before) + bias_std b, with all parameters from N(0, 1).
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Activation = Literal["relu", "erf"]


class Kernels(NamedTuple):
    """nngp: covariance of the outputs (n1, n2). ntk: J J^T of one output (n1, n2); the outputs are independent."""

    nngp: Tensor
    ntk: Tensor


def kernel(
    depth: int, activation: Activation = "relu", weight_std: float = math.sqrt(2), bias_std: float = 0.0
) -> Callable[..., Kernels]:
    """The kernels (x1, x2=x1) -> `Kernels` of a network with `depth` hidden layers.

    Inputs are (n1, *inputs) and (n2, *inputs), flattened; a call costs 2 n1 n2 inputs + some 20 n1 n2 depth operations
    and holds a few matrices (n1, n2).

    Args:
        depth: Hidden layers; 0 is a linear model.
        activation: `relu` or `erf`.
        weight_std: sigma_w; the default keeps the variance of a ReLU network.
        bias_std: sigma_b.

    Raises:
        ValueError: A depth below 0, another activation, a negative deviation; at the call, inputs of different shapes.
    """
    if depth < 0:
        raise ValueError(f"`depth` must not be negative; got {depth}. Give the number of hidden layers.")
    if activation not in _EXPECTATIONS:
        raise ValueError(f"`activation` must be 'relu' or 'erf'; got {activation!r}. Choose one of the two.")
    for name, std in (("weight_std", weight_std), ("bias_std", bias_std)):
        if not std >= 0:
            raise ValueError(f"`{name}` must not be negative; got {std}. Give a standard deviation.")
    expectations = _EXPECTATIONS[activation]
    w, b = weight_std**2, bias_std**2

    def kernels(x1: Tensor, x2: Tensor | None = None) -> Kernels:
        x2 = x1 if x2 is None else x2
        if x1.shape[1:] != x2.shape[1:]:
            raise ValueError(
                f"`x1` and `x2` must have inputs of one shape; got {tuple(x1.shape[1:])} and {tuple(x2.shape[1:])}. "
                "Reshape one of them."
            )
        x1, x2 = x1.flatten(1), x2.flatten(1)
        inputs = x1.shape[1]
        nngp = w * (x1 @ x2.T) / inputs + b
        own1, own2 = (w * (x**2).sum(1) / inputs + b for x in (x1, x2))
        ntk = nngp
        for _ in range(depth):
            value, slope = expectations(nngp, own1[:, None], own2[None])
            nngp = w * value + b
            ntk = nngp + w * slope * ntk
            own1, own2 = (w * expectations(own, own, own)[0] + b for own in (own1, own2))
        return Kernels(nngp, ntk)

    return kernels


def _relu(cross: Tensor, own1: Tensor, own2: Tensor) -> tuple[Tensor, Tensor]:
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] under N(0, [[own1, cross], [cross, own2]]) (Cho and Saul 2009)."""
    scale = (own1 * own2).sqrt()
    cosine = torch.where(scale > 0, cross / scale, 1).clamp(-1, 1)
    angle = cosine.arccos()
    value = scale * ((1 - cosine**2).sqrt() + (math.pi - angle) * cosine) / (2 * math.pi)
    return value, (math.pi - angle) / (2 * math.pi)


def _erf(cross: Tensor, own1: Tensor, own2: Tensor) -> tuple[Tensor, Tensor]:
    """The same for erf (Williams, Computing with infinite networks, 1997)."""
    scale = (1 + 2 * own1) * (1 + 2 * own2)
    value = (2 / math.pi) * (2 * cross / scale.sqrt()).clamp(-1, 1).arcsin()
    return value, (4 / math.pi) / (scale - 4 * cross**2).sqrt()


_EXPECTATIONS = {"relu": _relu, "erf": _erf}
