"""Any two map-style torch Datasets become one of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from fedtangent.datasets.torch_dataset import torch_dataset

X = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([1, 0, 2, 1, 1, 0, 2, 0, 1])


def test_rows_and_labels() -> None:
    data = torch_dataset(TensorDataset(X[:6], Y[:6]), TensorDataset(X[6:], Y[6:]), name="ours")
    assert data.name == "ours" and data.classes == 3
    torch.testing.assert_close(data.x_train, X[:6].float())
    assert torch.equal(data.y_test, Y[6:]) and torch_dataset([(X[0], 0)], [(X[1], 0)]).name == "custom"


def test_python_labels_and_numpy_inputs() -> None:
    rows = [(x.numpy(), int(y)) for x, y in zip(X, Y, strict=True)]
    data = torch_dataset(rows[:6], rows[6:])
    assert data.classes == 3 and data.y_train.tolist() == Y[:6].tolist()


def test_a_class_that_only_test_rows_have() -> None:
    rows = [(x, int(y)) for x, y in zip(X, Y, strict=True)]
    train, test = [row for row in rows if row[1] < 2], rows
    with pytest.raises(ValueError, match=r"^`y_test` must hold labels from 0 to 1; got 2\..* as `classes`"):
        torch_dataset(train, test)
    assert torch_dataset(train, test, classes=3).classes == 3


class Reused:
    """Rows that are all written into the same memory."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> Any:
        self.memory[:] = row + 1
        return self.memory, row % 2


@pytest.mark.parametrize("memory", [np.zeros(3), np.zeros(3, dtype=">f4"), torch.zeros(3)])
def test_rows_in_memory_that_is_used_again(memory: Any) -> None:
    data = torch_dataset(Reused(memory), Reused(memory))
    assert data.x_train.tolist() == data.x_test.tolist() == [[row + 1] * 3 for row in range(4)]


def test_rows_that_are_read_from_a_file_as_they_are_needed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    held = np.load(tmp_path / "x.npy", mmap_mode="r")  # of which torch would warn
    data = torch_dataset([(held[row], int(Y[row])) for row in range(6)], [(held[row], 0) for row in range(6, 9)])
    torch.testing.assert_close(data.x_train, X[:6].float())


def test_regression() -> None:
    rows = [(x, float(x.sum())) for x in X]
    data = torch_dataset(rows[:6], rows[6:])
    assert data.classes == 0 and data.y_train.shape == (6, 1)


def test_8_bit_images_are_standardised() -> None:
    rows = [((x.abs() * 40).to(torch.uint8), int(y)) for x, y in zip(X, Y, strict=True)]
    assert torch_dataset(rows[:6], rows[6:]).x_train.std(correction=0).item() == pytest.approx(1, abs=1e-5)


class Stream(IterableDataset[Any]):
    """Rows without a length."""

    def __iter__(self) -> Iterator[Any]:
        """Yields nothing."""
        return iter(())


GOOD = TensorDataset(X, Y)


@pytest.mark.parametrize(
    ("train", "test", "error", "message"),
    [
        (Stream(), GOOD, TypeError, r"^`train` must be a map-style torch Dataset.*got Stream"),
        (GOOD, [], ValueError, r"^`test` must have at least one row; got none"),
        ({"x": [1]}, GOOD, TypeError, r"^`train` must have items 0 to 0, as a map-style .*; got dict without 0\. Put"),
        ([("a", 1)], GOOD, TypeError, r"^`train` must yield pairs \(x, y\) of numbers; got an x of type str.*ToTensor"),
        ([X[0]], GOOD, TypeError, r"^`train` must yield pairs \(x, y\) of numbers; got an item of type Tensor"),
        ([(X[0], "a")], GOOD, TypeError, r"^`train` must yield pairs \(x, y\) of numbers; got .* number classes, and"),
        (GOOD, [(X[0], 1), (X[0, :1], 1)], ValueError, r"^`test` must yield every x in one shape.*\(1, 3\) in row 1"),
        (GOOD, [(X[0] * torch.nan, 1)], ValueError, r"^`x_test` must hold finite float32 numbers; got 6"),
        (GOOD, [(X[0], 3)], ValueError, r"^`y_test` must hold labels from 0 to 2; got 3"),
    ],
)
def test_one_sentence_names_what_is_wrong(train: Any, test: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torch_dataset(train, test)
