"""Pooled: a node trains on its neighbours' rows as on its own; the honest control of whatever sends rows or Jacobians.

The round is that of DFedAvg (Sun, Li, Wang. Decentralized Federated Averaging. IEEE TPAMI 45(4), 2023), in the order of
NTK-DFL (Thompson, Yue, Wong, Dai. ICML 2025), whose messages tell as much as the rows that are sent here.

    node:    w_k <- w_0
    round:   w_k <- mean of w_l over the neighbourhood
             w_k <- SGD(w_k; data_k and data_l of all neighbours l)      E epochs of step eta
    at last  w   <- 1/K sum_k w_k                                        or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

from fedtangent import shard
from fedtangent.federation import (
    WEIGHTS_BETWEEN,
    Each,
    Fleet,
    Inbox,
    Method,
    Traits,
    first_weights,
    node_mean,
    of_nodes,
)
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w_k: every node's weights, after training."""

    w_k: Each[Weights]


def pooled(
    task: Task,
    *,
    epochs: int = 20,
    batch: int = 25,
    lr: float = 0.1,
    momentum: float = 0.0,
    averaging: bool = True,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """Local training on the neighbourhood's rows; defaults as DFedAvg's.

    Args:
        task: Model and loss.
        epochs: E, passes over the neighbourhood's rows in a round.
        batch: Rows in a batch.
        lr: eta, the step size.
        momentum: Of the local SGD; starts at zero every round.
        averaging: Whether a round starts from the neighbourhood's mean, or (an ablation) from the node's own weights.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    aggregate = node_mean(aggregation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(first_weights(fleet, task))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        w_k = fleet.mix(state.w_k, "weights") if averaging else state.w_k
        pool_k = fleet.map(together, data_k, fleet.share(data_k))
        return State(fleet.map(train, w_k, pool_k, fleet.draw(draw, pool_k, purpose="batches"))), {}

    def together(own: Shard, inbox: Inbox) -> Shard:
        pool: Shard = shard.join([own, inbox.values])
        return pool

    return Method(
        "pooled",
        init,
        round,
        "raw-equivalent",
        Traits(neighbours=True, own_start=True),
        aggregate,
        of_nodes,
        messages=WEIGHTS_BETWEEN if averaging else {},
    )
