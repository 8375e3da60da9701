"""A tiny experiment: three classes in four dimensions, on five nodes of unequal size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.shard import Dataset, Partition

ROWS = (7, 3, 9, 5, 6)
# what keeps two rounds short, and leaves something to choose
OPTIONS: dict[str, dict[str, Any]] = {
    "central": {"batch": 8},
    "dfedavg": {"epochs": 2, "batch": 4, "momentum": 0.5},
    "dfedsam": {"epochs": 2, "batch": 4},
    "dispfl": {"epochs": 2, "batch": 4},
    "oledfl": {"epochs": 2, "batch": 4},
    "fedavg": {"participation": 0.7, "batch": 4},
    "feddyn": {"participation": 0.7, "batch": 4},
    "fedpart": {"warm_up": 1, "rounds_per_group": 1, "host": "scaffold", "participation": 0.7, "batch": 4},
    "fedfisher": {"epochs": 2, "batch": 4, "steps": 40, "every": 10},
    "fedopt": {"participation": 0.7, "batch": 4},
    "moon": {"participation": 0.7, "batch": 4},
    "scaffold": {"participation": 0.7, "batch": 4},
    "spark": {"times": (2, 9), "lr": 0.3, "columns": 20, "stage": 0},
    "tct": {"first_rounds": 0, "batch": 4, "features": 40, "steps": 9, "linear_lr": 0.1},
    "relaysgd": {"topology": "line", "batch": 4, "momentum": 0.5},
    "pooled": {"epochs": 2, "batch": 4},
    "local": {"batch": 4},
    "ntkdfl": {"times": (2, 9), "lr": 0.3, "momentum": 0.5, "exchange": "factors"},
    "ntkfl": {"times": (2, 9), "lr": 0.3, "participation": 0.7},
}
TALKING = (
    "dfedavg", "dfedkfac", "dfedsam", "dispfl", "dpsgd", "gradient_tracking", "ntkdfl", "oledfl", "pooled", "qgdsgdm",
    "spark",
)  # fmt: skip


def data(classes: int = 3) -> Dataset:
    """Blobs with labels; with no classes a smooth function with two outputs."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(sum(ROWS) + 13, 4)).astype(np.float32)
    if classes:
        labels = np.arange(len(x)) % classes
        x[np.arange(len(x)), labels] += 2
        y = torch.from_numpy(labels)
    else:
        y = torch.from_numpy(np.stack([x[:, 0] * x[:, 1], np.sin(x[:, 2])], 1))
    cut = sum(ROWS)
    return Dataset("tiny", torch.from_numpy(x[:cut]), y[:cut], torch.from_numpy(x[cut:]), y[cut:], classes)


def partition() -> Partition:
    """The rows in order, node after node."""
    return Partition(np.split(np.arange(sum(ROWS)), np.cumsum(ROWS)[:-1]))


def network(outputs: int = 3) -> nn.Sequential:
    """Two layers whose weights hang on nothing."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs))
    rng = np.random.default_rng(4)
    for p in model.parameters():
        p.data = torch.from_numpy(rng.normal(size=p.shape).astype(np.float32)) / 2
    return model


def settings(method: Any = "dfedavg", **change: Any) -> dict[str, Any]:
    """The tiny experiment's settings, some of them replaced."""
    name = str(getattr(method, "__name__", method))
    graph = {"degree": 2} if name in TALKING and not {"topology", "degree"} & set(change) else {}
    base = {"dataset": data(), "partition": partition(), "rounds": 2, "hidden": (6,)}
    if not isinstance(change.get("model", ""), str):
        base.pop("hidden")
    return {"method": method, **OPTIONS.get(name, {}), **graph, **base, **change}


def tiny(method: Any = "dfedavg", **change: Any) -> Experiment:
    """The tiny experiment."""
    return experiment(**settings(method, **change))


def timeless(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A record without the clock."""
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in rounds]


def saved(path: Any, classes: int = 3) -> str:
    """The data as an .npz file, and its path."""
    found = data(classes)
    arrays = {name: getattr(found, name).numpy() for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(path, **arrays)
    return str(path)
