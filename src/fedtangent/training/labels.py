"""Label shift: rows weigh so that the classes of a few nodes count as those of all nodes do.

Saerens, Latinne, Decaestecker. Adjusting the Outputs of a Classifier to New a Priori Probabilities. Neural Computation
2002: where only the classes' shares differ, a row's loss is to be weighted by the ratio of the shares.
"""

from typing import Any

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.shard import Shard, at
from fedtangent.training.losses import Loss, scaled
from fedtangent.training.task import Task, Weights

RARE = 1e-3  # rows of a class that has none, where a logarithm is taken


def counts(data: Shard, like: Tensor) -> Tensor:
    """How many real rows have each label, (classes,) as `like`; zeros for targets, which are no labels."""
    none = torch.zeros_like(like)
    if data.y.is_floating_point():
        return none
    hits = (data.y[:, None] == torch.arange(len(like), device=data.y.device)) & data.real[:, None]
    return hits.sum(0).to(none.dtype)


def first_counts(task: Task, data: Shard) -> Tensor:
    """The same for all outputs of the model, in the weights' type."""
    f = task.predict(task.w_0, at(data.x, slice(0, 1)))
    return counts(data, torch.zeros_like(f[0]))


def weights(everywhere: Tensor, here: Tensor, most: float) -> Tensor:
    """Importance weight per class, (classes,): p_global / p_local, clipped to [1 / most, most]; 1 on average here.

    Args:
        everywhere: Rows of every class over all nodes.
        here: The same over some of them.
        most: A bound of the ratio, before it is scaled to the average.
    """
    shares, own = everywhere / everywhere.sum(), here / here.sum()
    ratio = torch.where(own > 0, shares / own, most).clamp(1 / most, most)
    normalised = ratio / (ratio * own).sum()
    return torch.where(here.sum() * everywhere.sum() > 0, normalised, torch.ones_like(here))


def weighted(loss: Loss, by_class: Tensor) -> Loss:
    """The loss with every row's times the weight of its label; of targets the loss itself."""

    def of(f: Tensor, y: Tensor) -> Tensor:
        return y.new_ones(len(y)) if y.is_floating_point() else by_class[y]

    return scaled(loss, of, lambda: max(float(by_class.max()), 1.0))


def balanced(task: Task, by_class: Tensor) -> Task:
    """The task with `weighted` loss; without weights (0,) the task itself."""
    return task.under(weighted(task.loss, by_class)) if len(by_class) else task


def log_shares(task: Task, data: Shard) -> Tensor:
    """The logarithm of every class's share of the rows, (classes,); 0 where outputs are no logits, or labels none.

    Added to the logits in training, it keeps a node from unlearning the classes that it lacks (Ren et al. Balanced
    Meta-Softmax for Long-Tailed Visual Recognition. NeurIPS 2020). A class without rows counts as `RARE` of a row.
    """
    here = first_counts(task, data)
    if task.loss.name != "cross_entropy":
        return torch.zeros_like(here)
    return torch.where(here.sum() > 0, ((here + RARE) / here.sum().clamp(min=1)).log(), 0)


def shifted_loss(task: Task, w: Weights, x: Any, y: Tensor, shift: Tensor) -> Tensor:
    """The loss of every row, (rows,), with something added to its outputs."""
    return task.loss.per_sample(task.predict(w, x) + shift, y)


def check(balance: float) -> None:
    """Raises ValueError if `balance` is below 1."""
    if not balance >= 1:
        raise SettingError(f"`balance` must be at least 1; got {balance}. Use 1 to weigh all rows alike.")
