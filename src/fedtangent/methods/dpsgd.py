"""D-PSGD: a gradient step and an average with the neighbours at once, an exchange for every gradient.

Lian, Zhang, Zhang, Hsieh, Zhang, Liu. Can Decentralized Algorithms Outperform Centralized Algorithms? A Case Study for
Decentralized Parallel Stochastic Gradient Descent. NeurIPS 2017, Algorithm 1. arXiv 1705.09056.

    node:    w_k <- w_0
    round:   g_k <- gradient of one batch of data_k at w_k
             w_k <- sum_l W_kl w_l  -  eta g_k           over the neighbourhood
    at last  w   <- 1/K sum_k w_k                        or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

from fedtangent import trees
from fedtangent.federation import WEIGHTS_BETWEEN, Each, Fleet, Method, Traits, first_weights, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w_k: every node's weights, after averaging."""

    w_k: Each[Weights]


def dpsgd(
    task: Task,
    *,
    epochs: int = 0,
    batch: int = 10,
    lr: float = 0.1,
    adapt_first: bool = False,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """D-PSGD. What comparisons call by its name is often `epochs=1, adapt_first=True`: DFedAvg of one epoch.

    The paper tunes batch and step size by task; the defaults here are those of the NTK-DFL paper's comparison.

    Args:
        task: Model and loss.
        epochs: 0 for a gradient of one batch, as in the paper; or passes over a node's data, whose whole way takes the
            place of eta g_k.
        batch: Rows in a batch.
        lr: eta, the step size.
        adapt_first: Whether neighbours average what the step has led to, in place of where it began.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    aggregate = node_mean(aggregation)
    draw = solvers.drawn(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(first_weights(fleet, task))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        z_k = fleet.map(train, state.w_k, data_k, batches_k)
        if adapt_first:
            return State(fleet.mix(z_k, "weights")), {}
        return State(fleet.map(moved, fleet.mix(state.w_k, "weights"), z_k, state.w_k)), {}

    def moved(mean: Weights, z: Weights, w: Weights) -> Weights:
        return trees.map(lambda mean, z, w: mean + (z - w), mean, z, w)  # type: ignore[no-any-return]

    return Method(
        "dpsgd",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, gossips=True, own_start=True),
        aggregate,
        of_nodes,
        messages=WEIGHTS_BETWEEN,
    )
