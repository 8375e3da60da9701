"""DisPFL: every node trains a sparse model of its own, whose mask it prunes and regrows, and averages where masks meet.

Dai, Shen, He, Tian, Tao. DisPFL: Towards Communication-Efficient Personalized Federated Learning via Decentralized
Sparse Training. ICML 2022, Algorithm 1. arXiv 2206.00187.

    node:    m_k <- random masks of a share rho of the weights,  w_k <- m_k w_0,  n_k <- m_k
    round:   w_k <- sum_l m_l w_l / sum_l m_l  over the neighbourhood, 0 where nobody has a weight,  times n_k
             m_k <- n_k
             w_k <- SGD(w_k; data_k), gradients times m_k            E local epochs of step eta
             n_k <- m_k without a share a_t of its weights, the smallest of each layer, and with as many others:
                    those of the largest gradient of one batch       a_t = a / 2 (1 + cos(pi t / T))
    at last  w   <- sum_k m_k w_k / sum_k m_k
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Inbox, Method, Traits, of_nodes
from fedtangent.shard import Shard, at
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches

Masks = dict[str, Tensor]  # of the matrices, as bool


class State(NamedTuple):
    """Every node's. w_k: weights, 0 off their mask. m_k: that mask. n_k: the one of the next round."""

    w_k: Each[Weights]
    m_k: Each[Masks]
    n_k: Each[Masks]


class Sparse(NamedTuple):
    """A message: weights and their mask."""

    weights: Weights
    mask: Masks


def dispfl(
    task: Task,
    *,
    density: float = 0.5,
    anneal: float = 0.5,
    horizon: int = 500,
    regrow: Literal["gradient", "random"] = "gradient",
    own_masks: bool = False,
    epochs: int = 5,
    batch: int = 128,
    lr: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 5e-4,
) -> Method:
    """DisPFL, in about rho of DFedAvg's bytes and a bit a weight for the mask.

    Nodes' models are personal: they are measured as they are, not after a further average. Densities of the layers are
    those of ERK (Evci et al. ICML 2020): larger layers are sparser. Biases, scales and other vectors stay dense. The
    paper's clipped gradients and shrinking lr are settings of any run, `--clip 10 --lr-schedule step --lr-every 1
    --lr-gamma 0.998`.

    Args:
        task: Model and loss.
        density: rho, the share of all matrices' weights that a node has.
        anneal: a, the share of its weights that a matrix loses and regrows in round 1; ever less until the horizon.
        horizon: T, the rounds after which nothing is pruned any more; the paper's are all of a run.
        regrow: Where weights come back, at the largest `gradient` or at `random`.
        own_masks: Whether first masks are every node's own; else they are all alike.
        epochs: E, passes over a node's data in a round.
        batch: Rows in a local batch, and in the one whose gradient decides.
        lr: eta, the step size.
        momentum: Of the local SGD; starts at zero every round.
        weight_decay: Times the weights, added to the gradient.
    """
    if not 0 < density <= 1:
        raise SettingError(f"`density` must be in (0, 1]; got {density}. Use 0.5, or 1 for all weights.")
    if not 0 <= anneal <= 1:
        raise SettingError(f"`anneal` must be in [0, 1]; got {anneal}. Use 0.5, or 0 for masks that stay.")
    if horizon < 1:
        raise SettingError(f"`horizon` must be at least 1; got {horizon}. Give a number of rounds.")
    if regrow not in ("gradient", "random"):
        raise SettingError(f"`regrow` must be 'gradient' or 'random'; got {regrow!r}. Choose one of the two.")
    counts = erk(task.w_0, density)
    draw, one = solvers.shuffled(epochs, batch, task.augment), solvers.drawn(0, batch)

    train = solvers.sgd(task, lr=lr, momentum=momentum, weight_decay=weight_decay, precondition=_times)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        def first(rng: np.random.Generator) -> Masks:
            return {name: _drawn(rng, task.w_0[name].shape, count) for name, count in counts.items()}

        m_k = fleet.draw(first, purpose="masks") if own_masks else fleet.everywhere(first(fleet.rng("masks")))
        m_k = fleet.map(lambda mask: {name: part.to(task.w_0[name].device) for name, part in mask.items()}, m_k)
        return State(fleet.map(lambda mask: _times(task.w_0, mask), m_k), m_k, m_k)

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        sent_k = fleet.map(Sparse, state.w_k, state.m_k)
        near_k = fleet.ask(lambda _, own: own, fleet.everywhere(torch.zeros(0)), sent_k, bill=lambda _: size)
        start_k = fleet.map(_averaged, sent_k, near_k, state.n_k)
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        w_k = fleet.map(train, start_k, data_k, batches_k, state.n_k)
        chance_k = fleet.draw(by_chance if regrow == "random" else one, data_k, purpose="regrow")
        share = anneal / 2 * (1 + math.cos(math.pi * min(k - 1, horizon) / horizon))
        n_k = fleet.map(lambda *given: renewed(share, *given), w_k, state.n_k, data_k, chance_k)
        return State(w_k, state.n_k, n_k), {}

    def by_chance(rng: np.random.Generator, data: Shard) -> Weights:
        return {name: torch.from_numpy(rng.random(tuple(task.w_0[name].shape))) for name in counts}

    def renewed(share: float, w: Weights, mask: Masks, data: Shard, chance: Any) -> Masks:
        if regrow == "gradient":
            batches: Batches = chance
            index = batches.rows[0]
            x, y, _ = at(data, (index - 1).clamp(min=0))
            part = Shard(x, y, index > 0)
            chance = torch.func.grad(lambda w: solvers.mean_loss(task, w, part))(w)
        return {
            name: _moved(w[name].abs(), chance[name].abs(), part, math.ceil(share * counts[name]))
            for name, part in mask.items()
        }

    def aggregate(fleet: Fleet, state: State, data_k: Each[Shard]) -> Central[Weights]:
        whole_k = fleet.map(lambda mask: {name: _whole(mask, name, part) for name, part in task.w_0.items()}, state.m_k)
        weights, models = fleet.mean(state.w_k), fleet.mean(whole_k)
        return fleet.at_server(lambda w, m: trees.map(lambda w, m: torch.where(m > 0, w / m, 0), w, m), weights, models)

    number = trees.number_bytes(task.w_0)
    dense = sum(part.numel() for name, part in task.w_0.items() if name not in counts)
    bits = sum(task.w_0[name].numel() for name in counts)
    size = number * (sum(counts.values()) + dense) + -(-bits // 8)
    return Method(
        "dispfl", init, round, "aggregate", Traits(neighbours=True, personal=True, unaveraged=True), aggregate, of_nodes
    )


def erk(w: Weights, density: float) -> dict[str, int]:
    """How many weights of each matrix are kept: in proportion to the sum of its sizes, at most all, `density` of all.

    Args:
        w: Weights, of which vectors are left out.
        density: The share of all matrices' weights.

    Raises:
        ValueError: A matrix would be left without a weight.
    """
    sizes = {name: part.numel() for name, part in w.items() if part.dim() > 1}
    full: set[str] = set()
    while True:
        wanted = density * sum(sizes.values()) - sum(sizes[name] for name in full)
        scale = wanted / max(1, sum(sum(w[name].shape) for name in sizes if name not in full))
        over = {name for name in sizes if name not in full and scale * sum(w[name].shape) > sizes[name]}
        if not over:
            break
        full |= over
    counts = {
        name: size if name in full else int(scale * sum(w[name].shape) * (1 + 1e-12)) for name, size in sizes.items()
    }
    for name, count in counts.items():
        if count < 1:
            raise SettingError(
                f"`density` must leave every matrix a weight; got {density}, and none of {sizes[name]} in {name!r}. "
                "Use a larger one."
            )
    return counts


def _averaged(own: Sparse, near: Inbox, mask: Masks) -> Weights:
    """The mean of every weight over those of the neighbourhood that have it, where the mask is."""

    def mean(own: Tensor, theirs: Tensor, has: Tensor | None, have: Tensor | None) -> Tensor:
        real = near.real.reshape(-1, *[1] * own.dim())
        have = real.expand(theirs.shape) if have is None else have & real
        models = have.sum(0) + (1 if has is None else has.to(torch.int64))
        return (own + torch.where(have, theirs, 0).sum(0)) / models.clamp(min=1)

    theirs: Sparse = near.values
    w = {
        name: mean(part, theirs.weights[name], own.mask.get(name), theirs.mask.get(name))
        for name, part in own.weights.items()
    }
    return _times(w, mask)


def _drawn(rng: np.random.Generator, shape: torch.Size, count: int) -> Tensor:
    """A mask with so many weights."""
    flat = np.zeros(math.prod(shape), dtype=bool)
    flat[rng.permutation(len(flat))[:count]] = True
    return torch.from_numpy(flat).reshape(shape)


def _whole(mask: Masks, name: str, like: Tensor) -> Tensor:
    """The mask of a parameter as numbers; of a vector ones."""
    return mask[name].to(like.dtype) if name in mask else torch.ones_like(like)


def _times(w: Weights, mask: Masks) -> Weights:
    return {name: torch.where(mask[name], part, 0) if name in mask else part for name, part in w.items()}


def _moved(w: Tensor, score: Tensor, mask: Tensor, count: int) -> Tensor:
    """The mask without its so many smallest weights, and with as many others, those of the highest score."""
    flat = mask.flatten()
    smallest = torch.where(flat, w.flatten(), torch.inf).argsort(stable=True)[:count]
    flat = flat.scatter(0, smallest, torch.zeros_like(smallest, dtype=torch.bool))
    largest = torch.where(flat, -torch.inf, score.flatten()).argsort(descending=True, stable=True)[:count]
    return flat.scatter(0, largest, torch.ones_like(largest, dtype=torch.bool)).reshape(mask.shape)
