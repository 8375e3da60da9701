import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.partitions.index_file import index_file
from fedtangent.shard import Partition

PAPERS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "partitions"


def read(path: Path, nodes: int = 3, samples: int = 10) -> Partition:
    return index_file(torch.zeros(samples, 2), torch.zeros(samples), nodes, np.random.default_rng(0), path=path)


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "index.npz", **arrays)
    return folder / "index.npz"


def text(folder: Path, content: str) -> Path:
    (folder / "index.json").write_text(content)
    return folder / "index.json"


def test_both_formats_give_the_rows_in_the_order_of_the_file(tmp_path: Path) -> None:
    expected = [[4, 1], [9], [1, 0, 3]]
    indices = np.array([4, 1, 9, 1, 0, 3], dtype=np.uint16)
    from_npz = read(npz(tmp_path, indices=indices, offsets=np.array([0, 2, 3, 6], dtype=np.int32)))
    from_json = read(text(tmp_path, json.dumps(expected)))
    for partition in (from_npz, from_json):
        assert [rows.tolist() for rows in partition.index] == expected
        assert all(rows.dtype == np.int64 for rows in partition.index)
        assert partition.x is None


def test_the_path_may_be_a_string(tmp_path: Path) -> None:
    x = torch.zeros(5, 2)
    path = str(text(tmp_path, "[[3], [4]]"))
    assert len(index_file(x, x, 2, np.random.default_rng(0), path=path).index) == 2


@pytest.mark.parametrize(
    ("name", "drawn", "unique"),
    [
        ("fashion_mnist_300_alpha0.1_0", 59_218, 37_882),
        ("fashion_mnist_300_alpha0.5_0", 58_604, 37_411),
        ("fashion_mnist_300_iid_0", 60_000, 60_000),
    ],
)
def test_the_papers_own_splits(name: str, drawn: int, unique: int) -> None:
    path = PAPERS / f"{name}.npz"
    if not path.is_file():
        pytest.skip("the papers' index files are not beside this checkout")
    rows = np.concatenate(read(path, nodes=300, samples=60_000).index)
    assert (len(rows), len(np.unique(rows))) == (drawn, unique)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`path` must name a file that exists; got"):
        read(tmp_path / "none.npz")


def test_another_ending_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`path` must end in .npz or .json; got .*index.pkl"):
        read(tmp_path / "index.pkl")


def test_another_number_of_nodes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`nodes` must be the number of nodes in index.json, 2; got 3"):
        read(text(tmp_path, "[[3], [4]]"))


def test_an_empty_node_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`path` must give every node a row; got none for node 1 in index\.json"):
        read(text(tmp_path, "[[3], [], [4]]"))
    with pytest.raises(ValueError, match=r"`path` must give every node a row; got none for node 2 in index\.npz"):
        read(npz(tmp_path, indices=np.arange(4), offsets=np.array([0, 1, 4, 4])))


@pytest.mark.parametrize("row", [-1, 10])
def test_a_row_that_does_not_exist_is_an_error(tmp_path: Path, row: int) -> None:
    with pytest.raises(ValueError, match=f"`path` must list rows from 0 to 9; got {row} for node 2 in index.json"):
        read(text(tmp_path, f"[[3], [1], [4, {row}]]"))


def test_a_row_beyond_int64_is_an_error(tmp_path: Path) -> None:
    huge = np.array([1, 2, 2**64 - 1], dtype=np.uint64)
    with pytest.raises(ValueError, match="`path` must list rows from 0 to 9; got 18446744073709551615 for node 2"):
        read(npz(tmp_path, indices=huge, offsets=np.arange(4)))


def test_missing_arrays_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`path` must hold the arrays 'indices' and 'offsets'; got KeyError"):
        read(npz(tmp_path, rows=np.arange(3)))


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="`path` must hold the arrays 'indices' and 'offsets'; got ValueError: Object arrays"
    ):
        read(npz(tmp_path, indices=np.array([{}, None, 1], dtype=object), offsets=np.arange(4)))


def test_a_torn_file_is_an_error(tmp_path: Path) -> None:
    whole = npz(tmp_path, indices=np.arange(300), offsets=np.arange(4)).read_bytes()
    for torn in (b"", whole[: len(whole) // 2], whole[:100] + b"\0" * 100 + whole[200:], b"not a zip file"):
        (tmp_path / "index.npz").write_bytes(torn)
        with pytest.raises(ValueError, match="`path` must h"):
            read(tmp_path / "index.npz")


@pytest.mark.parametrize("dtype", [np.float64, bool])
def test_rows_that_are_no_integers_are_an_error(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(ValueError, match="`path` must hold 'indices' and 'offsets' as lists of integers; got"):
        read(npz(tmp_path, indices=np.arange(3).astype(dtype), offsets=np.arange(4)))


@pytest.mark.parametrize("offsets", [[0, 2, 1, 3], [1, 2, 2, 3], [0, 1, 2, 4], [0, 1, 2], [0], []])
def test_offsets_that_do_not_rise_to_the_end_are_an_error(tmp_path: Path, offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="`path` must have 'offsets' that rise from 0 to 3, the number of indices"):
        read(npz(tmp_path, indices=np.arange(3), offsets=np.array(offsets, dtype=np.int64)))


@pytest.mark.parametrize(
    "content", ["", "{", '{"a": [1]}', "[1, 2, 3]", "[[1.0], [2], [3]]", "[[true], [2], [3]]", '[["1"], [2], [3]]', "3"]
)
def test_json_of_another_form_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match="`path` must hold one list of row numbers a node; got"):
        read(text(tmp_path, content))


def test_json_nested_too_deeply_or_with_huge_numbers_is_an_error(tmp_path: Path) -> None:
    for content in ("[" * 200_000, f"[[{2**70}], [1], [2]]"):
        with pytest.raises(ValueError, match="`path` must hold one list of row numbers a node; got"):
            read(text(tmp_path, content))
