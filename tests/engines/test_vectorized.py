from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedtangent import trees
from fedtangent.engines.vectorized import vectorized
from tests import federation
from tests.federation import assert_close, assert_same

NODE_BYTES = {0: 40, 1: 10, 2: 70, 3: 20, 4: 50, 5: 20}


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (0, [[2], [4], [0], [3], [5], [1]]),
        (80, [[2], [4], [0, 3], [5, 1]]),  # padded to its largest, a chunk of 4 and 0 would take 100
        (100, [[2], [4, 0], [3, 5, 1]]),
        (140, [[2, 4], [0, 3, 5], [1]]),
        (420, [[2, 4, 0, 3, 5, 1]]),
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


def test_identical_objects_are_shared_not_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked: list[int] = []
    original = trees.stack
    monkeypatch.setattr(trees, "stack", lambda parts: stacked.append(id(parts[0])) or original(parts))  # type: ignore[func-returns-value]
    w, x, y = {"w": torch.rand(3)}, torch.rand(2, 3), torch.rand(2)
    rows = [(w, x[0], y[0]), (w, x[1], y[1])]
    found = vectorized().call(lambda w, x, y: w["w"] @ x + y, rows)
    assert stacked == [id(rows[0][1]), id(rows[0][2])]
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
