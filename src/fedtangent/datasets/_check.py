"""What every data set owes: rows that match, finite numbers, labels within the classes."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.shard import Dataset


def checked(dataset: Dataset) -> Dataset:
    """The data set in its standard types: inputs float32, labels int64 or targets (rows, outputs) float32.

    Integers are labels; with `classes` 0 their number is read off the training labels. Floats are targets to regress.
    Inputs that are a dict or a tuple of tensors stay one, integers among them as int64.

    Raises:
        TypeError: An array is not a dense tensor of real numbers; `classes` is no integer.
        ValueError: An empty split, shapes that do not match, NaN or infinity, a label outside the classes, or sites
            that are not one integer a row.
    """
    name, x_train, y_train, x_test, y_test, classes, site_train, schema = dataset
    classes = _whole(classes)
    x_train, x_test = _whole_inputs("x_train", x_train), _whole_inputs("x_test", x_test)
    for array, value in (("y_train", y_train), ("y_test", y_test)):
        _check_real(array, value)
    _rows_match("train", x_train, y_train)
    _rows_match("test", x_test, y_test)
    train, test = (trees.map(lambda leaf: tuple(leaf.shape[1:]), x) for x in (x_train, x_test))
    if train != test:
        raise SettingError(
            f"`x_test` must have rows of the shape of `x_train`'s, {train}; got {test}. Prepare both splits in the "
            "same way."
        )
    if y_train.is_floating_point() != y_test.is_floating_point():
        raise SettingError(
            f"`y_test` must be of the kind of `y_train`, {y_train.dtype}; got {y_test.dtype}. "
            "Use integers for labels and floats for targets in both."
        )
    x_train, x_test = _typed("x_train", x_train), _typed("x_test", x_test)
    if y_train.is_floating_point():
        y_train, y_test, classes = _targets(y_train, y_test, classes)
    else:
        y_train, y_test, classes = _labels(y_train, y_test, classes)
    return Dataset(name, x_train, y_train, x_test, y_test, classes, _sites(site_train, len(y_train)), schema)


def _whole(classes: Any) -> int:
    if not isinstance(classes, Integral) or isinstance(classes, bool):
        raise SettingTypeError(f"`classes` must be an integer; got {classes!r}. Give the number of labels, or 0.")
    if classes < 0:
        raise SettingError(f"`classes` must not be negative; got {classes}. Give the number of labels, or 0.")
    return int(classes)


def _check_real(array: str, value: Any) -> None:
    if not isinstance(value, Tensor) or value.is_complex():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise SettingTypeError(f"`{array}` must be a tensor of real numbers; got {got}. Convert it.")
    if value.layout != torch.strided:
        raise SettingTypeError(f"`{array}` must be a dense tensor; got one of {value.layout}. Call to_dense().")


def inputs(array: str, value: Any) -> Any:
    """Inputs of one split in the standard types of `checked`.

    Raises:
        TypeError: As `checked`.
        ValueError: NaN or infinity.
    """
    return _typed(array, _whole_inputs(array, value))


def _whole_inputs(array: str, value: Any) -> Any:
    """A tensor, a dict or a tuple of such."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            _check_real(f"{array}[{name!r}]", part)
        return dict(value)
    if isinstance(value, tuple) and value:
        for place, part in enumerate(value):
            _check_real(f"{array}[{place}]", part)
        return tuple(value)
    _check_real(array, value)
    return value


def _typed(array: str, value: Any) -> Any:
    """As float32; of several inputs integers as int64, and masks as they are."""
    if isinstance(value, Tensor):
        return _finite(array, value)

    def one(name: Any, part: Tensor) -> Tensor:
        if part.is_floating_point():
            return _finite(f"{array}[{name!r}]", part)
        return part if part.dtype == torch.bool else part.long()

    if isinstance(value, dict):
        return {name: one(name, part) for name, part in value.items()}
    return tuple(one(place, part) for place, part in enumerate(value))


def _sites(site_train: Tensor | None, rows: int) -> Tensor | None:
    if site_train is None:
        return None
    if not isinstance(site_train, Tensor):
        raise SettingTypeError(
            f"`site_train` must be a tensor of integers; got {type(site_train).__name__}. Convert it."
        )
    if site_train.is_floating_point() or site_train.is_complex() or site_train.shape != (rows,):
        raise SettingError(
            f"`site_train` must hold one integer for each of the {rows} rows of `x_train`; got {site_train.dtype} of "
            f"shape {tuple(site_train.shape)}. Number the sites, or leave it out."
        )
    return site_train.long()


def _rows_match(split: str, x: Any, y: Tensor) -> None:
    parts = trees.leaves(x)
    axes = 2 if isinstance(x, Tensor) else 1
    if any(part.ndim < axes or part.numel() == 0 for part in parts):
        raise SettingError(
            f"`x_{split}` must have the shape (rows, *inputs) with at least one row; got {_shapes(x)}. "
            "Give every split some rows, and a lone feature an axis of its own."
        )
    if len({len(part) for part in parts}) > 1:
        raise SettingError(
            f"`x_{split}` must have as many rows in every part; got {_shapes(x)}. Prepare them together."
        )
    x = parts[0]
    if y.ndim == 0 or len(y) != len(x):
        raise SettingError(
            f"`y_{split}` must have one row for each of the {len(x)} rows of `x_{split}`; got shape {tuple(y.shape)}. "
            "Check that inputs and labels come from the same split."
        )


def _shapes(x: Any) -> Any:
    return trees.map(lambda leaf: tuple(leaf.shape), x)


def _finite(array: str, value: Tensor) -> Tensor:
    value = value.detach().to(torch.float32)
    bad = value.numel() - int(torch.isfinite(value).sum())
    if bad:
        raise SettingError(
            f"`{array}` must hold finite float32 numbers; got {bad} that are NaN, infinite or too large. "
            "Fill in or drop these rows."
        )
    return value


def _targets(y_train: Tensor, y_test: Tensor, classes: int) -> tuple[Tensor, Tensor, int]:
    if classes:
        raise SettingError(
            f"`classes` must be 0 for targets that are floats; got {classes}. Give the labels as integers instead."
        )
    y_train, y_test = (y[:, None] if y.ndim == 1 else y for y in (y_train, y_test))
    for array, y in (("y_train", y_train), ("y_test", y_test)):
        if y.ndim != 2 or y.shape[1] == 0 or y.shape[1] != y_train.shape[1]:
            raise SettingError(
                f"`{array}` must hold targets of shape (rows, outputs), alike in both splits; got {tuple(y.shape)}. "
                "Flatten the outputs of a row."
            )
    return _finite("y_train", y_train), _finite("y_test", y_test), 0


def _labels(y_train: Tensor, y_test: Tensor, classes: int) -> tuple[Tensor, Tensor, int]:
    for array, y in (("y_train", y_train), ("y_test", y_test)):
        if y.ndim != 1:
            raise SettingError(
                f"`{array}` must hold one integer label a row; got shape {tuple(y.shape)}. "
                "Flatten it, take the argmax of one-hot rows, or use floats for regression."
            )
    y_train, y_test = y_train.long(), y_test.long()
    rows, known = len(y_train) + len(y_test), classes
    classes = classes or int(y_train.max()) + 1
    if not known and classes > rows:
        raise SettingError(
            f"`y_train` must number the classes from 0, at most one a row; got labels up to {classes - 1} in {rows} "
            "rows. Number them anew, as numpy.unique(y, return_inverse=True) does, or give the number of classes."
        )
    for array, y in (("y_train", y_train), ("y_test", y_test)):
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= classes:
            raise SettingError(
                f"`{array}` must hold labels from 0 to {classes - 1}; got {low if low < 0 else high}. "
                "Number the classes from 0, and give their number as `classes` or drop the rows of others."
            )
    return y_train, y_test, classes
