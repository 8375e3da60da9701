"""torch_dataset: any two map-style torch Datasets of pairs (x, y); from Python only."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtangent.datasets._check import checked
from fedtangent.datasets._scale import scaled
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.shard import Dataset


def torch_dataset(train: Any, test: Any, *, name: str = "custom", classes: int = 0) -> Dataset:
    """The rows of two torch Datasets, read once into memory.

    Integer `y` are labels from 0, floating-point `y` targets of a regression. 8-bit `x` are standardised images, other
    `x` are taken as they are, in float32. Random transforms are drawn once, here.

    Args:
        train: A map-style torch Dataset of pairs (x, y), such as torchvision's with `transforms.ToTensor()`.
        test: As `train`.
        name: What the record calls it.
        classes: How many classes the labels number from 0; 0 takes as many as the training labels show. Give it where
            the training rows lack some.

    Raises:
        TypeError: A Dataset without a length, or whose items are not pairs of numbers.
        ValueError: Rows of different shapes, or what `checked` refuses.
    """
    x_train, y_train = _rows("train", train)
    x_test, y_test = _rows("test", test)
    x_train, x_test = scaled(x_train, x_test)
    return checked(Dataset(name, x_train, y_train, x_test, y_test, classes))


def _rows(split: str, data: Any) -> tuple[Tensor, Tensor]:
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise SettingTypeError(
            f"`{split}` must be a map-style torch Dataset, with a length and items; got {type(data).__name__}. "
            "Put an iterable one's rows into a list."
        )
    if len(data) == 0:
        raise SettingError(f"`{split}` must have at least one row; got none. Give it some.")
    pairs = [_pair(split, _item(split, data, row)) for row in range(len(data))]
    return _stack(split, "x", [x for x, _ in pairs]), _stack(split, "y", [y for _, y in pairs])


def _item(split: str, data: Any, row: int) -> Any:
    try:
        return data[row]
    except KeyError as error:  # as of a dict or a data frame
        raise SettingTypeError(
            f"`{split}` must have items 0 to {len(data) - 1}, as a map-style torch Dataset has; got "
            f"{type(data).__name__} without {row}. Put its rows into a list of pairs (x, y)."
        ) from error


def _pair(split: str, item: Any) -> tuple[Tensor, Tensor]:
    try:
        if not isinstance(item, (tuple, list)):  # a tensor of two rows would unpack, wrongly
            raise TypeError(f"an item of type {type(item).__name__}")
        x, y = item
        if not isinstance(x, (Tensor, np.ndarray, list, tuple, float, int)):
            raise TypeError(f"an x of type {type(x).__name__}")
        return _own(x), _own(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingTypeError(
            f"`{split}` must yield pairs (x, y) of numbers; got {error}. Convert images with transforms.ToTensor(), "
            "number classes, and give several inputs as a Dataset of tensors."
        ) from error


def _own(value: Any) -> Tensor:
    """A copy, since the next item may be written where this one is; and torch warns of memory that is read alone."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    return value.detach().clone() if isinstance(value, Tensor) else torch.as_tensor(value)


def _stack(split: str, part: str, rows: list[Tensor]) -> Tensor:
    odd = next((row for row, value in enumerate(rows) if value.shape != rows[0].shape), None)
    if odd is not None:
        raise SettingError(
            f"`{split}` must yield every {part} in one shape, {tuple(rows[0].shape)} like row 0; "
            f"got {tuple(rows[odd].shape)} in row {odd}. Crop, pad or resize the rows."
        )
    return torch.stack(rows)
