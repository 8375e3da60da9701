"""Columns: what the columns of a table mean, and the table as numbers by that; found in training rows, or agreed on.

Numbers stay as they are, texts become one column of zeros and ones a category. A number that is missing becomes the
mean of the training rows, or the number agreed on, and where training rows lack some, one more column says which. A
missing category, and one of the test rows that no training row has, is all zeros. Nothing is done about columns that
are constant, at one site or at all: sites must have the same columns.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import home
from fedtangent.datasets._arrow import column
from fedtangent.errors import SettingError
from fedtangent.extras import imported

FEW = 20  # rows: in more of them texts that name categories come again
_NUMBER = re.compile(r"[<>~$€£]?\s*[-+]?\d[\d.,' ]*\s*[%$€£]?")  # or what people write for one
_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index that has no name
_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-](\d{2}|\d{4})(?!\d)")  # in other forms than ISO's
_MONTH = r"(jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec|january|february|march|april|august|september|october"
_MONTH += r"|november|december)"
_SPELT = re.compile(  # 31-MAY-80, May 31, 2024
    rf"\d{{1,2}}[-./ ]?{_MONTH}[-./, ]*\d{{2,4}}(?!\d)|{_MONTH}[-./ ]+\d{{1,2}}[-./, ]+\d{{2,4}}(?!\d)", re.IGNORECASE
)
MOST = 1000  # categories of a column: more are a name or a number that was mistyped


class Feature(NamedTuple):
    """A column that the model sees.

    Attributes:
        name: Its name.
        categories: The texts that it chooses from; None for a number.
        missing: What stands for a missing number; None where there must be none.
        flagged: Whether one more column says where numbers were missing.
    """

    name: str
    categories: tuple[str, ...] | None = None
    missing: float | None = None
    flagged: bool = False


class Columns(NamedTuple):
    """What a table means.

    Attributes:
        features: What the model sees, in this order.
        classes: The labels' texts in the order of their numbers; none in a regression.
        given: Whether it was agreed on, so that the training rows must keep to it.
    """

    features: tuple[Feature, ...]
    classes: tuple[str, ...]
    given: bool = False

    @property
    def digest(self) -> str:
        """Of all that sites must agree on."""
        told = json.dumps([self.features, self.classes])
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    @property
    def json(self) -> dict[str, Any]:
        """As a columns file holds it."""

        def written(feature: Feature) -> Any:
            if feature.categories is not None:
                return list(feature.categories)
            return {"missing": feature.missing} if feature.flagged else "number"

        told: dict[str, Any] = {"features": {feature.name: written(feature) for feature in self.features}}
        return told | ({"classes": list(self.classes)} if self.classes else {})


def found(train: Any, features: Sequence[str], categorical: Collection[str], classes: Sequence[str]) -> Columns:
    """The columns as the training rows have them.

    Args:
        train: A pyarrow.Table.
        features: The names of those that the model sees.
        categorical: Those whose numbers are the names of categories.
        classes: Of the labels.

    Raises:
        ValueError: A column of neither numbers nor texts, or of too many different texts.
    """

    def one(name: str) -> Feature:
        if _INDEX.fullmatch(name):
            raise SettingError(
                f"`data_dir` must be without the index of pandas; got {name}. Write it with index=False, or leave "
                "that column out."
            )
        values = column(train, name, "leave_out")
        numbers = None if name in categorical else as_numbers(values)
        if numbers is not None:
            there = numbers[~np.isnan(numbers)]
            return Feature(name, None, float(there.mean()) if len(there) else 0.0, len(there) < len(numbers))
        told = [text for text in as_texts(values, name) if text is not None]
        texts = sorted(set(told))
        if name not in categorical:
            _check_texts(name, texts, len(told))
        if len(texts) > MOST:
            raise SettingError(
                f"`{name}` must be a column of numbers or of at most {MOST} different texts; got {len(texts)}, such as "
                f"{texts[0]!r}. Leave it out, or mend the cells that are no numbers."
            )
        return Feature(name, tuple(texts))

    return Columns(tuple(one(name) for name in features), tuple(classes))


def _check_texts(name: str, texts: Sequence[str], rows: int) -> None:
    """Raises for the dates of a CSV file, which tells no types, and for texts that name no categories.

    That are those of which every row has another, and numbers of which some, or all, are not written as such.
    """
    if texts and all(map(_is_date, texts)):
        raise SettingError(
            f"`{name}` must be a column of numbers or texts; got dates, such as {texts[0]!r}. Leave it out, or write "
            "its values as numbers."
        )
    odd = [text for text in texts if not _NUMBER.fullmatch(text)]
    numbers = len(texts) - len(odd)
    if len(texts) > FEW and (len(odd) <= len(texts) / 10 or numbers > max(FEW, len(odd))):
        got = odd[0] if odd else next((text for text in texts if not _reads(float, text)), texts[0])
        raise SettingError(
            f"`{name}` must hold numbers alone, with a decimal point, or texts that name categories; got {got!r} among "
            f"{len(texts)} different cells. Mend it, leave the column out, or name it in `categorical`."
        )
    if len(texts) == rows > FEW:
        raise SettingError(
            f"`{name}` must be a column of numbers or of texts that come again; got another one in every row, such as "
            f"{texts[0]!r}. Leave it out, or mend the cells that are no numbers."
        )


def _is_date(text: str) -> bool:
    return _reads(datetime.fromisoformat, text) or any(form.match(text) for form in (_DATE, _SPELT))


def _reads(read: Callable[[str], Any], text: str) -> bool:
    with suppress(ValueError):
        read(text)
        return True
    return False


def agreed(path: str | Path) -> Columns:
    """The columns that a JSON file tells: {"features": {"age": "number", "sex": ["f", "m"]}, "classes": ["no", "yes"]}.

    {"missing": 26.5} in place of "number" tells what stands for missing ones, with one more column that says where.

    Raises:
        ValueError: No such file, or another form.
    """
    path = home.path(path)
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        features, classes = told.get("features", {}), told.get("classes", [])
        if not isinstance(features, Mapping) or not isinstance(classes, list) or not {*told} <= {"features", "classes"}:
            raise ValueError("another form")
        columns = tuple(_feature(name, what) for name, what in features.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SettingError(
            f"`columns` must be a JSON file of features and classes; got {str(path)!r} ({type(error).__name__}: "
            f'{str(error)[:80]}). Write {{"features": {{"age": "number", "sex": ["f", "m"]}}, "classes": ["no"]}}.'
        ) from error
    return Columns(columns, tuple(map(str, classes)), True)


def encoded(table: Any, columns: Columns, part: str) -> np.ndarray:
    """The features as (rows, numbers), in float64.

    Args:
        table: A pyarrow.Table.
        columns: What its columns mean.
        part: train or test.

    Raises:
        ValueError: A column is missing, or holds what it must not.
    """
    parts = [block for feature in columns.features for block in _blocks(table, feature, columns.given, part)]
    if not parts:
        raise SettingError("`data_dir` must have a column beside label and site; got none. Give the model something.")
    return np.column_stack(parts)


def in_columns(
    features: Sequence[str], categorical: Collection[str], given: Columns | None, scale: bool
) -> Callable[[Any, Any, Sequence[str]], tuple[Tensor, Tensor, str]]:
    """A function of training and test rows and the classes that gives their inputs and the columns' digest.

    Args:
        features: The names of what the model sees, where nothing was agreed on.
        categorical: As of `found`.
        given: What was agreed on.
        scale: Whether numbers are scaled by the training rows' mean and deviation.
    """

    def inputs(train: Any, test: Any, classes: Sequence[str]) -> tuple[Tensor, Tensor, str]:
        meant = (
            found(train, features, categorical, classes) if given is None else given._replace(classes=tuple(classes))
        )
        x_train, x_test = encoded(train, meant, "train"), encoded(test, meant, "test")
        if scale:
            x_train, x_test = _scaled(x_train, x_test, _are_numbers(meant))
        with np.errstate(over="ignore"):  # of which `checked` tells
            inputs = [torch.from_numpy(part.astype(np.float32)) for part in (x_train, x_test)]
        return inputs[0], inputs[1], meant.digest

    return inputs


def _are_numbers(columns: Columns) -> np.ndarray:
    """Which of the encoded numbers are a number's, (numbers,) as bool; all others are zeros and ones."""
    kinds: list[bool] = []
    for feature in columns.features:
        kinds += [True] * (feature.categories is None) + [False] * (len(feature.categories or ()) + feature.flagged)
    return np.array(kinds, dtype=bool)


def _scaled(x_train: np.ndarray, x_test: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with every number's mean subtracted and divided by its deviation, where it has one."""
    constant = np.ptp(x_train, axis=0) == 0  # whose mean and deviation are rounded
    mean = np.where(numbers, np.where(constant, x_train[0], x_train.mean(0)), 0.0)
    std = np.where(numbers & ~constant, x_train.std(0), 1.0)
    return (x_train - mean) / std, (x_test - mean) / std


def as_numbers(values: Any) -> np.ndarray | None:
    """A column's numbers in float64, NaN where one is missing; None where it holds something else."""
    pyarrow = imported("pyarrow", "table", "to read tables")
    if not (is_text(values) or _is_number(values)):
        return None
    try:
        cast = values.cast(pyarrow.float64(), safe=is_text(values))  # whole numbers beyond 2^53 are rounded
    except pyarrow.ArrowInvalid:
        return None
    return np.asarray(cast.to_numpy(zero_copy_only=False), dtype=np.float64)


def as_texts(values: Any, name: str) -> list[str | None]:
    """A column's texts, None where one is missing; numbers as texts too.

    Raises:
        ValueError: It holds something else.
    """
    pyarrow = imported("pyarrow", "table", "to read tables")
    if not (is_text(values) or _is_number(values)):
        raise SettingError(
            f"`{name}` must be a column of numbers or texts; got {values.type}. Leave it out, or write its values "
            "as numbers."
        )
    if pyarrow.types.is_floating(values.type):  # of which one that is NaN is missing
        compute = imported("pyarrow.compute", "table", "to read tables")
        values = compute.if_else(compute.is_nan(values), pyarrow.scalar(None, values.type), values)
    texts: list[str | None] = values.cast(pyarrow.string()).to_pylist()
    return texts


def is_text(values: Any) -> bool:
    """Whether a column holds texts."""
    types = imported("pyarrow", "table", "to read tables").types
    return bool(types.is_string(values.type) or types.is_large_string(values.type) or types.is_null(values.type))


def _is_number(values: Any) -> bool:
    types = imported("pyarrow", "table", "to read tables").types
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(kind(values.type) for kind in kinds)


def _feature(name: str, what: Any) -> Feature:
    if what == "number":
        return Feature(name)
    if isinstance(what, Mapping) and {*what} == {"missing"}:
        return Feature(name, None, float(what["missing"]), True)
    if not isinstance(what, list) or not what or len({*map(str, what)}) < len(what):
        raise ValueError(f"{name}: {what}")
    return Feature(name, tuple(map(str, what)))


def _blocks(table: Any, feature: Feature, given: bool, part: str) -> list[np.ndarray]:
    values = column(table, feature.name, "columns" if given else "test_file")
    if feature.categories is not None:
        return [_one_hot(as_texts(values, feature.name), feature, part)]
    numbers = as_numbers(values)
    if numbers is None:
        raise SettingError(
            f"`{feature.name}` must hold numbers in the {part} rows; got {_first_text(values)!r}. Mend the cell."
        )
    absent = np.isnan(numbers)
    if absent.any() and feature.missing is None:
        raise SettingError(
            f"`columns` must tell what stands for a missing number of {feature.name!r}; got {int(absent.sum())} "
            f'missing. Write {{"missing": 0}} there in place of "number".'
        )
    if not np.isfinite(numbers[~absent]).all():
        raise SettingError(f"`{feature.name}` must hold finite numbers; got an infinite one. Mend the cell.")
    filled = np.where(absent, feature.missing or 0.0, numbers)
    return [filled, absent.astype(np.float64)] if feature.flagged else [filled]


def _one_hot(texts: Sequence[str | None], feature: Feature, part: str) -> np.ndarray:
    assert feature.categories is not None
    place = {text: i for i, text in enumerate(feature.categories)}
    strange = next((text for text in texts if text is not None and text not in place), None)
    if strange is not None and part == "train":
        raise SettingError(
            f"`columns` must name every category of the training rows; got {strange!r} in column {feature.name!r}. "
            "Add it at all sites, or mend the cell."
        )
    block = np.zeros((len(texts), len(place)))
    for row, text in enumerate(texts):
        if text in place:
            block[row, place[text]] = 1
    return block


def _first_text(values: Any) -> Any:
    for value in values.to_pylist():
        try:
            float(value)
        except (TypeError, ValueError):
            if value is not None:
                return value
    return None
