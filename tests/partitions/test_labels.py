"""The partitions that look at labels: how skewed they are, and what becomes of every class."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedtangent.partitions.by_class import by_class
from fedtangent.partitions.dirichlet import dirichlet
from fedtangent.partitions.papers_dirichlet import papers_dirichlet


def balanced(classes: int, each: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(classes * each, 2), torch.arange(classes).repeat(each)


def top_class_share(index: list[np.ndarray], y: Tensor) -> float:
    return float(np.mean([np.bincount(y.numpy()[rows]).max() / len(rows) for rows in index]))


def test_dirichlet_is_skewed_at_small_alpha_and_even_at_large() -> None:
    x, y = balanced(10, 600)
    skewed, even = (dirichlet(x, y, 30, np.random.default_rng(1), alpha=alpha).index for alpha in (0.1, 1e4))
    assert top_class_share(skewed, y) > 0.5
    assert top_class_share(even, y) < 0.13
    assert max(map(len, even)) - min(map(len, even)) < 30


def test_dirichlet_moves_one_row_of_the_largest_node_to_each_empty_one() -> None:
    x, y = balanced(2, 20)
    sizes = sorted(len(rows) for rows in dirichlet(x, y, 9, np.random.default_rng(2), alpha=1e-9).index)
    # At this alpha each of the two classes falls to a single node, which then gives rows away.
    assert sizes[:7] == [1] * 7
    assert sum(sizes) == 40


def test_papers_dirichlet_overlaps_and_has_the_papers_statistics() -> None:
    x, y = balanced(10, 6000)
    index = papers_dirichlet(x, y, 300, np.random.default_rng(3)).index
    drawn = np.concatenate(index)
    # The papers' own splits of Fashion-MNIST: 194 to 199 rows a client, 37,882 of 60,000 used, top class 66 %.
    assert {len(rows) for rows in index} <= set(range(191, 201))
    assert 36_000 < len(np.unique(drawn)) < 40_000 < len(drawn)
    assert 0.6 < top_class_share(index, y) < 0.72
    assert all(len(np.unique(rows)) == len(rows) for rows in index)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_papers_dirichlet_is_the_procedure_typed_literally(size: int, seed: int) -> None:
    x, y = balanced(3, 17)
    for rows in papers_dirichlet(x, y, 5, np.random.default_rng(seed), alpha=0.7, size=size).index:
        counts = np.bincount(y.numpy()[rows], minlength=3)
        # floor(size q_c) of three classes loses less than three rows; a class has 17; a node has at least one.
        assert counts.max() <= min(size, 17)
        assert len(rows) >= 1
        assert len(rows) > size - 3 or counts.max() == 17
        assert len(rows) <= size


def test_a_size_below_one_is_an_error() -> None:
    x, y = balanced(3, 17)
    with pytest.raises(ValueError, match="`size` must be at least 1; got 0"):
        papers_dirichlet(x, y, 5, np.random.default_rng(0), size=0)


@given(
    sizes=st.lists(st.integers(8, 40), min_size=2, max_size=7),
    nodes=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    pick=st.data(),
)
def test_by_class_gives_every_node_its_classes_and_uses_every_row(
    sizes: list[int], nodes: int, seed: int, pick: Any
) -> None:
    classes = pick.draw(st.integers(1, len(sizes)))
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    index = by_class(torch.zeros(len(y), 2), y, nodes, np.random.default_rng(seed), classes=classes).index
    assert [len(np.unique(y.numpy()[rows])) for rows in index] == [classes] * nodes
    rows = np.concatenate(index)
    assert len(np.unique(rows)) == len(rows)
    # Every class that somebody holds is used up; all are held when there are enough places.
    held = np.unique(y.numpy()[rows])
    assert len(rows) == sum(sizes[label] for label in held)
    assert len(held) == min(len(sizes), nodes * classes)


def test_by_class_mixes_the_pairs_of_classes() -> None:
    x, y = balanced(10, 600)
    index = by_class(x, y, 100, np.random.default_rng(4)).index
    pairs = {tuple(np.unique(y.numpy()[rows])) for rows in index}
    assert len(pairs) > 25  # of 45
    assert {len(rows) for rows in index} == {60}


@pytest.mark.parametrize("classes", [0, 5])
def test_more_classes_than_the_data_have_is_an_error(classes: int) -> None:
    x, y = balanced(4, 9)
    with pytest.raises(
        ValueError, match=f"`classes` must be from 1 to the number of classes in the data, 4; got {classes}"
    ):
        by_class(x, y, 5, np.random.default_rng(0), classes=classes)


def test_too_few_rows_for_the_classes_is_an_error() -> None:
    y = torch.tensor([0] * 30 + [1, 2])
    with pytest.raises(
        ValueError, match="`classes` must leave every node a row of each of its classes; got 2 for 5 nodes"
    ):
        by_class(torch.zeros(32, 2), y, 5, np.random.default_rng(0), classes=2)


def test_labels_need_not_be_consecutive() -> None:
    x, y = balanced(3, 8)
    for rows in by_class(x, 100 * y - 7, 6, np.random.default_rng(0), classes=1).index:
        assert len(torch.unique(y[rows])) == 1
