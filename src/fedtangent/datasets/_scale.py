"""Inputs as a network wants them: 8-bit images standardised, other numbers as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.shard import channels_last

PIXELS = "8-bit pixels"  # begins the schema of images whose mean and deviation all sites are to find together
_LEFT: ContextVar[list[str] | None] = ContextVar("left", default=None)


@contextmanager
def left_to_all() -> Iterator[list[str]]:
    """Inside, 8-bit images are x / 255 alone, and the list is no longer empty."""
    left: list[str] = []
    token = _LEFT.set(left)
    try:
        yield left
    finally:
        _LEFT.reset(token)


def alike(features: tuple[int, ...]) -> tuple[int, ...]:
    """The form of a mean of images of this form: one number a channel of three axes, one number of others."""
    return tuple(size if axis == 0 and len(features) == 3 else 1 for axis, size in enumerate(features))


def scaled(x_train: Tensor, x_test: Tensor) -> tuple[Tensor, Tensor]:
    """Both splits as float32; uint8 images as (x / 255 - mean) / std, by `x_train`'s mean and std of each channel.

    Four-dimensional images have their channels first, (rows, channels, height, width); others are one channel.

    Raises:
        ValueError: One split is 8-bit and the other is not, or images have their channels last.
    """
    if (x_train.dtype == torch.uint8) != (x_test.dtype == torch.uint8):
        raise SettingError(
            f"`x_test` must be 8-bit if and only if `x_train` is, which is {x_train.dtype}; got {x_test.dtype}. "
            "Save both splits with the same dtype."
        )
    if x_train.dtype != torch.uint8 or x_train.numel() == 0 or x_train.shape[1:] != x_test.shape[1:]:
        return x_train.to(torch.float32), x_test.to(torch.float32)
    if channels_last(x_train.shape[1:]):
        raise SettingError(
            f"`x_train` must hold images with their channels first, (rows, channels, height, width); "
            f"got {tuple(x_train.shape)}. Transpose with (0, 3, 1, 2)."
        )
    train, test = x_train.to(torch.float32).div_(255), x_test.to(torch.float32).div_(255)
    if (left := _LEFT.get()) is not None:
        left.append(PIXELS)
        return train, test
    axes = tuple(axis for axis in range(train.ndim) if train.ndim != 4 or axis != 1)
    std, mean = torch.std_mean(train, axes, correction=0, keepdim=True)
    std = torch.where(std > 0, std, 1.0)  # a constant channel carries nothing; keep it at zero
    return train.sub_(mean).div_(std), test.sub_(mean).div_(std)
