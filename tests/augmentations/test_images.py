"""Crops, mirror images and turns: the same as padding, cropping and flipping each image by hand."""

import cmath
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedtangent.augmentations.images import Moves, moved, moves


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def literal(x: Tensor, by: Moves, padding: int) -> Tensor:
    height, width = x.shape[2:]
    found = []
    for image, down, right, mirrored in zip(x, by.down.tolist(), by.right.tolist(), by.mirrored.tolist(), strict=True):
        wide = F.pad(image, (padding,) * 4)
        window = wide[:, padding + down : padding + down + height, padding + right : padding + right + width]
        found.append(window.flip(2) if mirrored else window)
    return torch.stack(found)


@pytest.mark.parametrize("padding", [0, 3, 9])
def test_equals_padding_cropping_and_flipping(padding: int) -> None:
    x = images(50, 2, 5, 7)
    by = moves(np.random.default_rng(3), 50, padding=padding)
    assert not by.turn.any()
    assert torch.equal(moved(x, by), literal(x, by, padding))


def test_one_image_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]])
    by = Moves(torch.tensor([1]), torch.tensor([-1]), torch.tensor([True]), torch.tensor([0.0]))
    assert moved(x, by).tolist() == [[[[5, 4, 0], [0, 0, 0]]]]  # one down, one left, then mirrored


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 9)])
def test_turned_pixel_by_pixel(height: int, width: int) -> None:
    x = images(20, 2, height, width)
    by = moves(np.random.default_rng(8), 20, padding=2, degrees=40)
    assert 0.5 < by.turn.abs().max().item() < math.radians(40) and by.turn.min() < 0
    found = moved(x, by)
    for image, result, down, right, mirrored, turn in zip(x, found, *(part.tolist() for part in by), strict=True):
        for i, j in itertools.product(range(height), range(width)):
            row, column = i + down, (width - 1 - j if mirrored else j) + right
            expected = torch.zeros(2, dtype=torch.float64)
            if 0 <= row < height and 0 <= column < width:
                # a point of the plane, first axis down, turned about the image's centre
                point = complex(row - (height - 1) / 2, column - (width - 1) / 2) * cmath.exp(1j * turn)
                row, column = round(point.real + (height - 1) / 2), round(point.imag + (width - 1) / 2)
                if 0 <= row < height and 0 <= column < width:
                    expected = image[:, row, column]
            assert torch.equal(result[:, i, j], expected)


def test_a_quarter_turn_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]]])
    still = torch.tensor([0])
    by = Moves(still, still, torch.tensor([False]), torch.tensor([math.pi / 2]))
    assert moved(x, by).tolist() == [[[[7, 4, 1], [8, 5, 2], [9, 6, 3]]]]  # clockwise


def test_vmap_maps_it_over_nodes() -> None:
    x = images(4, 6, 2, 5, 7)
    each = [moves(np.random.default_rng(k), 6, degrees=15) for k in range(4)]
    together = torch.func.vmap(moved)(x, Moves(*(torch.stack(parts) for parts in zip(*each, strict=True))))
    assert torch.equal(together, torch.stack([moved(part, by) for part, by in zip(x, each, strict=True)]))


def test_moves_are_uniform_and_independent_and_half_are_mirrored() -> None:
    by = moves(np.random.default_rng(1), 90_000, padding=1)
    counts = Counter(zip(*(part.tolist() for part in by[:3]), strict=True))
    assert len(counts) == 18 and all(abs(count - 5000) < 5 * 5000**0.5 for count in counts.values())
    assert (by.down.dtype, by.right.dtype, by.mirrored.dtype) == (torch.int64, torch.int64, torch.bool)


def test_the_same_generator_gives_the_same_moves() -> None:
    first, again, other = (moves(np.random.default_rng(seed), 40, degrees=9) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert first.down.abs().max() == first.right.abs().max() == 4


def test_without_mirrors_and_moves_images_stay() -> None:
    x = images(6, 2, 5, 7)
    assert torch.equal(moved(x, moves(np.random.default_rng(0), 6, padding=0, mirror=False)), x)


def test_a_negative_padding() -> None:
    with pytest.raises(ValueError, match=r"^`padding` must not be negative; got -1. Use 4, or 0 for none.$"):
        moves(np.random.default_rng(0), 3, padding=-1)


@pytest.mark.parametrize("degrees", [-1.0, 181.0, math.nan])
def test_a_turn_that_cannot_be(degrees: float) -> None:
    with pytest.raises(ValueError, match=rf"^`degrees` must be from 0 to 180; got {degrees}. Use 15, or 0 for none.$"):
        moves(np.random.default_rng(0), 3, degrees=degrees)


@pytest.mark.parametrize("shape", [(6, 28, 26, 3), (6, 28, 26)])
def test_what_is_no_image_with_its_channels_first(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"^images \(rows, channels, height, width\) are needed; \(6, 28, 26.*were given$"
    ):
        moved(torch.zeros(shape), moves(np.random.default_rng(0), 6))
