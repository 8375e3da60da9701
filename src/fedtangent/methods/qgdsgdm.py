"""QG-DSGDm: decentralised SGD whose momentum is that of the averaged weights, and so points where all nodes go.

Lin, Karimireddy, Stich, Jaggi. Quasi-Global Momentum: Accelerating Decentralized Deep Learning on Heterogeneous Data.
ICML 2021, Algorithm 1. arXiv 2102.04761.

    node:    w_k <- w_0,  m_k <- 0
    round:   g_k <- gradient of one batch of data_k at w_k
             v_k <- beta m_k + g_k                       in Nesterov's form  g_k + beta (beta m_k + g_k)
             w_k <- sum_l W_kl (w_l - eta v_l)           over the neighbourhood
             m_k <- mu m_k + (1 - mu) (last w_k - w_k) / eta
    at last  w   <- 1/K sum_k w_k                        or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import WEIGHTS_BETWEEN, Each, Fleet, Method, Traits, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """w_k: every node's weights, after averaging. m_k: its momentum, of the averaged weights."""

    w_k: Each[Weights]
    m_k: Each[Weights]


def qgdsgdm(
    task: Task,
    *,
    momentum: float = 0.9,
    mu: float = 0.9,
    nesterov: bool = False,
    epochs: int = 0,
    batch: int = 32,
    lr: float = 0.1,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """QG-DSGDm, in D-PSGD's bytes. Without momentum it is D-PSGD whose nodes adapt first.

    Local epochs are not in Algorithm 1. Here every local step takes the same m_k, which moves once a round, by the mean
    step in place of the only one.

    Args:
        task: Model and loss.
        momentum: beta, how much of m_k a step takes.
        mu: How slowly m_k follows; the paper takes beta.
        nesterov: Whether the step is that of the paper's QG-DSGDm-N.
        epochs: 0 for a gradient of one batch, as in the paper; or passes over a node's data.
        batch: Rows in a batch.
        lr: eta, the step size.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    for name, value in (("momentum", momentum), ("mu", mu)):
        if not 0 <= value < 1:
            raise SettingError(f"`{name}` must be in [0, 1); got {value}. Use 0.9, or 0 for none.")
    aggregate = node_mean(aggregation)
    draw = solvers.drawn(epochs, batch, task.augment)
    own, shared = (1 + momentum, momentum**2) if nesterov else (1.0, momentum)
    train = solvers.sgd(
        task, lr=lr, precondition=lambda g, m: trees.scale(g, own), pull=lambda w, m: trees.scale(m, shared)
    )

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.everywhere(task.w_0), fleet.everywhere(trees.zeros_like(task.w_0)))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        w_k = fleet.mix(fleet.map(train, state.w_k, data_k, batches_k, state.m_k), "weights")
        return State(w_k, fleet.map(followed, state.m_k, state.w_k, w_k, batches_k)), {}

    def followed(m: Weights, last: Weights, w: Weights, batches: Batches) -> Weights:
        steps = solvers.travelled(task, batches)

        def follow(m: Tensor, last: Tensor, w: Tensor) -> Tensor:
            return mu * m + (1 - mu) * (last - w) / steps / lr

        return trees.map(follow, m, last, w)  # type: ignore[no-any-return]

    return Method(
        "qgdsgdm",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, gossips=True),
        aggregate,
        of_nodes,
        messages=WEIGHTS_BETWEEN,
    )
