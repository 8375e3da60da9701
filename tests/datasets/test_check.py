"""Every rule that a data set must keep has its sentence."""

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent.datasets._check import checked
from fedtangent.shard import Dataset

X_TRAIN, X_TEST = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0)), torch.full((4, 2, 3), 0.3)
Y_TRAIN, Y_TEST = torch.tensor([0, 2, 1, 1, 0, 2, 1]), torch.tensor([2, 0, 1, 1])


def given(
    x_train: Tensor = X_TRAIN,
    y_train: Tensor = Y_TRAIN,
    x_test: Tensor = X_TEST,
    y_test: Tensor = Y_TEST,
    classes: int = 0,
) -> Dataset:
    return Dataset("mine", x_train, y_train, x_test, y_test, classes)


def with_value(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[3, 1] = value
    return x


def test_labels_become_int64_and_count_the_classes() -> None:
    result = checked(given(x_train=X_TRAIN.double(), y_train=Y_TRAIN.to(torch.uint8), y_test=Y_TEST.to(torch.int32)))
    assert result.classes == 3
    assert result.x_train.dtype == result.x_test.dtype == torch.float32
    assert result.y_train.dtype == result.y_test.dtype == torch.int64
    torch.testing.assert_close(result.x_train, X_TRAIN)
    assert torch.equal(result.y_train, Y_TRAIN) and torch.equal(result.y_test, Y_TEST)


def test_sites_become_int64_and_are_a_tensor() -> None:
    sites = torch.tensor([4, 4, 0, 1, 0, 0, 4], dtype=torch.int16)
    kept = checked(given()._replace(site_train=sites)).site_train
    assert kept is not None and kept.dtype == torch.int64 and kept.tolist() == sites.tolist()
    with pytest.raises(TypeError, match=r"^`site_train` must be a tensor of integers; got ndarray. Convert it.$"):
        checked(given()._replace(site_train=sites.numpy()))  # type: ignore[arg-type]


def test_stated_classes_are_kept() -> None:
    assert checked(given(classes=5)).classes == 5
    assert checked(given(classes=5000)).classes == 5000  # tokens, of which few occur


@pytest.mark.parametrize("outputs", [(), (2,)])
def test_float_targets_are_a_regression(outputs: tuple[int, ...]) -> None:
    result = checked(given(y_train=torch.full((7, *outputs), 0.7).double(), y_test=torch.full((4, *outputs), 0.2)))
    assert result.classes == 0
    assert result.y_train.shape == (7, *(outputs or (1,))) and result.y_test.shape == (4, *(outputs or (1,)))
    assert result.y_train.dtype == result.y_test.dtype == torch.float32


FLOATS = {"y_train": torch.full((7, 2), 0.7), "y_test": torch.full((4, 2), 0.2)}
WRONG = [
    ({"x_train": X_TRAIN[:0]}, r"^`x_train` must have the shape \(rows, \*inputs\).*got \(0, 2, 3\)"),
    ({"x_test": X_TEST[:, 0, 0]}, r"^`x_test` must have the shape \(rows, \*inputs\).*got \(4,\)"),
    ({"y_train": Y_TRAIN[:5]}, r"^`y_train` must have one row for each of the 7 rows of `x_train`; got shape \(5,\)"),
    ({"y_test": torch.tensor(1)}, r"^`y_test` must have one row for each of the 4 rows of `x_test`; got shape \(\)"),
    ({"x_test": X_TEST[:, :1]}, r"^`x_test` must have rows of the shape of `x_train`'s, \(2, 3\); got \(1, 3\)"),
    (
        {"x_train": with_value(X_TRAIN, float("nan"))},
        r"^`x_train` must hold finite float32 numbers; got 3 that are NaN",
    ),
    ({"x_test": with_value(X_TEST, float("inf"))}, r"^`x_test` must hold finite float32 numbers; got 3 that are NaN"),
    ({"x_train": with_value(X_TRAIN.double(), 1e300)}, r"^`x_train` must hold finite float32 .* too large"),
    ({"y_test": Y_TEST + 0.5}, r"^`y_test` must be of the kind of `y_train`, torch.int64; got torch.float32"),
    ({"y_train": Y_TRAIN - 1}, r"^`y_train` must hold labels from 0 to 1; got -1"),
    ({"y_test": Y_TEST + 1}, r"^`y_test` must hold labels from 0 to 2; got 3"),
    ({"classes": 2}, r"^`y_train` must hold labels from 0 to 1; got 2"),
    (
        {"y_train": Y_TRAIN + 9},
        r"^`y_train` must number the classes from 0, at most one a row; got labels up to 11 in 11 ",
    ),
    (
        {"y_train": Y_TRAIN * 10**9},
        r"^`y_train` must number the classes from 0.* got labels up to 2000000000 in 11 rows",
    ),
    ({"y_train": Y_TRAIN[:, None]}, r"^`y_train` must hold one integer label a row; got shape \(7, 1\)"),
    ({**FLOATS, "classes": 3}, r"^`classes` must be 0 for targets that are floats; got 3"),
    ({**FLOATS, "y_test": torch.full((4, 3), 0.2)}, r"^`y_test` must hold targets of shape .* got \(4, 3\)"),
    ({**FLOATS, "y_train": torch.full((7, 2, 5), 0.2)}, r"^`y_train` must hold targets of shape .* got \(7, 2, 5\)"),
    ({**FLOATS, "y_train": torch.full((7, 2), torch.nan)}, r"^`y_train` must hold finite float32 .* got 14"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_one_sentence_names_what_is_wrong(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(given(**change))  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "got"), [([[0.5]], "list"), (X_TRAIN.to(torch.complex64), "torch.complex64")])
def test_only_real_tensors(value: object, got: str) -> None:
    with pytest.raises(TypeError, match=f"^`x_train` must be a tensor of real numbers; got {got}"):
        checked(given(x_train=value))  # type: ignore[arg-type]


def test_a_sparse_tensor_is_made_dense_by_its_owner() -> None:
    with pytest.raises(
        TypeError, match=r"^`x_train` must be a dense tensor; got one of torch\.sparse_coo\. Call to_de"
    ):
        checked(given(x_train=X_TRAIN.to_sparse()))


@pytest.mark.parametrize("classes", [3.0, True, "3", None])
def test_the_number_of_classes_is_an_integer(classes: object) -> None:
    with pytest.raises(TypeError, match=rf"^`classes` must be an integer; got {classes!r}\. Give the number of labels"):
        checked(given()._replace(classes=classes))
    with pytest.raises(ValueError, match=r"^`classes` must not be negative; got -1\. "):
        checked(given()._replace(classes=-1))
    assert checked(given()._replace(classes=np.int64(4))).classes == 4


def test_several_inputs_keep_their_types() -> None:
    ids, mask = torch.arange(6, dtype=torch.int16).reshape(3, 2), torch.ones(3, dtype=torch.bool)
    x = {"ids": ids, "mask": mask, "size": torch.ones(3, 1, dtype=torch.float64)}
    for given in (x, UserDict(x), tuple(x.values())):
        found = checked(Dataset("d", given, torch.tensor([0, 1, 0]), given, torch.tensor([1, 1, 0]), 2))
        assert type(found.x_train) is (tuple if isinstance(given, tuple) else dict)
        parts = list(found.x_train.values()) if isinstance(found.x_train, dict) else list(found.x_train)
        assert [part.dtype for part in parts] == [torch.int64, torch.bool, torch.float32]
        assert torch.equal(parts[0], ids.long())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"a": [1, 2, 3]}, TypeError, r"^`x_train\['a'\]` must be a tensor of real numbers; got list"),
        (
            {"a": torch.ones(2, 4)},
            ValueError,
            r"^`x_train` must have as many rows in every part; got {'a': \(2, 4\), 'b'",
        ),
        (
            {"a": torch.full((3, 4), torch.nan)},
            ValueError,
            r"^`x_train\['a'\]` must hold finite float32 numbers; got 12",
        ),
        (
            {"a": torch.ones(3, 5)},
            ValueError,
            r"^`x_test` must have rows of the shape of `x_train`'s, {'a': \(5,\), 'b'.*",
        ),
        (
            {"c": torch.ones(3, 4)},
            ValueError,
            r"^`x_test` must have rows of the shape of `x_train`'s, {'a'.*'c': \(4,\)",
        ),
        ({"a": torch.tensor(1.0)}, ValueError, r"^`x_train` must have the shape \(rows, \*inputs\) .*; got {'a': \(\)"),
    ],
)
def test_several_inputs_that_cannot_be(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    x = {"a": torch.ones(3, 4), "b": torch.ones(3, 2)}
    with pytest.raises(kind, match=message):
        checked(Dataset("d", {**x, **change}, torch.tensor([0, 1, 0]), x, torch.tensor([1, 1, 0]), 2))
