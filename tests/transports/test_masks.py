"""Masks: the sum of masked parts is the fixed-point sum to the bit, and no part tells anything of its numbers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from fedtangent import trees
from fedtangent.federation.transport import Tag
from fedtangent.transports._masks import BITS, Masks, fixed, form, opened

RUN = bytes(range(16))
SENDERS = [1, 4, 5, 8]
TAG = Tag(7, 1, 2)


def secrets(seed: int = 0) -> dict[int, dict[int, bytes]]:
    """What every sender shares with every other one."""
    rng = np.random.default_rng(seed)
    found: dict[int, dict[int, bytes]] = {node: {} for node in SENDERS}
    for one, other in combinations(SENDERS, 2):
        found[one][other] = found[other][one] = rng.bytes(32)
    return found


def value(seed: int, dtype: torch.dtype = torch.float64) -> Any:
    rng = np.random.default_rng(seed)
    return {"w": torch.from_numpy(rng.normal(size=(3, 5))).to(dtype), "n": (torch.tensor(seed % 3), torch.zeros(0, 2))}


def added(values: list[Any], weights: list[float], tag: Tag = TAG, run: bytes = RUN) -> Any:
    known, parts = secrets(), []
    for node, weight, own in zip(SENDERS, weights, values, strict=True):
        parts.append(Masks(run, known[node]).masked(tag, 9, node, SENDERS, fixed(weight, own, len(SENDERS))))
    return opened(form(values[0]), parts)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_sum_is_the_plain_sum_of_the_rounded_parts(dtype: torch.dtype) -> None:
    values, weights = [value(seed, dtype) for seed in range(4)], [0.3, -1.0, 2.5, 1e4]
    found = added(values, weights)
    whole = [
        [round(w * float(x) * 2**BITS) for x in own["w"].flatten()] for w, own in zip(weights, values, strict=True)
    ]
    expected = torch.tensor([sum(column) / 2**BITS for column in zip(*whole, strict=True)], dtype=torch.float64)
    assert torch.equal(found["w"], expected.reshape(3, 5).to(dtype))
    near = trees.weighted_sum([own["w"] for own in values], weights)
    torch.testing.assert_close(found["w"], near, atol=1e-6 if dtype == torch.float64 else 1e-2, rtol=1e-6)
    assert found["n"][1].shape == (0, 2)


def test_whole_numbers_are_added_as_they_are() -> None:
    assert int(added([value(seed) for seed in range(4)], [1, 1, 1, 1])["n"][0]) == 0 + 1 + 2 + 0


def part(number: float, tag: Tag = TAG, run: bytes = RUN, count: int = 2**14, known: Any = None) -> np.ndarray:
    masks = Masks(run, (known or secrets())[4])
    (found,) = masks.masked(tag, 9, 4, SENDERS, fixed(1.0, torch.full((count,), number), len(SENDERS)))
    return found.numpy().view(np.uint8)


@pytest.mark.parametrize("number", [0.0, 1.0, -12345.678])
def test_a_part_is_uniform_whatever_it_holds(number: float) -> None:
    found = part(number)
    assert stats.chisquare(np.bincount(found, minlength=256)).pvalue > 1e-3
    for place in range(8):  # every byte of the ring, the highest included
        assert stats.chisquare(np.bincount(found[place::8], minlength=256)).pvalue > 1e-4


def test_no_mask_comes_twice() -> None:
    tags = [Tag(verb, leg, wave) for verb in range(5) for leg in (0, 1) for wave in range(3)]
    seen = {part(0.0, tag, run, 4).tobytes() for tag in tags for run in (RUN, bytes(16))}
    assert len(seen) == 60
    masks = Masks(RUN, secrets()[4])
    zeros = fixed(1.0, torch.zeros(4), 4)
    again = {masks.masked(TAG, receiver, 4, SENDERS, zeros)[0].numpy().tobytes() for receiver in (9, 9, 9, 2)}
    assert len(again) == 3 + 1


def test_every_bit_of_a_secret_changes_the_mask() -> None:
    known, first = secrets(), part(0.0, count=4).tobytes()
    for bit in range(256):
        changed = bytearray(known[4][8])
        changed[bit // 8] ^= 1 << bit % 8
        other = {**known, 4: {**known[4], 8: bytes(changed)}}
        assert part(0.0, count=4, known=other).tobytes() != first


def test_without_one_part_the_rest_is_noise() -> None:
    known = secrets()
    own = [fixed(1.0, torch.ones(4096), 4) for _ in SENDERS]
    parts = [Masks(RUN, known[node]).masked(TAG, 9, node, SENDERS, one) for node, one in zip(SENDERS, own, strict=True)]
    some = sum(one[0].numpy().view(np.uint64) for one in parts[:3])
    assert stats.chisquare(np.bincount(np.asarray(some).view(np.uint8), minlength=256)).pvalue > 1e-3


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 2.0**29])
def test_numbers_that_do_not_fit(number: float) -> None:
    with pytest.raises(ValueError, match=r"a masked sum must have finite parts below 2\.68e\+08; got others"):
        fixed(1.0, torch.tensor([1.0, number]), 4)


def test_parts_of_several_forms() -> None:
    with pytest.raises(ValueError, match="several forms"):
        opened(form(torch.ones(2)), [fixed(1, torch.ones(2), 2), fixed(1, torch.ones(3), 2)])
