"""What a node answers to one that takes a step from sums: sums over its own rows, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from fedtangent.shard import Shard
from fedtangent.tangent_steps import kfac, room
from fedtangent.tangent_steps.blocks import Other
from fedtangent.tangent_steps.combined import score_of
from fedtangent.tangent_steps.kfac import Moments
from fedtangent.tangent_steps.span import Curvature, curvature
from fedtangent.tangent_steps.step import Score, countable
from fedtangent.tangents.capture.functional import Weights
from fedtangent.training import labels
from fedtangent.training.task import Task

Inputs = tuple[dict[str, Tensor], Tensor]  # moments, and of how many rows


@dataclass(frozen=True)
class Answers:
    """A node's answers.

    Args:
        task: Model and loss.
        other: What becomes of parameters without Kronecker factors, as in `blocks.blocks`.
        weight_decay: lambda, of lambda |w|^2 / 2 in the loss of which the step is taken.
    """

    task: Task
    other: Other
    weight_decay: float

    def weighing(self, by_class: Tensor) -> "Answers":
        """The answers where a row of each class weighs so much; (0,) for all alike."""
        return replace(self, task=labels.balanced(self.task, by_class))

    def sizes(self, data: Shard) -> tuple[Tensor, Tensor, Tensor]:
        """Rows; how many of them hide each in a sum of `inputs`, and in one of `moments`."""
        return kfac.sizes(self.task, data, other=self.other)

    def labels(self, data: Shard) -> Tensor:
        """How many rows have each label."""
        return labels.first_counts(self.task, data)

    def inputs(self, data: Shard) -> Inputs:
        """The moments of the data's own inputs, which no weights change."""
        return kfac.fixed_inputs(self.task, data, other=self.other)

    def moments(self, w: Weights, data: Shard) -> Moments:
        """Gradient and moments at the weights."""
        return kfac.moments(self.task, w, data, other=self.other, inputs="moving", weight_decay=self.weight_decay)

    def along(self, w: Weights, basis: Weights, data: Shard) -> Curvature:
        """The exact curvature along some directions."""
        return curvature(self.task, w, basis, data, self.weight_decay)

    def losses(self, w: Weights, basis: Weights, c: Tensor, data: Shard) -> tuple[Score, Tensor]:
        """The losses of some combinations of them."""
        return countable(score_of(self.task, w, basis, c, data))

    def node_bytes(self, directions: int, tries: int) -> Callable[[int, int], int]:
        """(rows, degree) -> about the peak memory of a node's work, for so many directions and candidates."""
        return room.node_bytes(self.task, self.other, directions, tries)
