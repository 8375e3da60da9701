"""What every partition owes; parametrised by the folder."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedtangent.catalog import load, names
from fedtangent.shard import Partition

PARTITIONS = names("partitions")
DRAWN = [name for name in PARTITIONS if name not in ("index_file", "natural", "flwr")]
EXACT = [name for name in DRAWN if name not in ("papers_dirichlet", "iid_overlapping")]
BY_LABEL = ["dirichlet", "papers_dirichlet", "by_class"]


def drawn(name: str, x: Tensor, y: Tensor, nodes: int, seed: int, **options: Any) -> Partition:
    return load("partitions", name)(x, y, nodes, np.random.default_rng(seed), **options)  # type: ignore[no-any-return]


def data(samples: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (samples,), generator=generator)


def used(partition: Partition) -> list[int]:
    return sorted(np.concatenate(partition.index).tolist())


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=50)
@given(samples=st.integers(1, 120), seed=st.integers(0, 2**32 - 1), part=st.floats(0, 1))
def test_every_row_is_used_exactly_once_and_no_node_is_empty(name: str, samples: int, seed: int, part: float) -> None:
    nodes = 1 + round(part * (samples - 1))
    # One class lets `by_class` serve any number of nodes; several are its own tests' business.
    x, y = data(samples, 1 if name == "by_class" else 4, seed)
    partition = drawn(name, x, y, nodes, seed, **({"classes": 1} if name == "by_class" else {}))
    assert used(partition) == list(range(samples))
    assert len(partition.index) == nodes
    assert all(len(rows) and rows.dtype == np.int64 for rows in partition.index)


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_generator_gives_the_same_partition(name: str) -> None:
    x, y = data(97, 5, seed=2)
    first, again, other = (drawn(name, x, y, 7, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first.index, again.index, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first.index, other.index, strict=True))
    assert (first.x is None) == (again.x is None)
    if first.x is not None and again.x is not None:
        assert torch.equal(first.x, again.x)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("nodes", [0, -1, 12, 10**12])  # so many lists would not end
def test_more_nodes_than_rows_or_none_is_an_error(name: str, nodes: int) -> None:
    x, y = data(11, 2, seed=1)
    with pytest.raises(ValueError, match=f"`nodes` must be from 1 to the number of training rows, 11; got {nodes}"):
        drawn(name, x, y, nodes, seed=1)


@pytest.mark.parametrize("name", BY_LABEL)
def test_targets_instead_of_labels_are_a_type_error(name: str) -> None:
    x, _ = data(11, 2, seed=1)
    with pytest.raises(TypeError, match="`y` must hold one integer label a row to be divided by class; got torch"):
        drawn(name, x, x, 3, seed=1)


@pytest.mark.parametrize("name", ["dirichlet", "papers_dirichlet", "by_quantity"])
@pytest.mark.parametrize("alpha", [0.0, -0.5, float("inf"), float("nan")])
def test_alpha_that_is_not_positive_and_finite_is_an_error(name: str, alpha: float) -> None:
    x, y = data(11, 2, seed=1)
    with pytest.raises(ValueError, match=f"`alpha` must be positive and finite; got {alpha}"):
        drawn(name, x, y, 3, seed=1, alpha=alpha)


@pytest.mark.parametrize("name", ["dirichlet", "papers_dirichlet", "by_quantity"])
@given(alpha=st.floats(0, exclude_min=True, allow_infinity=False), seed=st.integers(0, 2**32 - 1))
def test_any_positive_alpha_ends_with_no_empty_node(name: str, alpha: float, seed: int) -> None:
    x, y = data(23, 3, seed)
    assert all(len(rows) for rows in drawn(name, x, y, 23, seed, alpha=alpha).index)


@pytest.mark.parametrize("name", PARTITIONS)
def test_options_are_keyword_only(name: str) -> None:
    function: Callable[..., Partition] = load("partitions", name)
    parameters = list(inspect.signature(function).parameters.values())
    assert [parameter.name for parameter in parameters[:4]] == ["x", "y", "nodes", "rng"]
    own = (
        parameters[5:] if name in ("natural", "flwr") else parameters[4:]
    )  # a fifth one is handed the data set's sites
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in own)


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_data_are_left_as_they_were(name: str, tmp_path: Path) -> None:
    x, y = data(31, 4, seed=6)
    kept = x.clone(), y.clone()
    (tmp_path / "index.json").write_text(json.dumps([[0], [1], [2]]))
    if name == "flwr":
        pytest.importorskip("flwr_datasets", reason="needs fedtangent[flwr]")
    more: dict[str, dict[str, Any]] = {"flwr": {"site": None, "partitioner": "IidPartitioner"}}
    more |= {"index_file": {"path": tmp_path / "index.json"}, "natural": {"site": y % 3}}
    drawn(name, x, y, 3, seed=1, **more.get(name, {}))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
