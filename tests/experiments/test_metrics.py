"""What a metric may be, and the sentences about what it may not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.metrics import value
from fedtangent.experiments.setup import setup
from tests.experiments.tiny import data, network, tiny


def text(outputs: Tensor, labels: Tensor) -> str:
    return "high"


def nan(outputs: Tensor, labels: Tensor) -> float:
    return torch.nan


def narrow(outputs: Tensor) -> float:
    return 0.0


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("f2", "`metric` must be one of auc, f1; got 'f2'. Or give the path of a file of your own."),
        ("f1,f1", "`metric` must name each once; got f1. Drop it, or rename yours."),
        (accuracy, "`metric` must name each without accuracy, which is always measured; got accuracy. Drop it,"),
        ([3], "`metric` must be names or functions; got int. Give a name."),
        (text, "`metric` text must return a number, or None where rows define none; got str on 13 test rows."),
        (nan, "`metric` nan must return a finite number, or None where rows define none; got nan on 13 test rows."),
        (narrow, "`metric` narrow must take outputs (13, 3) and labels (13,); got TypeError on 13 test rows: narrow()"),
        ("./none.py", "`metric` must name a file that exists; got"),
    ],
)
def test_what_cannot_be(metric: Any, told: str) -> None:
    with pytest.raises((SettingError, SettingTypeError)) as error:
        setup(tiny(model=network(), metric=metric))
    assert str(error.value).startswith(told)


def test_a_file_without_a_function_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def other(outputs, labels):\n    return 0\n")
    with pytest.raises(
        SettingError, match=r"must define a function named 'mine'; got none. Name the function like its"
    ):
        setup(tiny(model=network(), metric=str(path)))


@pytest.mark.parametrize("metric", ["f1", "auc"])
def test_metrics_of_classes_in_a_regression(metric: str) -> None:
    told = rf"^`metric` must be a function of your own in a regression; got {metric}, which needs classes. Drop it.$"
    with pytest.raises(SettingError, match=told):
        setup(tiny("fedavg", model=network(2), dataset=data(0), metric=metric))


def test_a_metric_may_write_on_what_it_is_given() -> None:
    def rough(outputs: Tensor, labels: Tensor) -> float:
        outputs.zero_()
        labels.numpy()[:] = 0
        return 0.5

    given = data()
    kept = given.y_test.clone()
    setup(tiny(model=network(), dataset=given, metric=rough))
    assert torch.equal(given.y_test, kept)
    outputs, labels = torch.ones(2, 3), torch.ones(2).long()
    assert value("rough", rough, outputs, labels, "rows") == 0.5
    assert outputs.min() == 1 and labels.min() == 1


def test_numbers_that_are_too_large_or_complex() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2).long()
    with pytest.raises(
        ValueError, match=r"^`metric` mine must return a finite number, .*; got inf on rows\. Return No"
    ):
        value("mine", lambda outputs, labels: 10**400, x, y, "rows")
    with pytest.raises(
        TypeError, match=r"^`metric` mine must return a number, .*; got Tensor on rows\. Return a float"
    ):
        value("mine", lambda outputs, labels: torch.tensor(1j), x, y, "rows")


@pytest.mark.parametrize(
    "found", [1, 0.25, torch.tensor(0.25), torch.ones(1, requires_grad=True), torch.tensor([2.0]).numpy()[0]]
)
def test_numbers_of_every_kind(found: Any) -> None:
    told = value("mine", lambda outputs, labels: found, torch.zeros(2, 3), torch.zeros(2).long(), "rows")
    assert (type(told), told) == (float, float(found.detach() if isinstance(found, Tensor) else found))


def test_none_is_no_value_and_so_is_nan_of_outputs_that_are_not_finite() -> None:
    y = torch.zeros(2).long()
    assert value("mine", lambda outputs, labels: None, torch.zeros(2, 3), y, "rows") is None
    assert value("mine", lambda outputs, labels: float(outputs.sum()), torch.full((2, 3), torch.nan), y, "rows") is None
    with pytest.raises(SettingError, match=r"^`metric` mine must return a finite number"):
        value("mine", lambda outputs, labels: torch.inf, torch.zeros(2, 3), y, "rows")
