"""Digests by arithmetic: equal contents alike, any change another; many at once as one alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent.federation import cache, digests
from fedtangent.federation.cache import Cache
from fedtangent.federation.ledger import Link

TYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64,
]  # fmt: skip


def one(tensor: Tensor) -> bytes:
    return digests.digests([tensor])[0]


@pytest.mark.parametrize("dtype", TYPES)
def test_content_alone_decides(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(6, 5, generator=rng)
    x = x > 0 if dtype == torch.bool else x.to(dtype)
    assert one(x) == one(x.clone()) == one(x.mT.contiguous().mT)
    others = [x.reshape(5, 6), x[:5], x.flip(0), x[:, :0]]
    for place in range(30):
        changed = x.clone()
        number = changed.view(-1)[place]
        number.copy_(torch.logical_not(number) if dtype == torch.bool else number + 1)
        others.append(changed)
    assert len({one(x), *map(one, others)}) == 1 + len(others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_do_not_cancel(dtype: torch.dtype) -> None:
    """A sign is the highest bit of its word: even numbers k_i would lose it, and two of them would cancel."""
    x = torch.zeros(4, dtype=dtype)
    found = {one(torch.where(signs, -x, x)) for signs in torch.cartesian_prod(*[torch.tensor([False, True])] * 4)}
    assert len(found) == 16


def test_many_at_once_are_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(2)
    tensors = [torch.randn(shape, generator=rng) for shape in [(3, 4), (2,), (3, 4), (), (0, 2), (12,), (3, 4)]]
    alone = [one(tensor) for tensor in tensors]
    assert digests.digests(tensors) == alone
    assert len({*alone}) == len(tensors)
    monkeypatch.setattr(digests, "_AT_ONCE", 13)
    assert digests.digests(tensors) == alone
    assert digests.digests([]) == []


def test_long_tensors_are_hashed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_WORDS", 8)
    x = torch.arange(50.0)
    found = {one(x)}
    for place in range(50):
        changed = x.clone()
        changed[place] += 0.5
        found.add(one(changed))
    assert len(found) == 51
    assert one(torch.cat([x[8:16], x[:8], x[16:]])) not in found


def test_an_accelerator_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every tensor is taken for one of an accelerator."""
    looks: list[int] = []

    def counted(tensors: Any) -> list[bytes]:
        looks.append(len(tensors))
        return digests.digests(tensors)

    monkeypatch.setattr(cache, "_accelerated", lambda tensor: True)
    monkeypatch.setattr(cache, "digests", counted)
    held, values = Cache(), [{"a": torch.rand(3), "b": torch.rand(2)} for _ in range(4)]
    held.look([*values, values[0]])
    for node, value in enumerate(values):
        assert len(held.fresh(Link(0, node + 1), value, 1)) == 2
        assert held.fresh(Link(0, node + 1), {"c": value["a"].clone()}, 1) == []
    assert looks == [8, 1, 1, 1, 1]
