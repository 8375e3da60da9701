"""Metrics: what outputs are worth on some rows, by functions of the package or of one's own, each answer checked."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedtangent import catalog
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.build import named
from fedtangent.experiments.chain import links
from fedtangent.experiments.experiment import Experiment
from fedtangent.shard import Dataset

Metric = Callable[[Tensor, Tensor], float | None]
OF_LABELS = ("auc", "f1")  # of the package's, those that need classes


def built_metrics(experiment: Experiment, dataset: Dataset) -> dict[str, Metric]:
    """The metrics by name, each tried on a few rows of made-up outputs.

    Raises:
        ValueError: A name that is none or comes twice, a file without a function of its name, or one that fails.
        TypeError: Neither a name nor a function, or a function that gives no number.
    """
    found: dict[str, Metric] = {}
    for one in links(experiment.metric):
        if not isinstance(one, (str, Path)) and not callable(one):
            raise SettingTypeError(f"`metric` must be names or functions; got {type(one).__name__}. Give a name.")
        name = named(one)
        if name in found or name == "accuracy":
            known = "once" if name in found else "without accuracy, which is always measured"
            raise SettingError(f"`metric` must name each {known}; got {name}. Drop it, or rename yours.")
        if one in OF_LABELS and not dataset.classes:
            raise SettingError(
                f"`metric` must be a function of your own in a regression; got {name}, which needs classes. Drop it."
            )
        found[name] = catalog.load("metrics", str(one), "metric") if isinstance(one, (str, Path)) else one
        _try(name, found[name], dataset)
    return found


def value(name: str, metric: Metric, outputs: Tensor, labels: Tensor, where: str) -> float | None:
    """What a metric gives for some rows; None where the rows, or outputs that are not finite, define none.

    Args:
        name: The metric's.
        metric: The function.
        outputs: (n, C), on any device.
        labels: (n,), or targets (n, C).
        where: Whose rows they are, for messages.

    Raises:
        ValueError: It fails, or gives NaN or infinity for outputs that are finite.
        TypeError: It gives no number.
    """
    outputs, labels = outputs.detach().cpu(), labels.cpu()
    try:
        found = metric(outputs.clone(), labels.clone())  # which it may write on
    except Exception as error:
        text = " ".join(str(error).split())[:160].rstrip(".")
        raise SettingError(
            f"`metric` {name} must take outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)}; got "
            f"{type(error).__name__} on {where}: {text}. Mend it, or return None where rows define no value."
        ) from error
    if found is None:
        return None
    if isinstance(found, Tensor) and found.numel() == 1 and not found.is_complex():
        found = found.detach().item()
    if not isinstance(found, Real):
        raise SettingTypeError(
            f"`metric` {name} must return a number, or None where rows define none; got {type(found).__name__} on "
            f"{where}. Return a float."
        )
    try:
        number = float(found)
    except OverflowError:
        number = math.inf
    if math.isfinite(number):
        return number
    if bool(outputs.isfinite().all()):
        raise SettingError(
            f"`metric` {name} must return a finite number, or None where rows define none; got {number} on {where}. "
            "Return None there."
        )
    return None


def _try(name: str, metric: Metric, dataset: Dataset) -> None:
    """Raises where a metric cannot be called, or gives no number, for some rows of the test set."""
    labels = dataset.y_test[:16]
    outputs = torch.linspace(-1, 1, len(labels) * _width(dataset)).cos().reshape(len(labels), -1)
    value(name, metric, outputs.to(torch.get_default_dtype()), labels, f"{len(labels)} test rows")


def _width(dataset: Dataset) -> int:
    return dataset.classes or int(dataset.y_test.shape[1])


def check_defined(found: Mapping[str, Mapping[str, Any]], round: int) -> None:
    """Raises ValueError for a metric that no node's rows define."""
    for name, models in found.items():
        if all(own is None or own.get("mean", own.get("all")) is None for own in models.values()):
            two = ", which needs rows of two classes" if name == "auc" else ""
            raise SettingError(
                f"`metric` must be defined on some test rows; got none of {name} in round {round}{two}. Use "
                "fewer nodes with more rows each, or drop it."
            )
