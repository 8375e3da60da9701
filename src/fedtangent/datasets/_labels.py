"""Labels and sites of a table: which class, target or site each row is of, and which rows are kept to test on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from fedtangent.datasets._arrow import column
from fedtangent.datasets._check import checked
from fedtangent.datasets._columns import Columns, as_numbers, as_texts, is_text
from fedtangent.errors import SettingError
from fedtangent.extras import imported
from fedtangent.shard import Dataset

SPLIT_SEED = 0  # of the rows that are kept to test on
Inputs = Callable[[Any, Any, Sequence[str]], tuple[Any, Any, str]]  # (train, test, classes) -> x_train, x_test, schema


class Asked(NamedTuple):
    """What is to be learnt from a table.

    Attributes:
        label: The column to predict.
        site: The column that tells a row's site; None where none does.
        regression: Whether the label is a number.
        test_share: Of every site's rows, where there is no test part.
    """

    label: str
    site: str | None
    regression: bool
    test_share: float


def labelled(name: str, rows: Any, tested: Any, asked: Asked, known: Sequence[str], inputs: Inputs) -> Dataset:
    """The data set of a table's rows.

    Args:
        name: Of the data set.
        rows: A pyarrow.Table.
        tested: Another, to test on; None keeps a share of the rows.
        asked: Label, site and share.
        known: The classes; none in a regression.
        inputs: Makes the inputs of both parts, and tells what they mean.
    """
    where = np.zeros(rows.num_rows, dtype=np.int64) if asked.site is None else sites(rows, asked.site)
    train = rows
    if tested is None:
        test = kept(where, asked.test_share)
        train, tested, where = rows.filter(~test), rows.filter(test), where[~test]
    x_train, x_test, schema = inputs(train, tested, known)
    y_train, y_test = (
        torch.from_numpy(targets(part, asked.label) if asked.regression else numbered(part, asked.label, known))
        for part in (train, tested)
    )
    site_train = None if asked.site is None else torch.from_numpy(where)
    return checked(Dataset(name, x_train, y_train, x_test, y_test, len(known), site_train, schema))


def classes_of(rows: Any, label: str, regression: bool, given: Columns | None) -> list[str]:
    """The classes that were agreed on, or else those of the rows; none in a regression.

    Raises:
        ValueError: Classes for a regression, or none where there should be some.
    """
    if regression:
        if given is not None and given.classes:
            raise SettingError("`columns` must name no classes in a regression; got some. Drop them.")
        return []
    if given is None:
        return classes(rows, label)
    if not given.classes:
        raise SettingError("`columns` must name the classes; got none. Add them, or give --regression.")
    return list(given.classes)


def classes(table: Any, label: str) -> list[str]:
    """The texts of the labels, sorted; whole numbers by their size.

    Raises:
        ValueError: Labels that are missing, or numbers that are not whole.
    """
    distinct = {*_texts(table, label)}
    whole = all(text.lstrip("+-").isdecimal() for text in distinct)
    return sorted(distinct, key=(lambda text: (int(text), text)) if whole else None)


def numbered(table: Any, label: str, known: Sequence[str]) -> np.ndarray:
    """The label of every row as its place among the classes, (rows,) as int64.

    Raises:
        ValueError: One that is none of them.
    """
    place, texts = {text: i for i, text in enumerate(known)}, _texts(table, label)
    strange = next((text for text in texts if text not in place), None)
    if strange is not None:
        raise SettingError(
            f"`{label}` must hold one of the known classes, {', '.join(known[:20])}; got {strange!r}. Mend the cell, "
            "or name the class for the training rows too."
        )
    return np.array([place[text] for text in texts], dtype=np.int64)


def targets(table: Any, label: str) -> np.ndarray:
    """The numbers to predict, (rows,) as float32.

    Raises:
        ValueError: A number is missing, or something else.
    """
    numbers = as_numbers(column(table, label, "label"))
    if numbers is None or not np.isfinite(numbers).all():
        raise SettingError(
            f"`label` must be a column of finite numbers in a regression; got {label!r}, which is none. Drop the rows "
            "without a number, or leave --regression out."
        )
    return numbers.astype(np.float32)


def sites(table: Any, name: str) -> np.ndarray:
    """The number of each row's site, (rows,) as int64: their place among the sorted names.

    Raises:
        ValueError: A row without a site.
    """
    texts = as_texts(column(table, name, "site"), name)
    if None in texts:
        raise SettingError(
            f"`site` must be known of every row; got none in row {texts.index(None) + 1} of column {name!r}. Drop it."
        )
    numbers: np.ndarray = np.unique(np.array(texts, dtype=str), return_inverse=True)[1]
    return numbers.astype(np.int64)


def kept(site: np.ndarray, share: float) -> np.ndarray:
    """Which rows are for testing, (rows,) as bool: a share of every site's, rounded; drawn once, by a fixed seed.

    Raises:
        ValueError: No share, or one that leaves no row to test or none to train on.
    """
    if not 0 < share < 1:
        raise SettingError(f"`test_share` must be above 0 and below 1; got {share}. Use 0.2, or give a test file.")
    rng, test = np.random.default_rng(SPLIT_SEED), np.zeros(len(site), dtype=bool)
    for number in np.unique(site):
        rows = rng.permutation(np.flatnonzero(site == number))
        test[rows[: min(round(share * len(rows)), len(rows) - 1)]] = True
    if not test.any():
        raise SettingError(
            f"`test_share` must leave a row to test on; got {share} of {len(site)} rows. Give more rows, a larger "
            "share, or a test file."
        )
    return test


def _texts(table: Any, label: str) -> list[str]:
    """The labels as texts: those of a column of texts, whole numbers or truths."""
    values = column(table, label, "label")
    if as_numbers(values) is not None and not _are_whole(values):
        raise SettingError(
            f"`label` must be a column of texts or whole numbers, one a class; got {label!r} of numbers such as "
            f"{next((value for value in values.to_pylist() if value is not None), None)}. Use --regression to "
            "predict a number, or write whole ones."
        )
    texts = as_texts(values, label)
    if None in texts:
        raise SettingError(
            f"`label` must be known of every row; got none in row {texts.index(None) + 1} of column {label!r}. Drop it."
        )
    return texts  # type: ignore[return-value]


def _are_whole(values: Any) -> bool:
    types = imported("pyarrow", "table", "to read tables").types
    if is_text(values):
        return all(text.lstrip("+-").isdecimal() for text in values.to_pylist() if text is not None)
    return bool(types.is_integer(values.type) or types.is_boolean(values.type))
