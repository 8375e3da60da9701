"""What `evolve` is given, checked: a kernel that fits the outputs, data, times and settings, or one clear sentence."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.tangents.numerics.symmetric import Operator, Symmetric, read
from fedtangent.tangents.single import check_number, numbers
from fedtangent.training import losses
from fedtangent.training.losses import Loss


class _Placed(NamedTuple):
    """An operator, and f whose shape, precision and device its products have."""

    f: Tensor
    times: Callable[[Tensor], Tensor]


def symmetric(kernel: Tensor | Operator, f_0: Tensor) -> Symmetric:
    """The kernel as a matrix or products, checked."""
    n, outputs = f_0.shape
    if isinstance(kernel, (Tensor, np.ndarray)):
        own = read("kernel", kernel)
        if own.axes not in ((n, n), (n, n, outputs), (n, n, outputs, outputs)):
            raise SettingError(
                f"`kernel` must fit f_0, ({n}, {n}, {outputs}, {outputs}) full or ({n}, {n}) trace; got {own.axes}. "
                "Take it of the samples of f_0."
            )
    else:
        if not callable(getattr(kernel, "times", None)):
            raise SettingTypeError(
                f"`kernel` must be a tensor or an operator with times(alpha); got {type(kernel).__name__}. "
                "Give a kernel, or a Jacobian."
            )
        shape = tuple(getattr(kernel, "shape", f_0.shape))[:2]
        if shape != (n, outputs):
            raise SettingError(
                f"`kernel` must fit f_0, {(n, outputs)}; got an operator of {shape}. Take it of its samples."
            )

        def times(alpha: Tensor) -> Tensor:
            found = kernel.times(alpha)
            if found.shape != alpha.shape:
                raise SettingError(
                    f"`kernel` must map {tuple(alpha.shape)} to itself; got {tuple(found.shape)}. Look at its times."
                )
            return found

        own = read("kernel", _Placed(f_0, times))
    own.check("kernel", np.random.default_rng(0))
    return own


def check_data(f_0: Tensor, y: Tensor, loss: Loss) -> None:
    """Outputs, and the labels or targets that fit them."""
    if f_0.dim() != 2 or not f_0.is_floating_point() or not f_0.numel():
        raise SettingError(
            f"`f_0` must be (n, C) in floating point; got {tuple(f_0.shape)} of {f_0.dtype}. Reshape it."
        )
    n, outputs = f_0.shape
    ours = loss in losses.NAMES.values()
    if len(y) != n if y.dim() and not ours else tuple(y.shape) != ((n, outputs) if y.is_floating_point() else (n,)):
        raise SettingError(
            f"`y` must be labels ({n},) or targets ({n}, {outputs}); got {tuple(y.shape)}. "
            "Labels are whole numbers, targets are in floating point."
        )
    if ours and not y.is_floating_point() and not 0 <= int(y.min()) <= int(y.max()) < outputs:
        raise SettingError(
            f"`y` must hold labels from 0 to {outputs - 1}; got {int(y.min())} to {int(y.max())}. "
            "Number the classes from 0, or give targets in floating point."
        )
    for name, part in (("f_0", f_0), ("y", y)):
        if not bool(torch.isfinite(part).all()):
            raise SettingError(f"`{name}` must be finite; got numbers that are not. Look at the network and the data.")


def steps(t: float | Sequence[float], loss: Loss, clock: str) -> list[float]:
    """The times, increasing."""
    times = numbers("t", t)
    if not times or not times[0] >= 0 or not all(a < b for a, b in pairwise(times)):
        raise SettingError(f"`t` must increase from 0 or above; got {times}. Sort the times and drop repeated ones.")
    if clock == "descent" and not all(time.is_integer() for time in times):
        raise SettingError(f"`t` must hold whole numbers of steps for descent; got {times}. Round them, or use a flow.")
    if math.isinf(times[-1]) and loss is not losses.squared:
        raise SettingError(
            f"`t` must be finite for {loss.name!r}; got {times}. Only the squared loss has a limit in general."
        )
    return times


def check_settings(loss: Any, clock: str, lr: float, momentum: float, tolerance: float) -> None:
    """Validates the arguments that are not tensors, except the times."""
    if not isinstance(loss, Loss):
        raise SettingTypeError(
            f"`loss` must be a Loss; got {type(loss).__name__}. Take one of losses, or losses.custom."
        )
    if clock not in ("flow", "descent"):
        raise SettingError(f"`clock` must be 'flow' or 'descent'; got {clock!r}. Choose one of the two.")
    for name, value in (("lr", lr), ("momentum", momentum), ("tolerance", tolerance)):
        check_number(name, value)
    if not 0 < lr < math.inf:
        raise SettingError(f"`lr` must be positive and finite; got {lr}. Give a learning rate such as 0.01.")
    if not 0 <= momentum < 1:
        raise SettingError(f"`momentum` must be from 0 to below 1; got {momentum}. Use 0 for none.")
    if momentum and clock == "flow":
        raise SettingError(f"`momentum` must be 0 in a flow, for heavy ball takes steps; got {momentum}. Use descent.")
    if not 0 < tolerance < 1:
        raise SettingError(f"`tolerance` must be between 0 and 1; got {tolerance}. Give a relative error such as 1e-6.")
    if clock == "flow" and loss.curvature is None:
        raise SettingError(
            f"`loss` must state its curvature for a flow; got none for {loss.name!r}. "
            "Pass curvature= to losses.custom, or use descent."
        )
