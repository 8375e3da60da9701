"""The losses of many combinations of few directions, w + sum_i c_i d_i.

A linear map whose inputs are the data's own is linear in c: its results x W^T and x D_i^T are computed once, and a
combination of them takes the place of a product of its own. Of 784-100-10 that leaves k + 1 such products of so many
candidates.
"""

import torch
from torch import Tensor

from fedtangent.shard import Shard
from fedtangent.tangent_steps import of_task, slices
from fedtangent.tangent_steps.span import candidates, like
from fedtangent.tangent_steps.step import Score, score
from fedtangent.tangents.capture import linears
from fedtangent.tangents.capture.functional import Weights, each, plain
from fedtangent.tangents.capture.kernel_operator import products
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.uses import Uses
from fedtangent.training.task import Task


def score_of(task: Task, w: Weights, basis: Weights, c: Tensor, data: Shard) -> Score:
    """The true network's loss of every combination c (T, k) of directions, summed over a node's rows."""
    found = of_task.uses(task, w, data.x)
    if found.linears and found.fixed:
        return _of_linears(task, w, like(basis, w), c, data, found)
    few = [score(task, candidates(w, basis, c[part]), data) for part in slices.groups(len(c), w)]
    return few[0]._replace(total=torch.cat([one.total for one in few]))


def _of_linears(task: Task, w: Weights, basis: Weights, c: Tensor, data: Shard, found: Uses) -> Score:
    """`score_of` a model of linear maps."""
    model = of_task.function(task)
    first = {key: use for key, use in found.by_name.items() if key in found.fixed and isinstance(use, Matrix)}
    own = {name for use in first.values() for name in use.call.names}
    names = [name for name in w if name not in own]
    rest = candidates({name: w[name] for name in names}, {name: basis[name] for name in names}, c)

    def one(data: Shard) -> Score:
        x = of_task.samples(data.x)
        unknown = {key: w[use.weight].new_zeros(len(x), use.fan_out) for key, use in first.items()}

        def total(rest: Weights, given: Weights) -> Tensor:
            f, _ = linears.run(model, {**w, **rest}, x, found, given=given)
            return torch.where(data.real, task.loss.per_sample(f, data.y), 0).sum()

        with plain():
            inputs = linears.run(model, w, x, found, given=unknown)[1]
            given = {key: _combined(use, inputs[key], w, basis, c) for key, use in first.items()}
            return Score(each(total, rest, given), data.real.sum())

    return slices.summed(one, data, slices.of_losses(found, w, len(c)))  # type: ignore[no-any-return]


def _combined(use: Matrix, a: Tensor, w: Weights, basis: Weights, c: Tensor) -> Tensor:
    """The map's results (T, n, O) of inputs a (n, I), with the weights w + sum_i c_i d_i."""
    bias = None if use.bias is None else w[use.bias]
    start, d = torch.nn.functional.linear(a, w[use.weight], bias), basis[use.weight]
    along = products(a, d)
    if use.bias is not None:
        along = along + basis[use.bias][:, None]
    return torch.addmm(start.reshape(1, -1), c, along.reshape(len(d), -1)).reshape(-1, *start.shape)
