from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedtangent import many, trees
from fedtangent.engines.vectorized import vectorized
from fedtangent.many import stacked
from fedtangent.shard import Dataset, Partition, shards
from tests import tiny_federation as federation
from tests.tiny_federation import assert_close, assert_same

NODE_BYTES = {0: 40, 1: 10, 2: 70, 3: 20, 4: 50, 5: 20}


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (0, [[2], [4], [0], [3], [5], [1]]),
        (80, [[2], [4], [0, 3], [5, 1]]),  # padded to its largest, a chunk of 4 and 0 would take 100
        (100, [[2], [4, 0], [3, 5, 1]]),
        (140, [[2, 4], [0, 3, 5], [1]]),
        (420, [[2, 4, 0], [3, 5, 1]]),  # 3 would be padded to more than twice its own
    ],
)
def test_nodes_of_similar_size_go_together_within_the_budget(memory: int, expected: list[list[int]]) -> None:
    assert vectorized(memory).chunks(tuple(range(6)), NODE_BYTES) == expected


@given(st.dictionaries(st.integers(0, 30), st.integers(0, 99), min_size=1), st.integers(0, 400), st.randoms())
def test_the_chunk_plan_is_pure_and_covers_every_node_once(
    node_bytes: dict[int, int], memory: int, random: Any
) -> None:
    nodes = list(node_bytes)
    plan = vectorized(memory).chunks(nodes, node_bytes)
    assert sorted(node for chunk in plan for node in chunk) == sorted(nodes)
    for chunk in plan:
        assert len(chunk) == 1 or len(chunk) * max(node_bytes[node] for node in chunk) <= memory
    random.shuffle(nodes)
    assert vectorized(memory).chunks(nodes, node_bytes | {99: 7}) == plan


def test_nodes_of_unknown_size_go_together() -> None:
    assert vectorized(0).chunks((3, 1, 2), {}) == [[1, 2, 3]]


def test_unequal_rows_are_padded_and_cut_again() -> None:
    data = federation.shards()
    sizes: list[int] = []

    def twice(shard: Any) -> Any:
        sizes.append(len(shard.x))
        return shard._replace(x=2 * shard.x), torch.where(shard.real[:, None], shard.x, 0).sum(0)

    found = vectorized().call(twice, [(part,) for part in data])
    assert sizes == [max(federation.ROWS)]  # once, for all
    for (shard, total), part in zip(found, data, strict=True):
        assert_same(shard, part._replace(x=2 * part.x))
        assert_close(total, part.x.sum(0))


def test_identical_objects_are_shared_notstacked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(many, "stacked", lambda parts: seen.append(id(parts[0])) or stacked(parts))  # type: ignore[func-returns-value]
    w, x, y = {"w": torch.rand(3)}, [torch.rand(3), torch.rand(3)], [torch.rand(()), torch.rand(())]
    rows = [(w, x[0], y[0]), (w, x[1], y[1])]
    found = vectorized().call(lambda w, x, y: w["w"] @ x + y, rows)
    assert seen == [id(rows[0][1]), id(rows[0][2])]
    assert_close(found, [w["w"] @ x[0] + y[0], w["w"] @ x[1] + y[1]], 1e-6)


def test_what_is_the_same_for_all_is_computed_once() -> None:
    calls: list[int] = []
    w = torch.rand(3)

    def norm(w: Tensor) -> Tensor:
        calls.append(1)
        return w @ w

    found = vectorized().call(norm, [(w,)] * 4)
    assert len(calls) == 1
    assert_same(found, [w @ w] * 4)


def test_a_chunk_of_one_is_a_plain_call() -> None:
    def plain(x: Tensor) -> Tensor:
        return x if x.item() > 0 else -x  # .item() is what vmap cannot do

    assert vectorized().call(plain, [(torch.tensor(-2.0),)]) == [2]
    with pytest.raises(RuntimeError):
        vectorized().call(plain, [(torch.tensor(-2.0),), (torch.tensor(3.0),)])


def test_a_chunk_of_one_holds_real_rows_only() -> None:
    (data,) = federation.shards([4])
    (found,) = vectorized().call(lambda data: data._replace(real=torch.arange(4) < 3), [(data,)])
    assert_same(found.y, data.y[:3])


WHOLE = torch.arange(60.0).view(5, 3, 4)
LAYOUTS = {
    "results of an earlier call": list(WHOLE),
    "every other one": [WHOLE[0], WHOLE[2], WHOLE[4]],
    "the same": [WHOLE[1], WHOLE[1]],
    "columns": list(WHOLE.unbind(2)),
    "overlapping": [WHOLE.flatten()[0:5], WHOLE.flatten()[2:7]],
}
SCATTERED = {
    "backwards": [WHOLE[2], WHOLE[1]],
    "uneven": [WHOLE[0], WHOLE[1], WHOLE[3]],
    "of another memory": [WHOLE[0], WHOLE.clone()[1]],
    "of other strides": [WHOLE[0, :, :3], WHOLE[1, :, :3].mT],
    "of other sizes": [WHOLE[0], WHOLE[1, :2]],
    "empty": [WHOLE[0, :0], WHOLE[1, :0]],
    "of another type": [WHOLE.int().view(torch.float32)[0], WHOLE.int()[1]],
}


@pytest.mark.parametrize("name", [*LAYOUTS, *SCATTERED])
def test_what_lies_evenly_in_one_memory_is_not_copied(name: str) -> None:
    parts = (LAYOUTS | SCATTERED)[name]
    found, expected = stacked([{"w": part} for part in parts])["w"], trees.stack(parts)
    assert torch.equal(found, expected)
    assert (found.untyped_storage().data_ptr() == WHOLE.untyped_storage().data_ptr()) == (name in LAYOUTS)


def test_results_and_shards_are_taken_up_where_they_lie() -> None:
    results = vectorized().call(lambda x: 2 * x, [(part,) for part in torch.rand(4, 3)])
    x = torch.arange(21.0).view(7, 3)
    whole = Dataset("toy", x, torch.arange(7), x, torch.arange(7), 7)
    data = shards(whole, Partition([np.array([4, 1, 4]), np.array([0, 6, 3]), np.array([2, 5, 5])]))
    for parts in (results, [part.x for part in data], [part.y for part in data]):
        assert stacked(parts).data_ptr() == parts[0].data_ptr()


def test_a_large_neighbour_pads_no_small_one_where_that_costs_more_than_a_call() -> None:
    calls: list[tuple[int, ...]] = []

    def sums(rows: Tensor) -> Tensor:
        calls.append(tuple(rows.shape))
        return rows.sum(0)

    rows = [torch.rand(size, 2**10, dtype=torch.float64) for size in (1, 900, 2, 2, 800, 1)]
    found = vectorized(2**30).call(sums, [(row,) for row in rows])
    assert calls == [(900, 2**10), (2, 2**10)]  # every call sees what its largest needs, once under vmap
    for one, row in zip(found, rows, strict=True):
        assert_close(one, row.sum(0))
