"""The Jacobian's products from passes through the model, slice by slice of rows: where its factors would not fit.

In place of factors a node's rows carry their inputs, which say as much: in a first layer's factor stand the inputs.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import optree
import torch
from optree import register_pytree_node
from torch import Tensor, nn
from torch.utils import _pytree

from fedtangent import trees
from fedtangent.outside_vmap import outside_vmap
from fedtangent.shard import at
from fedtangent.tangent_steps import of_task, slices
from fedtangent.tangents.capture.derivatives import Ways, known_ways, pull, push
from fedtangent.tangents.capture.factors import factors
from fedtangent.tangents.capture.functional import Weights, call, plain
from fedtangent.tangents.capture.kernel_operator import Full, Trace
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.kernel import filled
from fedtangent.tangents.numerics.budget import Budget
from fedtangent.tangents.numerics.kernel_parts import parts
from fedtangent.training.task import Task

# Bytes of a row's factors, from which on a few thousand rows of them are no more at home in memory.
ROW = slices.MEMORY // 2**11
# Bytes of a kernel that is kept, and of the factors of which it is made at a time.
KERNEL, FACTORS = 2**29, 2**28


def needed(found: Uses, w: Weights) -> bool:
    """Whether factors are too large to be kept: told from the model alone, so that all nodes do the same."""
    return row_bytes(found, w) > ROW


def row_bytes(found: Uses, w: Weights) -> int:
    """About what a row's factors take."""
    number = trees.number_bytes(w)
    return number * Budget(found, parts(found, w), "full", 1, 1, True, number).stored(found.outputs)


def message_bytes(task: Task, x: Any) -> int:
    """What the factors of rows weigh, as they would be sent: those of one row times their number."""
    found = of_task.uses(task, task.w_0, x)
    name = f"factors {found.outputs} {sorted(found.by_name)}"
    if name not in task.cache:
        first = of_task.samples(at(x, slice(0, 1)))
        task.cache[name] = trees.payload_bytes(factors(of_task.function(task), task.w_0, first, found)[1])
    weight: int = task.cache[name]
    return weight * len(of_task.samples(x))


def outputs(task: Task, w: Weights, x: Any) -> Tensor:
    """f(x; w), (n, C)."""
    found, model = of_task.uses(task, w, x), of_task.function(task)
    count = len(of_task.samples(x))
    with plain():
        rows = slices.slices(count, slices.of_losses(found, w, 1))
        return torch.cat([call(model, w, of_task.samples(at(x, part))) for part in rows])


class Passes:
    """J J^T, or its mean over outputs, as an operator on alpha (..., n, C), by passes through the model.

    Nothing of size n x n exists. The full kernel takes a backward and a forward derivative of every row; the trace
    kernel C^2 of each, for every output has its own.
    """

    def __init__(self, how: "How", w: Weights, x: Any, real: Tensor) -> None:
        self.how, self.w, self.x, self.real = how, w, x, real

    def times(self, alpha: Tensor) -> Tensor:
        """K alpha, (..., n, C)."""
        if alpha.dim() == 2:
            return self.how.times(self.w, self.x, torch.where(self.real[:, None], alpha, 0))
        several = zip(trees.unstack((self.w, self.x, self.real), len(alpha)), alpha, strict=True)
        return torch.stack([Passes(self.how, *its).times(one) for its, one in several])


class How:
    """How J is applied: by which model, and which kernel is meant."""

    def __init__(self, task: Task, kind: Literal["trace", "full"], found: Uses, ways: Ways) -> None:
        self.model, self.kind, self.found, self.ways = of_task.function(task), kind, found, ways

    def times(self, w: Weights, x: Any, alpha: Tensor) -> Tensor:
        """K alpha, (n, C)."""
        if self.kind == "full":
            v = pullback(self, w, x, alpha[None])
            return pushforward(self, w, x, v)[0]
        total, c = torch.zeros_like(alpha), alpha.shape[1]
        for own in range(c):
            one = torch.zeros(c, *alpha.shape, dtype=alpha.dtype, device=alpha.device)
            one[:, :, own] = alpha.mT
            total = total + pushforward(self, w, x, pullback(self, w, x, one))[:, :, own].mT
        return total / c


def pullback(how: How, w: Weights, x: Any, alpha: Tensor) -> Weights:
    """J^T alpha for alpha (T, n, C): a tree of weights with a leading axis T; a forward and T backward passes a row."""
    total: list[Weights] = []
    for part in slices.slices(alpha.shape[1], pulled_bytes(how.found, w)):
        back = _back(how.model, w, of_task.samples(at(x, part)), how.ways)
        for number, one in enumerate(alpha[:, part].unbind(0)):  # nothing but the sums is kept of every one
            found = back(one)
            if number < len(total):
                total[number] = trees.add(total[number], found)
            else:
                total.append(found)
    return trees.stack(total)  # type: ignore[no-any-return]


def pulled_bytes(found: Uses, w: Weights) -> int:
    """What a row takes on its way forward and back."""
    return trees.number_bytes(w) * (found.touched + found.sample + 4 * found.widest)


def _back(model: nn.Module, w: Weights, x: Samples, ways: Ways) -> Callable[[Tensor], Weights]:
    """alpha (n, C) -> J^T alpha."""
    if not ways.transforms:
        return lambda alpha: pull(model, w, x, alpha, ways)
    with plain():
        back = torch.func.vjp(lambda w: call(model, w, x), w)[1]

    def one(alpha: Tensor) -> Weights:
        with plain():
            return back(alpha)[0]  # type: ignore[no-any-return]

    return one


def pushforward(how: How, w: Weights, x: Any, v: Weights) -> Tensor:
    """J v, (T, n, C), for a tree of weights v with a leading axis T."""
    count = len(next(iter(v.values())))
    row = slices.of_directions(how.found, w, count, how.ways)
    found = []
    for part in slices.slices(len(of_task.samples(x)), row):
        own = of_task.samples(at(x, part))
        found.append(torch.func.vmap(lambda d, own=own: push(how.model, w, own, d, how.ways)[1])(v))
    return torch.cat(found, 1)


def kernel_of_inputs(
    task: Task, kind: Literal["trace", "full"], w: Weights, x: Any, real: Tensor
) -> Trace | Full | Passes:
    """The kernel of some rows: in memory where it fits, made of some of their factors at a time; else by passes."""
    found, count = of_task.uses(task, w, x), len(real)
    size = count * (found.outputs if kind == "full" else 1)
    if size**2 * trees.number_bytes(w) > KERNEL:
        return Passes(how(task, kind, w, x), w, x, real)
    model = of_task.function(task)

    def several(w: Weights, x: Any, real: Tensor) -> Tensor:
        return torch.stack([one(*its) for its in trees.unstack((w, x, real), len(real))])

    def one(w: Weights, x: Any, real: Tensor) -> Tensor:
        matrix = filled(model, w, of_task.samples(x), kind, found, FACTORS)
        rows = real if kind == "trace" else real[:, None].expand(-1, found.outputs)
        matrix = matrix.reshape(math.prod(rows.shape), -1)
        return torch.where(rows.flatten()[:, None] & rows.flatten(), matrix, 0)

    matrix = outside_vmap(several, w, x, real)
    return Trace(matrix) if kind == "trace" else Full(matrix)


def how(task: Task, kind: Literal["trace", "full"], w: Weights, x: Any) -> How:
    """How J is applied at these rows."""
    ways = known_ways(of_task.function(task), task.w_0, of_task.example(task), of_task.samples(x))
    return How(task, kind, of_task.uses(task, w, x), ways)


def _flatten(passes: Any) -> tuple[list[Any], How]:
    return [passes.w, passes.x, passes.real], passes.how


def _unflatten(how: How, parts: Any) -> Passes:
    return Passes(how, *parts)


# of the two libraries that look into trees: ours, and that of torch.func
register_pytree_node(Passes, _flatten, _unflatten, namespace=optree.registry.__GLOBAL_NAMESPACE)  # type: ignore[arg-type]
_pytree.register_pytree_node(Passes, _flatten, lambda parts, how: _unflatten(how, parts))
