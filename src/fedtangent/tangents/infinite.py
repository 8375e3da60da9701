"""Infinite width: the kernels of fully connected networks of unbounded width, in closed form.

NNGP, the covariance of the outputs of a random network (Lee et al., Deep neural networks as Gaussian processes, 2018),
and NTK, the kernel of its training (Jacot, Gabriel, Hongler, Neural tangent kernel, 2018). As in the latter a layer is
z = weight_std / sqrt(inputs) W phi(z_before) + bias_std b, with all parameters from N(0, 1).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.single import check_number, check_whole

Activation = Literal["relu", "erf"]

_ENTRIES = 2**18  # of a kernel at once: 2 MiB a matrix


class Kernels(NamedTuple):
    """nngp: covariance of the outputs (n1, n2). ntk: J J^T of one output (n1, n2); the outputs are independent."""

    nngp: Tensor
    ntk: Tensor


def kernel(
    depth: int, activation: Activation = "relu", weight_std: float = math.sqrt(2), bias_std: float = 0.0
) -> Callable[..., Kernels]:
    """The kernels (x1, x2=x1) -> `Kernels` of a network with `depth` hidden layers.

    Inputs are (n1, *inputs) and (n2, *inputs), flattened; a call costs 2 n1 n2 inputs + some 20 n1 n2 depth operations,
    in float64 whatever the inputs are: the angle between near samples is off by up to 3e-4 in float32. Beside the
    result it holds the inputs in float64 and a few dozen MiB.

    Args:
        depth: Hidden layers; 0 is a linear model.
        activation: `relu` or `erf`.
        weight_std: sigma_w; the default keeps the variance of a ReLU network.
        bias_std: sigma_b.

    Raises:
        ValueError: A depth below 0, another activation, a negative deviation; at the call, inputs of other axes, not
            real or not finite, of different shapes, and kernels beyond the range of the inputs' type.
    """
    check_whole("depth", depth)
    if depth < 0:
        raise SettingError(f"`depth` must not be negative; got {depth}. Give the number of hidden layers.")
    if activation not in _EXPECTATIONS:
        raise SettingError(f"`activation` must be 'relu' or 'erf'; got {activation!r}. Choose one of the two.")
    for name, std in (("weight_std", weight_std), ("bias_std", bias_std)):
        check_number(name, std)
        if not std >= 0:
            raise SettingError(f"`{name}` must not be negative; got {std}. Give a standard deviation.")
    expectations = _EXPECTATIONS[activation]
    w, b = weight_std**2, bias_std**2

    def variances(x: Tensor) -> list[Tensor]:
        """Of a number of every layer, by sample (n,)."""
        found = [w * (x**2).mean(1) + b]
        for _ in range(depth):
            own = found[-1]
            found.append(w * own * expectations(torch.ones_like(own), own, own)[0] + b)
        return found

    def layers(cosine: Tensor, own1: list[Tensor], own2: list[Tensor], diagonal: int | None) -> Kernels:
        """From the correlations of the first layer; a sample meets itself on this diagonal.

        Both kernels are carried in units of sqrt(own1 own2): the products themselves may leave the range of floats.
        """
        ntk = cosine
        for (before1, after1), (before2, after2) in zip(pairwise(own1), pairwise(own2), strict=True):
            value, slope = expectations(cosine, before1[:, None], before2)
            growth = w * _outer(_root(before1, after1), _root(before2, after2))
            cosine = (growth * value + _outer(_root(b, after1), _root(b, after2))).clamp(-1, 1)
            if diagonal is not None:
                cosine.diagonal(diagonal).fill_(1)  # from 1 - 1e-16 the angle would be 1e-8
            ntk = cosine + growth * slope * ntk
        unit = _outer(own1[-1].sqrt(), own2[-1].sqrt())
        return Kernels(cosine * unit, ntk * unit)

    def kernels(x1: Tensor, x2: Tensor | None = None) -> Kernels:
        same, x2 = x2 is None, x1 if x2 is None else x2
        x1, x2 = tensor("x1", x1), tensor("x2", x2)
        _check(x1, x2)
        dtype = torch.promote_types(x1.dtype, x2.dtype)
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        x1, x2 = (x.flatten(1).double() for x in (x1, x2))
        own1, own2 = variances(x1), variances(x2)
        units1, units2 = (x * _root(w / x.shape[1], own[0])[:, None] for x, own in ((x1, own1), (x2, own2)))
        found: list[Kernels] = []
        for rows in torch.split(torch.arange(len(x1), device=x1.device), max(1, _ENTRIES // len(x2))):
            at, near = int(rows[0]), [own[rows] for own in own1]
            cosine = (units1[rows] @ units2.T + _outer(_root(b, near[0]), _root(b, own2[0]))).clamp(-1, 1)
            if same:
                cosine.diagonal(at).fill_(1)
            found.append(Kernels(*(part.to(dtype) for part in layers(cosine, near, own2, at if same else None))))
        result = Kernels(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        if not all(bool(torch.isfinite(part).all()) for part in result):
            raise SettingError(
                f"`weight_std` must keep the kernel within the range of {dtype}; got {weight_std} for {depth} layers. "
                "Give a smaller one, or x.double()."
            )
        return result

    return kernels


def _check(x1: Tensor, x2: Tensor) -> None:
    for name, x in (("x1", x1), ("x2", x2)):
        if x.dim() < 2 or not x.numel() or x.is_complex():
            raise SettingError(
                f"`{name}` must be (n, *inputs) of real numbers; got {tuple(x.shape)} of {x.dtype}. Give a "
                "lone feature an axis of its own, x[:, None]."
            )
    if x1.shape[1:] != x2.shape[1:]:
        raise SettingError(
            f"`x1` and `x2` must have inputs of one shape; got {tuple(x1.shape[1:])} and {tuple(x2.shape[1:])}. "
            "Reshape one of them."
        )
    for name, x in (("x1", x1), ("x2", x2)):
        if not torch.isfinite(x).all():
            raise SettingError(f"`{name}` must be finite; got NaN or infinity. Clean the data.")


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[:, None] * b


def _root(a: Tensor | float, own: Tensor) -> Tensor:
    """sqrt(a / own), 0 where own is 0: all is 0 there."""
    return torch.where(own > 0, (a / own).sqrt(), 0)


def _relu(cosine: Tensor, own1: Tensor, own2: Tensor) -> tuple[Tensor, Tensor]:
    """E[phi(u) phi(v)] / sqrt(own1 own2) and E[phi'(u) phi'(v)] under N(0, ...) (Cho and Saul 2009).

    u and v have the variances own1 and own2 and this correlation.
    """
    sine, rest = ((1 - cosine) * (1 + cosine)).sqrt(), (-cosine).arccos()
    return (sine + rest * cosine) / (2 * math.pi), rest / (2 * math.pi)


def _erf(cosine: Tensor, own1: Tensor, own2: Tensor) -> tuple[Tensor, Tensor]:
    """The same for erf (Williams, Computing with infinite networks, 1997)."""
    unit = own1.sqrt() * own2.sqrt()
    slant = 2 * cosine / ((1 + 2 * own1).sqrt() * (1 + 2 * own2).sqrt())
    value = torch.where(unit > 0, (slant * unit).clamp(-1, 1).arcsin() / unit, slant)
    spread = 1 + 2 * own1 + 2 * own2 + 4 * unit**2 * ((1 - cosine) * (1 + cosine))
    return (2 / math.pi) * value, (4 / math.pi) / spread.sqrt()


_EXPECTATIONS = {"relu": _relu, "erf": _erf}
