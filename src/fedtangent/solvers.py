"""What a node does alone: stochastic gradient descent over its own rows, in batches drawn beforehand."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import losses, trees
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights


class Batches(NamedTuple):
    """The rows of every step, drawn beforehand.

    Attributes:
        rows: Row numbers from 1, (steps, batch); 0, with which an engine pads too, stands for no row.
        real: Which steps are real, (steps,) as bool.
    """

    rows: Tensor
    real: Tensor


def shuffled(epochs: int, batch: int) -> Callable[[np.random.Generator, Shard], Batches]:
    """A draw of `epochs` passes over a shard in random order, in batches of `batch` rows, the last one as it falls."""
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1; got {epochs}. Give a positive number.")
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1; got {batch}. Give a positive number of rows.")

    def draw(rng: np.random.Generator, data: Shard) -> Batches:
        rows = len(data.x)
        per_epoch = -(-rows // batch)
        index = np.zeros((epochs, per_epoch * batch), dtype=np.int64)
        for epoch in index:
            epoch[:rows] = 1 + rng.permutation(rows)
        steps = torch.from_numpy(index.reshape(epochs * per_epoch, batch))
        return Batches(steps, torch.ones(len(steps), dtype=torch.bool))

    return draw


def full_batch(steps: int) -> Callable[[np.random.Generator, Shard], Batches]:
    """`steps` steps on all rows: nothing is drawn, and the order of the rows is kept."""
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1; got {steps}. Give a positive number.")

    def draw(rng: np.random.Generator, data: Shard) -> Batches:
        return Batches(torch.arange(1, len(data.x) + 1).expand(steps, -1), torch.ones(steps, dtype=torch.bool))

    return draw


def sgd(
    task: Task, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> Callable[[Weights, Shard, Batches], Weights]:
    """A function (w, data, batches) -> w after the batches' steps: v <- momentum v + g + weight_decay w; w <- w - lr v.

    The velocity starts at zero. A step that is padding moves neither weights nor velocity.
    """
    if not lr > 0:
        raise ValueError(f"`lr` must be positive; got {lr}. Give a learning rate such as 0.1.")
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1); got {momentum}. Use 0.9, or 0 for none.")
    if not weight_decay >= 0:
        raise ValueError(f"`weight_decay` must not be negative; got {weight_decay}. Use 0 for none.")

    def loss(w: Weights, x: Tensor, y: Tensor, real: Tensor) -> Tensor:
        each = task.loss.per_sample(task.predict(w, x), y)
        return torch.where(real, each, 0).sum() / real.sum().clamp(min=1)

    gradient = torch.func.grad(loss)

    def solve(w: Weights, data: Shard, batches: Batches) -> Weights:
        v = trees.zeros_like(w)
        for index, real in zip(batches.rows, batches.real, strict=True):
            rows = (index - 1).clamp(min=0)
            g = gradient(w, data.x[rows], data.y[rows], index > 0)
            if weight_decay:
                g = trees.add_scaled(g, w, weight_decay)
            v_new = trees.add_scaled(g, v, momentum) if momentum else g
            w = trees.where(real, trees.add_scaled(w, v_new, -lr), w)
            v = trees.where(real, v_new, v) if momentum else v
        return w

    return solve


def mean_loss(task: Task, w: Weights, data: Shard) -> Tensor:
    """The mean loss over a shard's real rows; +inf where it is not finite."""
    return losses.mean(task.loss, task.predict(w, data.x), data.y, data.real)
