"""What comes out of the channels is what slow loops over numbers give, and takes the bytes counted by hand."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.channels._chain import Channel, payload_bytes, received
from fedtangent.channels.project import project, projected
from fedtangent.channels.quantize import quantize
from fedtangent.channels.topk import topk
from tests.channels import literal_wire

ROWS, SHAPES = 7, {"a": (7, 5), "b": (7, 2, 3), "c": (7,)}


def tree(seed: int = 3) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=shape)) for name, shape in SHAPES.items()}


def wire(share: float, levels: int | None) -> list[Channel]:
    return ([topk(share)] if share < 1 else []) + ([] if levels is None else [quantize(levels)])


EVERY = pytest.mark.parametrize(
    ("share", "levels"),
    [
        (1.0, None),
        (0.4, None),
        (0.01, None),
        (1.0, 2),
        (1.0, 3),
        (1.0, 16),
        (0.4, 5),
        (0.4, 6),
        (0.01, 4),
        (0.7, 65536),
    ],
)


@EVERY
def test_a_receiver_decodes_what_the_loops_do(share: float, levels: int | None) -> None:
    found = received(wire(share, levels), tree())
    for name, leaf in tree().items():
        expected = literal_wire.decoded(leaf.flatten().tolist(), len(leaf), share, levels)
        torch.testing.assert_close(
            found[name].flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )


@EVERY
def test_padding_is_not_seen_and_comes_out_as_nothing(share: float, levels: int | None) -> None:
    real = torch.tensor([True] * ROWS + [False] * 2)
    padded = trees.map(lambda leaf: torch.cat([leaf, torch.full_like(leaf[:2], 9e9)]), tree())
    found = received(wire(share, levels), padded, real)
    for name, leaf in received(wire(share, levels), tree()).items():
        assert torch.equal(found[name][:ROWS], leaf)
        assert not found[name][ROWS:].any()


@EVERY
def test_many_messages_at_once_are_each_its_own(share: float, levels: int | None) -> None:
    """Under vmap, with masks of different sizes."""
    reals = torch.tensor([[True] * 7, [True] * 3 + [False] * 4, [True] + [False] * 6])
    several = trees.stack([tree(seed) for seed in (3, 4, 5)])
    found = torch.func.vmap(lambda tree, real: received(wire(share, levels), tree, real))(several, reals)
    for i, real in enumerate(reals):
        own = received(wire(share, levels), trees.map(lambda leaf, i=i, real=real: leaf[i][real], several))
        for name in SHAPES:
            torch.testing.assert_close(found[name][i][real], own[name], rtol=1e-14, atol=0)


def test_a_case_worked_by_hand() -> None:
    """Four of 0.5, -3, 1, 0, -7, 2, 0.1: from 1 to 7, in cells of 3, or at the points 1, 4, 7."""
    x = torch.tensor([0.5, -3.0, 1.0, 0.0, -7.0, 2.0, 0.1]).double()
    assert received([topk(4 / 7)], x).tolist() == [0, -3, 1, 0, -7, 2, 0]
    assert received([topk(4 / 7), quantize(4)], x).tolist() == [0, -2.5, 2.5, 0, -5.5, 2.5, 0]
    assert received([topk(4 / 7), quantize(5)], x).tolist() == [0, -4, 1, 0, -7, 1, 0]


def test_of_equals_the_first_in_their_rows_are_sent() -> None:
    rows = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, 2.0]]).double()
    assert received([topk(0.5)], rows).tolist() == [[1, 0, 0], [1, 0, 2]]
    assert received([topk(0.7)], rows).tolist() == [[1, -1, 0], [1, 0, 2]]
    x = torch.tensor([0.0, 2.0, -2.0, 1.0, 2.0, 0.0]).double()
    assert received([topk(1 / 3)], x).tolist() == [0, 2, -2, 0, 0, 0]
    assert received([topk(5 / 6)], torch.zeros(6)).tolist() == [0] * 6


def test_equal_magnitudes_and_gates_lose_nothing() -> None:
    same = torch.tensor([-3.0, 3.0, 3.0]).double()
    gates = torch.tensor([0.0, 1.0, 1.0, 0.0]).double()
    assert torch.equal(received([quantize(2)], same), same)
    assert torch.equal(received([quantize(7)], gates), gates)


@pytest.mark.parametrize("levels", [2, 3, 9, 10])
def test_no_magnitude_is_off_by_more_than_half_a_distance(levels: int) -> None:
    x = tree()["a"]
    r = float(x.abs().max() - x.abs().min())
    worst = float((received([quantize(levels)], x) - x).abs().max())
    assert worst <= r / (levels - levels % 2) * (1 + 1e-12)
    assert worst > r / (levels - levels % 2) / 10


def test_what_is_not_finite_does_not_become_finite() -> None:
    x = torch.tensor([1.0, float("nan"), 2.0, 3.0])
    assert not torch.isfinite(received([topk(0.5), quantize(8)], x)).all()


class Message(NamedTuple):
    """Rows of floats and of whole numbers."""

    x: Tensor
    ids: Tensor


def test_whole_numbers_travel_as_they_are() -> None:
    message = Message(torch.ones(6, 5), torch.arange(12).view(6, 2))
    assert torch.equal(received([topk(0.1), quantize(2)], message).ids, message.ids)
    assert payload_bytes([quantize(2)], message) == 4 + 2 * 4 + 12 * 8


@pytest.mark.parametrize(
    ("share", "levels", "expected"),
    [
        (1.0, None, 1000 * 4),
        (0.5, None, 500 * 4 + 125),  # a bit for each of 1000 entries
        (0.01, None, 10 * 4 + 13),  # ten indices of ten bits
        (1.0, 16, 500 + 8),  # four bits an entry, and the two ends
        (1.0, 17, 625 + 8),
        (0.1, 3, 25 + 8 + 125),  # a hundred entries: two bits each, and a hundred indices or a thousand bits
        (0.0001, 2, 1 + 8 + 2),
    ],
)
def test_bytes_are_those_counted_by_hand(share: float, levels: int | None, expected: int) -> None:
    assert payload_bytes(wire(share, levels), [torch.zeros(40, 25)]) == expected


def test_every_tensor_is_packed_by_itself() -> None:
    assert payload_bytes([quantize(4)], [torch.zeros(3).double(), torch.zeros(5).double()]) == (1 + 16) + (2 + 16)


def test_a_tensor_without_entries_takes_no_bytes() -> None:
    nothing = torch.zeros(3, 0)
    assert received([topk(0.5), quantize(3)], nothing).shape == (3, 0)
    assert payload_bytes([topk(0.5), quantize(3)], nothing) == 0


def test_nothing_on_the_wire_changes_nothing() -> None:
    assert payload_bytes([], tree()) == trees.payload_bytes(tree())
    assert all(torch.equal(leaf, tree()[name]) for name, leaf in received([], tree()).items())


def test_a_projection_mixes_flattened_inputs_and_keeps_lengths_on_average() -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2, 3)))
    matrix = project(6, 5, np.random.default_rng(8))
    drawn = np.random.default_rng(8).standard_normal((6, 5))
    found = projected(x, matrix)
    for row, own in zip(found, x, strict=True):
        for j, value in enumerate(row.tolist()):
            flat = own.flatten().tolist()
            assert value == pytest.approx(sum(flat[i] * drawn[i, j] / math.sqrt(5) for i in range(6)), rel=1e-12)
    wide = project(400, 300, np.random.default_rng(9))
    assert float((wide**2).sum(1).mean()) == pytest.approx(1, abs=0.02)  # 120,000 squares: a deviation of .004


def test_a_projection_keeps_the_inputs_dtype() -> None:
    matrix = project(6, 5, np.random.default_rng(8))
    assert projected(torch.ones(2, 6), matrix).dtype == torch.float32


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
def test_a_wrong_share_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^`share` must be in \(0, 1\]; got {share}. Use 1 to send every entry\.$"):
        topk(share)


@pytest.mark.parametrize("levels", [-1, 0, 1, 65537])
def test_wrong_levels_are_an_error(levels: int) -> None:
    with pytest.raises(ValueError, match=rf"^`levels` must be from 2 to 65536; got {levels}. Use 16 for four bits an"):
        quantize(levels)


@pytest.mark.parametrize("size", [0, 7])
def test_a_projection_to_nothing_or_to_more_is_an_error(size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^`project` must be between 1 and 6, the number of inputs; got {size}. Choos"
    ):
        project(6, size, np.random.default_rng(0))


def test_a_projection_of_whole_numbers_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"^`project` must be left out for inputs that are not floats; got torch.int64"):
        projected(torch.arange(6).view(2, 3), project(3, 2, np.random.default_rng(0)))
