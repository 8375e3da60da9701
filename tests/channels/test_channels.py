"""What comes out of the channels is what slow loops over numbers give, and takes the bytes counted by hand."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.channels.bfloat16 import bfloat16
from fedtangent.channels.quantize import quantize
from fedtangent.channels.topk import topk
from fedtangent.federation import Channel, Coding
from fedtangent.federation.coding import payload_bytes
from tests.channels import literal_wire

ROWS, SHAPES = 7, {"a": (7, 5), "b": (7, 2, 3), "c": (7,)}


def tree(seed: int = 3) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=shape)) for name, shape in SHAPES.items()}


def wire(share: float, levels: int | None) -> list[Channel]:
    return ([topk(share=share)] if share < 1 else []) + ([] if levels is None else [quantize(levels=levels)])


def received(channels: Sequence[Channel], tree: Any, seed: int = 5) -> Any:
    """What a receiver sees."""
    return Coding(channels).coded(tree, "message", lambda: np.random.default_rng(seed), None)


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


def test_a_case_worked_by_hand() -> None:
    """Four of 0.5, -3, 1, 0, -7, 2, 0.1: from 1 to 7, in cells of 3, or at the points 1, 4, 7."""
    x = torch.tensor([0.5, -3.0, 1.0, 0.0, -7.0, 2.0, 0.1]).double()
    assert received([topk(share=4 / 7)], x).tolist() == [0, -3, 1, 0, -7, 2, 0]
    assert received([topk(share=4 / 7), quantize(levels=4)], x).tolist() == [0, -2.5, 2.5, 0, -5.5, 2.5, 0]
    assert received([topk(share=4 / 7), quantize(levels=5)], x).tolist() == [0, -4, 1, 0, -7, 1, 0]


def test_of_equals_the_first_in_their_rows_are_sent() -> None:
    rows = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, 2.0]]).double()
    assert received([topk(share=0.5)], rows).tolist() == [[1, 0, 0], [1, 0, 2]]
    assert received([topk(share=0.7)], rows).tolist() == [[1, -1, 0], [1, 0, 2]]
    x = torch.tensor([0.0, 2.0, -2.0, 1.0, 2.0, 0.0]).double()
    assert received([topk(share=1 / 3)], x).tolist() == [0, 2, -2, 0, 0, 0]
    assert received([topk(share=5 / 6)], torch.zeros(6)).tolist() == [0] * 6


def test_equal_magnitudes_and_gates_lose_nothing() -> None:
    same = torch.tensor([-3.0, 3.0, 3.0]).double()
    gates = torch.tensor([0.0, 1.0, 1.0, 0.0]).double()
    assert torch.equal(received([quantize(levels=2)], same), same)
    assert torch.equal(received([quantize(levels=7)], gates), gates)


@pytest.mark.parametrize("levels", [2, 3, 9, 10])
def test_no_magnitude_is_off_by_more_than_half_a_distance(levels: int) -> None:
    x = tree()["a"]
    r = float(x.abs().max() - x.abs().min())
    worst = float((received([quantize(levels=levels)], x) - x).abs().max())
    assert worst <= r / (levels - levels % 2) * (1 + 1e-12)
    assert worst > r / (levels - levels % 2) / 10


def test_what_is_not_finite_does_not_become_finite() -> None:
    x = torch.tensor([1.0, float("nan"), 2.0, 3.0])
    assert not torch.isfinite(received([topk(share=0.5), quantize(levels=8)], x)).all()


class Message(NamedTuple):
    """Rows of floats and of whole numbers."""

    x: Tensor
    ids: Tensor


def test_whole_numbers_travel_as_they_are() -> None:
    message = Message(torch.ones(6, 5), torch.arange(12).view(6, 2))
    assert torch.equal(received([topk(share=0.1), quantize(levels=2)], message).ids, message.ids)
    assert payload_bytes([quantize(levels=2)], message) == 4 + 2 * 4 + 12 * 8


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
    assert payload_bytes([quantize(levels=4)], [torch.zeros(3).double(), torch.zeros(5).double()]) == (1 + 16) + (
        2 + 16
    )


def test_a_tensor_without_entries_takes_no_bytes() -> None:
    nothing = torch.zeros(3, 0)
    assert received([topk(share=0.5), quantize(levels=3)], nothing).shape == (3, 0)
    assert payload_bytes([topk(share=0.5), quantize(levels=3)], nothing) == 0


def test_nothing_on_the_wire_changes_nothing() -> None:
    assert payload_bytes([], tree()) == trees.payload_bytes(tree())
    assert all(torch.equal(leaf, tree()[name]) for name, leaf in received([], tree()).items())


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
def test_a_wrong_share_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^`share` must be in \(0, 1\]; got {share}. Use 1 to send every entry\.$"):
        topk(share=share)


@pytest.mark.parametrize("levels", [-1, 0, 1, 65537])
def test_wrong_levels_are_an_error(levels: int) -> None:
    with pytest.raises(ValueError, match=rf"^`levels` must be from 2 to 65536; got {levels}. Use 16 for four bits an"):
        quantize(levels=levels)


def test_bfloat16_rounds_and_takes_two_bytes() -> None:
    x = {"a": torch.tensor([1.00390625, -3.0, 1e30]), "scalar": torch.tensor(1.01171875), "n": torch.tensor([7])}
    found = received([bfloat16()], x)
    assert found["a"].tolist() == [1.0, -3.0, float(torch.tensor(1e30).bfloat16())]
    assert (float(found["scalar"]), int(found["n"])) == (1.015625, 7)  # ties go to the even one
    assert payload_bytes([bfloat16()], x) == 3 * 2 + 2 + 8
    assert payload_bytes([topk(share=2 / 3), bfloat16()], x["a"]) == 2 * 2 + 1


def test_stochastic_rounding_is_to_a_neighbour_and_right_on_average() -> None:
    """Between the points 0, .5 and 1 a magnitude of .8 is 1 three times of five."""
    x = torch.tensor([0.0, 1.0, 0.8, -0.8]).double()
    channel = quantize(levels=5, rounding="stochastic")
    found = torch.stack([received([channel], x, seed) for seed in range(4000)])
    assert set(found[:, 2].tolist()) == {0.5, 1.0}
    assert torch.equal(found[:, :2], x[:2].expand(4000, 2))
    torch.testing.assert_close(found.mean(0), x, rtol=0, atol=0.02)  # a deviation of .004
    assert payload_bytes([channel], x) == 2 + 16


def test_random_entries_are_scaled_and_right_on_average() -> None:
    x = tree()["a"]
    channel = topk(share=0.4, entries="random")
    found = torch.stack([received([channel], x, seed) for seed in range(4000)])
    assert ((found != 0).flatten(1).sum(1) == 14).all()
    torch.testing.assert_close(found.sum(0) / (found != 0).sum(0), x * 35 / 14, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.mean(0), x, rtol=0, atol=0.15)  # deviations of .02 times an entry
    assert payload_bytes([channel], x) == 14 * 8 + 4


def test_what_was_lost_is_added_to_the_next_message() -> None:
    """The error feedback of Seide et al., as a loop: all that was given is sent, but for the last loss."""
    coding = Coding([topk(share=0.25)], feedback="error")
    given = [torch.tensor(x) for x in ([4.0, 3.0, 2.0, 1.0], [0.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0])]
    lost, found = torch.zeros(4), []
    for x in given:
        whole = x + lost
        sent = torch.where(torch.arange(4) == int(whole.abs().argmax()), whole, 0)
        lost = whole - sent
        found.append(coding.coded({"w": x}, "weights", np.random.default_rng, 3)["w"])
        assert torch.equal(found[-1], sent)
    assert [row.nonzero().item() for row in found] == [0, 1, 2]
    assert torch.equal(coding.lost["weights", 3]["w"], lost)
    assert torch.equal(
        coding.coded({"w": given[1]}, "weights", np.random.default_rng, 4)["w"], found[1].new_tensor([0, 1.0, 0, 0])
    )


def test_a_part_of_a_tree_leaves_what_was_lost_of_the_rest() -> None:
    coding = Coding([topk(share=0.5)], feedback="error")
    x = {"a": torch.tensor([2.0, 1.0]), "b": torch.tensor([4.0, 3.0])}
    coding.coded(x, "weights", np.random.default_rng, 0)
    coding.coded({"b": x["b"]}, "weights", np.random.default_rng, 0)
    kept = {place: lost.tolist() for place, lost in coding.lost["weights", 0].items()}
    assert kept == {"a": [0, 1], "b": [4, 0]}


def test_the_difference_to_what_is_known_is_coded() -> None:
    x, start = torch.tensor([5.0, 2.0, 3.5]), torch.tensor([5.0, 1.0, 3.0])
    found = Coding([topk(share=1 / 3)]).coded(x, "weights", np.random.default_rng, None, start)
    assert found.tolist() == [5.0, 2.0, 3.0]


def test_a_field_of_the_message_s_name_alone_is_coded() -> None:
    found = Coding([topk(share=0.1)]).coded(Message(torch.ones(2, 2), torch.ones(2)), "x", np.random.default_rng, None)
    assert found.x.tolist() == [[1, 0], [0, 0]]
    assert found.ids.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: quantize(levels=16, rounding="stochastic"),
            r"^`levels` must be odd for stochastic rounding.*Use 15\.$",
        ),
        (lambda: quantize(rounding="up"), r"^`rounding` must be 'nearest' or 'stochastic'; got 'up'"),  # type: ignore[arg-type]
        (lambda: topk(entries="first"), r"^`entries` must be 'largest' or 'random'; got 'first'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_choice_is_an_error(make: Callable[[], Channel], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
