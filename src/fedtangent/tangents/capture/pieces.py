"""Calls that are taken apart into simpler ones of the same value, so that every piece has a rule of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedtangent.tangents.capture.views import both

Run = Callable[[Any, Any, Any], Any]
IsParameter = Callable[[Any], bool]


def _sum_and_product(
    run: Run, own: IsParameter, input: Any, one: Any, two: Any, *, beta: Any = 1, alpha: Any = 1
) -> Any:
    """addmm, baddbmm, addmv: a product and a sum."""
    if beta != 1 or alpha != 1:
        return NotImplemented
    return run(torch.add, (run(torch.matmul, (one, two), {}), input), {})


def _sum_and_scale(run: Run, own: IsParameter, input: Any, one: Any, two: Any, *, value: Any = 1) -> Any:
    """addcmul: a scale and a sum."""
    return run(torch.add, (run(torch.mul, (one, two), {}), input), {}) if value == 1 else NotImplemented


def _linear(run: Run, own: IsParameter, input: Any, weight: Any, bias: Any = None) -> Any:
    """A bias beside a derived weight."""
    if not own(bias) or own(weight):
        return NotImplemented
    return run(torch.add, (run(F.linear, (input, weight), {}), bias), {})


def _convolution(function: Any, axes: int, transposed: bool) -> Callable[..., Any]:
    def pieces(run: Run, own: IsParameter, input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        """A bias beside a derived weight, or one of a transposed convolution, which acts at other positions."""
        if not own(bias) or (own(weight) and not transposed):
            return NotImplemented
        along = run(Tensor.reshape, (bias, (-1, *[1] * axes)), {})
        return run(torch.add, (run(function, (input, weight, None, *args), kwargs), along), {})

    return pieces


PIECES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(both("addmm", "baddbmm", "addmv"), _sum_and_product),
    **dict.fromkeys(both("addcmul"), _sum_and_scale),
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d, 1, False),
    F.conv2d: _convolution(F.conv2d, 2, False),
    F.conv3d: _convolution(F.conv3d, 3, False),
    F.conv_transpose1d: _convolution(F.conv_transpose1d, 1, True),
    F.conv_transpose2d: _convolution(F.conv_transpose2d, 2, True),
    F.conv_transpose3d: _convolution(F.conv_transpose3d, 3, True),
}
