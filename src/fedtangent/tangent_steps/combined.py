"""The losses of many combinations of few directions, w + sum_i c_i d_i.

The results of a linear map of the data itself are linear in c: x W^T and x D_i^T are computed once, and a combination
of them takes the place of a product of its own. Of 784-100-10 that leaves k + 1 such products of so many
candidates.
"""

import torch
from torch import Tensor

from fedtangent.shard import Shard
from fedtangent.tangent_steps import of_task, once, slices
from fedtangent.tangent_steps.span import candidates, like
from fedtangent.tangent_steps.step import Score, score
from fedtangent.tangents.capture.chain import Chain
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.uses import Uses
from fedtangent.training.task import Task


def score_of(task: Task, w: Weights, basis: Weights, c: Tensor, data: Shard) -> Score:
    """The true network's loss of every combination c (T, k) of directions, summed over a node's rows."""
    found = of_task.uses(task, w, data.x)
    if found.chain is not None:
        return _of_chain(task, found.chain, w, like(basis, w), c, data, found)
    few = [score(task, candidates(w, basis, c[part]), data) for part in slices.groups(len(c), w)]
    return few[0]._replace(total=torch.cat([one.total for one in few]))


def _of_chain(task: Task, chain: Chain, w: Weights, basis: Weights, c: Tensor, data: Shard, found: Uses) -> Score:
    """`score_of` a chain, whose first map sees the data itself."""
    first, *_ = chain.links
    names = [name for name in w if name not in (first.weight, first.bias)]
    rest = candidates({name: w[name] for name in names}, {name: basis[name] for name in names}, c)

    def one(data: Shard) -> Score:
        start, along = once.results(task, w, data.x, found), once.changes(task, basis, data.x, found)
        given = candidates(start, along, c)
        f = chain.run(rest, data.x, given=given)[0]
        # all as rows of one, for a loss of one set of labels
        loss = task.loss.per_sample(f.flatten(0, 1), data.y.repeat(len(c), *[1] * (data.y.dim() - 1)))
        return Score(torch.where(data.real, loss.reshape(f.shape[:2]), 0).sum(1), data.real.sum())

    return slices.summed(one, data, slices.of_losses(found, w, len(c)))  # type: ignore[no-any-return]
