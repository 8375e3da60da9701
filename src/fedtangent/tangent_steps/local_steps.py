"""Local SGD between a node's sums: a network that bends within a step is led along its bend first.

The classes that a node lacks would be unlearnt; the logits' shift of `labels.log_shares` prevents that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.shard import Shard
from fedtangent.tangents.capture.functional import Weights
from fedtangent.training import labels, solvers
from fedtangent.training.solvers import Batches
from fedtangent.training.task import Task


@dataclass(frozen=True)
class LocalSteps:
    """Epochs of SGD on a node's rows.

    Args:
        task: Model and loss.
        epochs: Passes; 0 for none.
        batch: Rows in a batch.
        lr: Step size.
        momentum: Of the SGD; starts at zero every round.
        weight_decay: Times the weights, added to the gradient.
        rounds: In how many rounds, from the first on, they are taken; None stands for all.
    """

    task: Task
    epochs: int
    batch: int
    lr: float
    momentum: float
    weight_decay: float
    rounds: int | None = None

    def __post_init__(self) -> None:
        """Checks what a user may get wrong."""
        if self.epochs < 0:
            raise SettingError(f"`epochs` must not be negative; got {self.epochs}. Use 0 for no local steps.")
        if self.rounds is not None and self.rounds < 1:
            raise SettingError(f"`local_rounds` must be at least 1; got {self.rounds}. Leave it out for all rounds.")
        if self.rounds is not None and not self.epochs:
            raise SettingError(f"`local_rounds` must be left out without `epochs`; got {self.rounds}. Give epochs too.")
        if not 0 <= self.momentum < 1:
            raise SettingError(f"`local_momentum` must be in [0, 1); got {self.momentum}. Use 0.9, or 0 for none.")
        if self.epochs:
            _ = self.solver, self.draw
        else:  # the rest is checked all the same, by a task of its own, which is not marked as one of local steps
            replace(self, task=replace(self.task), epochs=1)

    @property
    def draw(self) -> Callable[[np.random.Generator, Shard], Batches]:
        """Draws the batches of a round."""
        return solvers.shuffled(max(self.epochs, 1), self.batch)

    @property
    def solver(self) -> solvers.Solver:
        """(w, data, batches, shift of the outputs) -> w after the steps."""
        loss = partial(labels.shifted_loss, self.task)
        return solvers.sgd(
            self.task, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, objective=loss
        )

    def in_round(self, k: int) -> bool:
        """Whether round k has local steps."""
        return self.epochs > 0 and (self.rounds is None or k <= self.rounds)

    def taken(self, w: Weights, data: Shard, batches: Batches) -> tuple[Weights, Weights]:
        """The weights after the steps, and their move; no steps are taken where one is not finite."""
        w_k = self._after(w, data, batches)
        w_k = trees.where(trees.all_finite(w_k), w_k, w)
        return w_k, trees.subtract(w_k, w)

    def moves(self, w: Weights, data: Shard, batches: Batches) -> tuple[Weights, Tensor]:
        """The move of the weights times the rows, and the rows: sums of these make a weighted mean."""
        count = data.real.sum()
        return trees.scale(trees.subtract(self._after(w, data, batches), w), count), count

    def _after(self, w: Weights, data: Shard, batches: Batches) -> Weights:
        return self.solver(w, data, batches, labels.log_shares(self.task, data))


def rows_of_moves(total: tuple[Weights, Tensor]) -> Tensor:
    """Of how many rows a sum of `moves` is."""
    return total[1]


def moved(w: Weights, total: tuple[Weights, Tensor]) -> tuple[Weights, Weights]:
    """The weights after the mean move, and that move, from a sum of `moves`."""
    u = trees.map(lambda part: part / total[1], total[0])
    return trees.add(w, u), u


def shrinking(part: float) -> Callable[[Weights], Weights]:
    """w -> (1 - part) w.

    Raises:
        ValueError: A part below 0, or all of them.
    """
    if not 0 <= part < 1:
        raise SettingError(f"`shrinkage` must be in [0, 1); got {part}. Use 0 for none.")
    return lambda w: trees.scale(w, 1 - part)
