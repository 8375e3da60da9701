from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedtangent import shard, trees
from fedtangent.shard import Dataset, Partition, Shard
from tests import tiny_federation as federation
from tests.tiny_federation import assert_same


class Rows(NamedTuple):
    """Rows with parts of their own."""

    parts: dict[str, Tensor]
    inner: Any
    real: Tensor


def dataset() -> Dataset:
    x = torch.arange(21.0).reshape(7, 3)
    return Dataset("toy", x, torch.arange(7), x[:2], torch.arange(2), 7)


def test_a_node_holds_its_rows_in_the_given_order_with_repetitions() -> None:
    first, second = shard.shards(dataset(), Partition([np.array([4, 1, 4]), np.array([0])]))
    assert first.y.tolist() == [4, 1, 4]
    assert first.x.tolist() == [[12, 13, 14], [3, 4, 5], [12, 13, 14]]
    assert first.real.tolist() == [True] * 3
    assert second.x.shape == (1, 3)


def test_a_partition_may_replace_the_inputs() -> None:
    (only,) = shard.shards(dataset(), Partition([np.array([2, 5])], x=-dataset().x_train))
    assert only.x.tolist() == [[-6, -7, -8], [-15, -16, -17]]
    assert only.y.tolist() == [2, 5]


def test_an_empty_node_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^`partition` must give .* row; got none for node 1. Use fewer nodes.$"):
        shard.shards(dataset(), Partition([np.array([4]), np.array([], dtype=np.int64)]))


def test_join_puts_rows_end_to_end_and_stacks_the_rest() -> None:
    a, b = federation.shards([2, 3])
    joined = shard.join([{"rows": a, "loss": torch.tensor(0.3)}, {"rows": b, "loss": torch.tensor(0.4)}])
    assert_same(joined["rows"], Shard(*(torch.cat(pair) for pair in zip(a, b, strict=True))))
    assert_same(joined["loss"], torch.tensor([0.3, 0.4]))


def test_join_pads_unequal_messages_without_a_mask() -> None:
    joined = shard.join([torch.tensor([1.0]), torch.tensor([2.0, 3.0])])
    assert joined.tolist() == [[1, 0], [2, 3]]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_trim_takes_back_the_padding_of_a_stack(rows: list[int]) -> None:
    data = [{"data": part, "n": part.real.sum()} for part in federation.shards(rows)]
    assert_same([shard.trim(padded) for padded in trees.unstack(trees.stack(data), len(data))], data)


def test_trim_goes_by_the_mask_wherever_its_rows_are() -> None:
    (data,) = federation.shards([5])
    kept = shard.trim(data._replace(real=torch.tensor([False, True, True, False, True])))
    assert_same(kept, Shard(data.x[[1, 2, 4]], data.y[[1, 2, 4]], torch.ones(3, dtype=torch.bool)))


def test_a_masked_tuple_inside_another_goes_by_its_own_mask() -> None:
    inner = Rows({}, None, torch.tensor([True, True, False, False, True]))._replace(parts={"a": torch.arange(5)})
    outer = Rows({"b": torch.arange(3) + 10}, [inner], torch.tensor([False, True, True]))
    cut = shard.trim((outer, torch.arange(2)))
    assert cut[0].parts["b"].tolist() == [11, 12]
    assert cut[0].inner[0].parts["a"].tolist() == [0, 1, 4]
    assert cut[0].inner[0].real.tolist() == [True] * 3
    assert cut[1].tolist() == [0, 1]
    full = outer._replace(real=torch.ones(3, dtype=torch.bool))
    assert shard.trim(full).parts["b"].tolist() == [10, 11, 12]
    assert shard.trim(full).inner[0].parts["a"].tolist() == [0, 1, 4]


def test_the_form_of_a_tree_tells_all_but_numbers_and_how_many_rows_there_are() -> None:
    def message(rows: int, width: int = 3, dtype: torch.dtype = torch.float32) -> Any:
        part = Rows({"x": torch.ones(rows, width, dtype=dtype)}, (), torch.ones(rows, dtype=torch.bool))
        return {"rows": part, "w": torch.zeros(2, 5), "count": 1}

    right = shard.form(message(4))
    assert right == shard.form(message(4)) == shard.form(message(6)) == shard.form({**message(4), "count": 2})
    assert shard.form(message(4), whole=True) != shard.form(message(6), whole=True)
    others = [message(4, width=2), message(4, dtype=torch.float64), message(4)["rows"], {**message(4), "more": 1}]
    others += [{**message(4), "w": w} for w in (torch.zeros(5, 2), torch.zeros(10), torch.zeros(2, 6), 1.0)]
    assert all(shard.form(other) not in (right, None) for other in others)
    assert len({right, *map(shard.form, others)}) == 1 + len(others)
    assert shard.form({"a": 1, "b": [None, "text"]}) is None
