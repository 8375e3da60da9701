"""A task's model and inputs, as the functions of `tangents` take them."""

from typing import Any

from torch import Tensor, nn

from fedtangent.shard import at
from fedtangent.tangents.capture.outputs import Picked
from fedtangent.tangents.capture.samples import Batch, Samples
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.capture.verified_uses import known_uses
from fedtangent.training.task import Task, Weights


def function(task: Task) -> nn.Module:
    """The model, with the choice of its outputs where there is one: the same module for the same task."""
    if task.outputs is None and (task.example is None or isinstance(task.example, Tensor)):
        return task.model
    found: nn.Module = task.cache.setdefault("function", Picked(task.model, task.outputs))
    return found


def samples(x: Any) -> Samples:
    """Inputs (rows, ...), of one tensor or of several."""
    return x if isinstance(x, Tensor) else Batch(x)


def uses(task: Task, w: Weights, x: Any) -> Uses:
    """`known_uses` at these inputs."""
    return known_uses(function(task), w, samples(x))


def example(task: Task) -> Samples | None:
    """A few samples, where the task has some."""
    return None if task.example is None else samples(task.example)


def first(task: Task, like: Any) -> Any:
    """One sample of this shape: of a tensor's zeros; of several tensors, which may be masks, the example's first."""
    if isinstance(like, Tensor):
        return like.new_zeros(1, *like.shape[2:])
    return at(task.example, slice(0, 1))
