"""Many trees at once: the same numbers as tree by tree, in a number of tensor operations that no count changes."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedtangent import many, shard, trees
from fedtangent.federation import Graph, Inbox
from fedtangent.shard import Shard
from tests import tiny_federation as federation
from tests.tiny_federation import assert_same

RANDOM = torch.Generator().manual_seed(0)


class Odd(NamedTuple):
    """A tuple of trees."""

    w: dict[str, Tensor]
    rest: Any


def rows(count: int, real: int) -> Shard:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count, generator=RANDOM)[:real]] = True
    return Shard(torch.rand(count, 3, generator=RANDOM), torch.arange(count), mask)


def tree() -> Any:
    return Odd({"b": torch.rand(2, generator=RANDOM), "a": torch.rand((), generator=RANDOM)}, ((), [torch.arange(3)]))


COLUMNS: dict[str, Callable[[], list[Any]]] = {
    "trees": lambda: [tree() for _ in range(70)],
    "shared": lambda: [*[tree()] * 50, *[tree()] * 30],
    "two": lambda: [tree(), tree()],
    "unequal rows": lambda: [rows(n, n) for n in (3, 1, 7, 2)],
    "unequal squares": lambda: [{"k": torch.rand(n, n)} for n in (3, 1, 7)],
    "types": lambda: [torch.rand(2), torch.rand(3, dtype=torch.float64)],
    "large": lambda: [{"w": torch.rand(70, 70)} for _ in range(3)],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_stacked_is_what_trees_stack_gives(name: str) -> None:
    column = COLUMNS[name]()
    assert_same(many.stacked(column), trees.stack(column))


@pytest.mark.parametrize("reals", [(5, 5, 5), (5, 2, 0)])
def test_unstacked_is_trimmed(reals: tuple[int, ...]) -> None:
    whole = trees.stack([(rows(5, real), tree(), Inbox(rows(4, real % 4), torch.rand(4) < 0.5)) for real in reals])
    assert_same(many.unstacked(whole, 3), [shard.trim(part) for part in trees.unstack(whole, 3)])


@pytest.mark.parametrize("tree", [(), {}, ((), {"a": ()})])
def test_trees_of_nothing(tree: Any) -> None:
    assert many.unstacked(tree, 3) == [tree] * 3


@pytest.mark.parametrize("name", ["trees", "unequal rows", "unequal squares"])
def test_joined_is_what_shard_join_gives(name: str) -> None:
    column = COLUMNS[name]()
    groups = [column[:2], column[2:3], column[1:]]
    assert_same(many.joined(groups), [shard.join(group) for group in groups])


@pytest.mark.parametrize("make", [tree, lambda: OrderedDict(a=torch.rand(3)), lambda: {"w": torch.rand(70, 70)}])
def test_weighted_sums_are_bit_for_bit_those_of_each(make: Callable[[], Any]) -> None:
    values = [make() for _ in range(9)]
    groups = [[values[(i + j * j) % 9] for j in range(1 + i % 3)] for i in range(40)]
    weights = [[1 / (k + 2) for k in range(len(group))] for group in groups]
    weights[7] = [0.3] * len(groups[7])
    one_by_one = [trees.weighted_sum(group, its) for group, its in zip(groups, weights, strict=True)]
    assert_same(many.weighted_sums(groups, weights), one_by_one)


def test_what_is_not_finite_is_found_and_what_overflows_only_in_its_sum_is_not() -> None:
    most = torch.finfo(torch.float32).max
    values = [{"w": torch.tensor(pair), "n": torch.tensor(1)} for pair in ([1.0, 2], [most, most], [torch.nan, 0])]
    assert many.are_finite(values) == [True, True, False]


def test_a_mix_of_many_nodes_is_the_gossip_matrix_times_values() -> None:
    nodes = 300
    graph = Graph([*((i, (i + 1) % nodes) for i in range(nodes)), *((0, i) for i in range(3, 50))], nodes)
    x = torch.rand(nodes, 5, dtype=torch.float64, generator=RANDOM)
    for weights in ("uniform", "metropolis"):
        fleet = federation.fleet(nodes, graph=graph, gossip_weights=weights)
        mixed = fleet.mix(fleet.each([{"w": row} for row in x])).values
        expected = torch.from_numpy(graph.gossip(weights)) @ x  # type: ignore[arg-type]
        torch.testing.assert_close(torch.stack([own["w"] for own in mixed]), expected, rtol=1e-13, atol=1e-13)


class _Calls(TorchFunctionMode):
    """Counts torch's functions, but for looks at a tensor's attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        looks = ("__get__", "__len__", "numel", "is_contiguous", "dim", "storage_offset", "stride", "untyped_storage")
        self.count += name not in looks
        return function(*args, **(kwargs or {}))


def test_a_mix_takes_as_many_operations_for_many_nodes_as_for_some() -> None:
    def operations(nodes: int) -> int:
        graph = Graph([(i, (i + 1) % nodes) for i in range(nodes)], nodes)
        fleet = federation.fleet(nodes, graph=graph)
        x_k = fleet.each([{"w": row} for row in torch.rand(nodes, 5)])
        with _Calls() as calls:
            _ = fleet.mix(x_k).values
        return calls.count

    assert 0 < operations(100) == operations(1000)


def test_a_draw_of_many_nodes_has_every_nodes_own_numbers() -> None:
    fleet = federation.fleet(40, round=3)
    drawn = fleet.draw(
        lambda rng, _: torch.tensor([rng.integers(9), rng.integers(2**32)]), fleet.everywhere(()), purpose="x"
    )
    expected = [
        (rng.integers(9), rng.integers(2**32)) for rng in (federation.philox("x", 3, node) for node in range(40))
    ]
    assert [tuple(value.tolist()) for value in drawn.values] == expected


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (0.5, 2.0, 0.25, 3.0)])
@pytest.mark.parametrize("most", [many.AT_ONCE, 10])
def test_on_an_accelerator_sums_are_of_all_at_once(
    weights: tuple[float, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here every tree is taken for one of an accelerator."""
    whole = torch.rand(4, 3, 2**13, dtype=torch.float64)
    values = [{"large": row, "turned": row.mT[:3], "rows": torch.tensor(i + 3)} for i, row in enumerate(whole)]
    expected = trees.weighted_sum(values, weights)
    monkeypatch.setattr(many, "_launches", lambda tree: True)
    monkeypatch.setattr(many, "AT_ONCE", most)
    (found,) = many.weighted_sums([values], [weights])
    assert found["rows"].dtype == expected["rows"].dtype
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-14, atol=0)
    assert many.are_finite([*values, {**values[0], "large": whole[0] / 0}]) == [True] * 4 + [False]


def test_numbers_of_nodes_are_read_at_once() -> None:
    assert many.floats([torch.tensor(2), torch.tensor([3])[0], torch.tensor(1)]) == [2.0, 3.0, 1.0]
    assert many.floats([torch.tensor(2), 0.5, torch.tensor(1.5)]) == [2.0, 0.5, 1.5]
    assert many.floats([]) == []


def test_trimmed_is_trim_of_each() -> None:
    class Pair(NamedTuple):
        inner: Any
        y: Tensor
        real: Tensor

    def pair(outer: list[bool], inner: list[bool]) -> Pair:
        count = len(inner)
        shard_ = Shard(torch.arange(2.0 * count).reshape(count, 2), torch.arange(count), torch.tensor(inner))
        return Pair(shard_, torch.arange(len(outer)), torch.tensor(outer))

    whole = [pair([True, True], [True] * 3), pair([True], [True] * 2)]
    assert many.trimmed(whole) is whole
    padded = [whole[0], pair([True, False], [True, False, True])]
    for found, value in zip(many.trimmed(padded), padded, strict=True):
        assert_same(found, shard.trim(value))
    assert len(many.trimmed(padded)[1].inner.y) == 2
    inside = [whole[0], pair([True], [True, False])]
    assert len(many.trimmed(inside)[1].inner.y) == 1


def test_moved_is_to_of_each() -> None:
    values = [{"a": torch.rand(i, 2), "b": (torch.tensor(i), torch.rand(3).bool())} for i in range(4)]
    for found, value in zip(many.moved(values, "cpu"), values, strict=True):
        assert_same(found, value)
    other = [*values, {"a": torch.rand(1)}]  # of another structure
    for found, value in zip(many.moved(other, "cpu"), other, strict=True):
        assert_same(found, value)
    assert many.moved([], "cpu") == []
