from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedtangent import trees
from tests import tiny_federation as federation
from tests.tiny_federation import assert_close, assert_same


class Pair(NamedTuple):
    left: Any
    real: Any


def tree(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    normal = [torch.from_numpy(rng.normal(size=shape)) for shape in ((2, 3), (4,), (), (5, 1))]
    return {"b": normal[0], "a": (normal[1], [normal[2]]), "c": Pair(normal[3], None)}


def flat(tree: Any) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in trees.leaves(tree)])


def test_leaves_come_in_the_order_of_sorted_keys() -> None:
    a = tree(1)
    assert [id(leaf) for leaf in trees.leaves(a)] == [id(a["a"][0]), id(a["a"][1][0]), id(a["b"]), id(a["c"].left)]


def test_map_keeps_the_structure() -> None:
    doubled = trees.map(lambda x, y: x + y, tree(1), tree(1))
    assert isinstance(doubled["c"], Pair)
    assert doubled["c"].real is None
    assert_same(doubled, trees.scale(tree(1), 2))


def test_vector_space() -> None:
    a, b = tree(1), tree(2)
    x, y = flat(a), flat(b)
    assert_close(flat(trees.add(a, b)), x + y)
    assert_close(flat(trees.subtract(a, b)), x - y)
    assert_close(flat(trees.scale(a, -0.7)), -0.7 * x)
    assert_close(flat(trees.add_scaled(a, b, torch.tensor(1.3))), x + 1.3 * y, 1e-7)
    assert_close(trees.inner(a, b), x @ y)
    assert_same(flat(trees.zeros_like(a)), torch.zeros_like(x))


def test_a_weighted_sum_is_added_in_the_given_order() -> None:
    parts = [trees.map(lambda leaf: leaf.float(), tree(seed)) for seed in range(5)]
    weights = [0.1, 0.25, 0.3, 0.15, 0.2]
    expected = trees.scale(parts[0], weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        expected = trees.map(lambda x, y, alpha=weight: torch.add(x, y, alpha=alpha), expected, part)
    assert_same(trees.weighted_sum(parts, weights), expected)
    assert_close(
        flat(trees.weighted_sum(parts, weights)),
        sum(w * flat(part) for w, part in zip(weights, parts, strict=True)),
        1e-6,
    )


@pytest.mark.parametrize("taken", [True, False])
def test_where_keeps_nan_on_the_side_not_taken(taken: bool) -> None:
    a, nan = tree(1), trees.map(lambda leaf: leaf * torch.nan, tree(1))
    sides = (a, nan) if taken else (nan, a)
    assert_same(trees.where(torch.tensor(taken), *sides), a)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=5))
def test_stack_pads_at_the_ends_and_unstack_inverts(shapes: list[tuple[int, int]]) -> None:
    parts = [{"x": torch.rand(shape) + 1, "real": torch.ones(shape[0], dtype=torch.bool)} for shape in shapes]
    stacked = trees.stack(parts)
    rows, columns = (max(sizes) for sizes in zip(*shapes, strict=True))
    assert stacked["x"].shape == (len(shapes), rows, columns)
    assert stacked["real"].dtype == torch.bool
    for (n, m), part, padded in zip(shapes, parts, trees.unstack(stacked, len(shapes)), strict=True):
        assert_same(padded["x"][:n, :m], part["x"])
        assert_same(padded["real"][:n], part["real"])
        assert padded["x"].count_nonzero() == n * m
        assert padded["real"].sum() == n


def test_unstack_of_trees_of_one_shape_gives_them_back() -> None:
    parts = [tree(seed) for seed in range(3)]
    assert_same(trees.unstack(trees.stack(parts), 3), parts)
    assert trees.unstack((), 2) == [(), ()]


def test_payload_is_counted_from_real_rows() -> None:
    (data,) = federation.shards([4])
    rows = 4 * federation.INPUTS * 8 + 4 * 8
    assert trees.payload_bytes(data) == rows
    assert trees.payload_bytes({"a": [data, 1.5], "b": (None, 3)}) == rows + 16
    halves = torch.zeros(3, 5, dtype=torch.float16)
    assert trees.payload_bytes(Pair(halves, real=torch.ones(3, dtype=torch.bool))) == 30
    assert trees.payload_bytes(torch.ones(7, dtype=torch.bool)) == 7


def test_what_cannot_be_counted_is_not_sent() -> None:
    with pytest.raises(TypeError, match=r"^a message must hold tensors and numbers; got ndarray. Convert it.$"):
        trees.payload_bytes({"a": np.zeros(3)})


def test_to_casts_floating_point_leaves_only() -> None:
    moved = trees.to({"x": torch.zeros(2), "y": torch.arange(3), "name": "kept"}, "cpu", torch.float64)
    assert (moved["x"].dtype, moved["y"].dtype, moved["name"]) == (torch.float64, torch.int64, "kept")
    assert trees.to(torch.zeros(2), "meta").device.type == "meta"
    assert trees.to(torch.zeros(2, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_all_finite(bad: float) -> None:
    a = tree(1) | {"n": torch.arange(3)}
    assert trees.all_finite(a)
    a["a"][0][2] = bad
    assert not trees.all_finite(a)


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        ([1.0, -2.0], True),
        ([1.0, torch.nan], False),
        ([torch.inf, -torch.inf], False),
        ([3e38, 3e38], True),
        ([], True),
    ],
)
def test_whether_all_is_finite_as_a_plain_bool(values: list[float], fine: bool) -> None:
    assert trees.is_finite({"a": torch.tensor(values), "n": torch.tensor(3)}) is fine  # 6e38 overflows
