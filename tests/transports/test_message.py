"""Messages as bytes: whatever a method sends comes back as it was, and what is damaged makes no code run."""

import json
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fedtangent.shard import Shard
from fedtangent.transports._message import Message, packed, unpacked
from tests.tiny_federation import assert_same


class Own(NamedTuple):
    a: Any
    b: Tensor


def back(*values: Any) -> list[Any]:
    return unpacked(packed(values))


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64],
)
def test_tensors_of_all_types_and_shapes(dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(2, 3, 4).to(dtype)
    for tensor in (whole, whole[:0], whole[1, 2, 3], whole[:, 1], whole.permute(2, 0, 1)):
        (found,) = back(tensor)
        assert found.dtype == dtype
        assert torch.equal(found, tensor)


def test_the_layout_in_memory_is_kept_as_the_last_bits_of_products_hang_on_it() -> None:
    tensor = torch.rand(3, 4, 5).permute(1, 2, 0)
    assert back(tensor)[0].stride() == tensor.stride()


def test_every_tensor_has_a_storage_of_its_own_for_a_dual_of_a_part_takes_as_much_as_the_whole() -> None:
    large, small = torch.rand(1000), torch.rand(2, 2)
    assert [found.untyped_storage().nbytes() for found in back(large, small)] == [4000, 16]


def test_trees_with_names_numbers_texts_and_nothing() -> None:
    tree = {"a": (torch.ones(2), [1, 2.5, None, True, "text"]), 3: Own({"x": torch.zeros(1)}, torch.ones(2).bool())}
    (found,) = back(tree)
    assert found["a"][1] == tree["a"][1]
    assert_same((found["a"][0], found[3]), (tree["a"][0], tree[3]))
    assert type(found[3]) is Own
    assert [*found] == ["a", 3]


def test_numbers_that_are_not_finite() -> None:
    (found,) = back([float("inf"), float("nan"), torch.tensor([torch.nan, -torch.inf])])
    assert found[0] == float("inf")
    assert found[1] != found[1]
    assert torch.equal(found[2].isnan(), torch.tensor([True, False]))


def test_what_is_shared_is_sent_once_and_is_shared_again() -> None:
    w = torch.rand(1000)
    tree = {"w": w}
    message = packed([tree, tree, (w, 1)])
    assert len(message.numbers) < 4000 + 64
    first, second, third = unpacked(message)
    assert first is second
    assert third[0] is first["w"]


def test_what_is_received_can_be_added_to_without_touching_the_sender_s() -> None:
    own = torch.ones(3)
    back(own)[0].add_(1)
    assert torch.equal(own, torch.ones(3))


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^a message must hold tensors and plain values; got set. Convert it.$"):
        packed([{1, 2}])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("subprocess", "Popen"),
        ("nowhere", "Own"),
        (__name__, "Own.a"),
        ("fedtangent.shard", "Dataset"),
    ],
)
def test_a_type_that_is_no_named_tuple_here_is_refused_and_nothing_of_it_runs(module: str, name: str) -> None:
    message = packed([Shard(torch.ones(1, 2), torch.zeros(1), torch.ones(1).bool())])
    table = json.loads(message.table)
    table["trees"][0]["type"] = [module, name]
    with pytest.raises(ValueError, match=r"^a message must hold types that its receiver knows; got .*"):
        unpacked(Message(json.dumps(table).encode(), message.numbers))


def test_between_two_tensors_nothing_is_sent_that_memory_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda size, **how: torch.full((size,), 77, **how))
    found = packed([torch.zeros(3), torch.zeros(16), torch.zeros((), dtype=torch.bool)])
    assert len(found.numbers) == 3 * 64 and not found.numbers.any()
