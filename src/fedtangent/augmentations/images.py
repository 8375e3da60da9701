"""images: random crops, mirror images and turns, drawn beforehand, applied by index arithmetic alone.

FedPart (Wang et al., NeurIPS 2024) trains CIFAR-100 with 4 pixels, mirrors and 15 degrees, CIFAR-10 without any.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.shard import channels_last
from fedtangent.training.task import Augmentation


class Moves(NamedTuple):
    """What happens to each image.

    Attributes:
        down: Rows by which the window lies lower than the image, negative for higher, (rows,) as int64.
        right: Columns by which it lies further right, (rows,) as int64.
        mirrored: Whether left and right change places, (rows,) as bool.
        turn: The angle by which the image is turned clockwise about its centre, in radians, (rows,) as floats.
    """

    down: Tensor
    right: Tensor
    mirrored: Tensor
    turn: Tensor


def images(*, padding: int = 4, mirror: bool = True, degrees: float = 0.0) -> Augmentation:
    """Windows up to `padding` pixels off, half of them mirrored, images turned up to `degrees`.

    Args:
        padding: The largest move, in pixels; 0 moves nothing.
        mirror: Whether to mirror; where left and right have a meaning, as in digits, do not.
        degrees: The largest turn to either side; 0 turns nothing.
    """
    draw = partial(moves, padding=padding, mirror=mirror, degrees=degrees)
    draw(np.random.default_rng(0), 1)  # what cannot be is told at once
    return Augmentation(draw, moved)


def moves(rng: np.random.Generator, rows: int, *, padding: int = 4, mirror: bool = True, degrees: float = 0.0) -> Moves:
    """A draw for so many images: windows up to `padding` pixels off, half of them mirrored, turned up to `degrees`.

    All are uniform and independent.

    Args:
        rng: The only source of randomness.
        rows: Number of images.
        padding: As of `images`; so are the others.
        mirror: Whether to mirror.
        degrees: The largest turn.
    """
    if padding < 0:
        raise SettingError(f"`padding` must not be negative; got {padding}. Use 4, or 0 for none.")
    if not 0 <= degrees <= 180:
        raise SettingError(f"`degrees` must be from 0 to 180; got {degrees}. Use 15, or 0 for none.")
    down, right = (torch.from_numpy(rng.integers(-padding, padding + 1, rows)) for _ in range(2))
    mirrored = torch.from_numpy(rng.integers(0, 2, rows) == 1) if mirror else torch.zeros(rows, dtype=torch.bool)
    return Moves(down, right, mirrored, torch.from_numpy(np.deg2rad(rng.uniform(-degrees, degrees, rows))))


def moved(x: Tensor, by: Moves) -> Tensor:
    """Each image turned, seen through its window, and mirrored: every pixel takes the nearest one's value, or zero.

    Zero (the mean, once standardised) is what lies outside. Without a turn equal to padding by zeros, cropping at the
    window and flipping the columns. No step depends on values, so that vmap can map it over nodes.

    Args:
        x: Images, (rows, channels, height, width).
        by: One move an image.
    """
    if x.dim() != 4 or channels_last(x.shape[1:]):
        raise ValueError(f"images (rows, channels, height, width) are needed; {tuple(x.shape)} were given")
    height, width = x.shape[2:]
    column = torch.arange(width, device=x.device)
    row = (by.down[:, None] + torch.arange(height, device=x.device))[:, :, None]
    column = (by.right[:, None] + torch.where(by.mirrored[:, None], width - 1 - column, column))[:, None, :]
    seen = _within(row, height) & _within(column, width)
    row, column = _turned(row, column, by.turn[:, None, None], (height - 1) / 2, (width - 1) / 2)
    seen = seen & _within(row, height) & _within(column, width)
    at = torch.where(seen, row * width + column, 0).flatten(1)[:, None, :].expand(-1, x.shape[1], -1)
    taken = x.flatten(2).gather(2, at).reshape(x.shape)
    return torch.where(seen[:, None], taken, torch.zeros((), dtype=x.dtype, device=x.device))


def _turned(row: Tensor, column: Tensor, turn: Tensor, middle: float, centre: float) -> tuple[Tensor, Tensor]:
    """The whole-numbered pixels nearest to where these lie once turned about the centre."""
    cos, sin, down, right = turn.cos(), turn.sin(), row - middle, column - centre
    back = cos * down - sin * right + middle, sin * down + cos * right + centre
    return back[0].round().long(), back[1].round().long()


def _within(place: Tensor, size: int) -> Tensor:
    return (place >= 0) & (place < size)
