"""One federation for every way to train it: samples, first weights and the batches of every round, in a folder."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

INPUTS, HIDDEN, CLASSES = 784, 100, 10
BATCH, LR = 20, 0.1


class Problem(NamedTuple):
    """What all start from.

    Attributes:
        x: Samples, (clients, rows, 784).
        y: Labels, (clients, rows) as int64.
        x_test: Samples, (rows, 784).
        y_test: Labels, (rows,) as int64.
        order: How every client goes through its rows in a round, (rounds, clients, rows) as int64.
        w_0: First weights by name, in the order of a forward pass.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    order: Tensor
    w_0: dict[str, Tensor]


class Found(NamedTuple):
    """What a way comes to: the seconds of every round, without evaluation, and the weights after the last one."""

    seconds: list[float]
    w: dict[str, Tensor]


def save(folder: str, problem: Problem) -> None:
    """Writes it to the folder."""
    for name, part in problem._asdict().items():
        if name != "w_0":
            np.save(Path(folder) / f"{name}.npy", part.numpy())
    torch.save(problem.w_0, Path(folder) / "w_0.pt")


@cache
def load(folder: str) -> Problem:
    """What `save` wrote, read once in a process."""
    parts = [torch.from_numpy(np.load(Path(folder) / f"{name}.npy")) for name in Problem._fields[:-1]]
    return Problem(*parts, torch.load(Path(folder) / "w_0.pt", weights_only=True))


def network() -> nn.Sequential:
    """784-100-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def accuracy(w: Mapping[str, Tensor], problem: Problem) -> float:
    """On the test rows."""
    with torch.no_grad():
        f = torch.func.functional_call(network(), dict(w), (problem.x_test,))
    return float((f.argmax(1) == problem.y_test).double().mean())
