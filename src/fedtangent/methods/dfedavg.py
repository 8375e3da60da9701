"""DFedAvg: local training, then an average with the neighbours; with momentum it is DFedAvgM.

Sun, Li, Wang. Decentralized Federated Averaging. IEEE TPAMI 45(4), 2023, Algorithm 1. arXiv 2104.11375.

    node:    w_k <- w_0
    round:   z_k <- SGD(w_k; data_k)                    E local epochs of step eta, momentum theta
             w_k <- sum_l W_kl z_l                      over the neighbourhood
    at last  w   <- 1/K sum_k w_k                       or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

from fedtangent.federation import WEIGHTS_BETWEEN, Each, Fleet, Method, Traits, first_weights, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w_k: every node's weights, after averaging."""

    w_k: Each[Weights]


def dfedavg(
    task: Task,
    *,
    epochs: int = 20,
    batch: int = 25,
    lr: float = 0.1,
    momentum: float = 0.0,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """DFedAvg; DFedAvgM where `momentum` is positive. Defaults as in the NTK-DFL paper's comparison.

    Args:
        task: Model and loss.
        epochs: E, passes over a node's data in a round.
        batch: Rows in a local batch.
        lr: eta, the step size.
        momentum: theta; starts at zero every round.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    aggregate = node_mean(aggregation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(first_weights(fleet, task))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        z_k = fleet.map(train, state.w_k, data_k, batches_k)
        return State(fleet.mix(z_k, "weights")), {}

    return Method(
        "dfedavg",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, gossips=True, own_start=True),
        aggregate,
        of_nodes,
        messages=WEIGHTS_BETWEEN,
    )
