"""OledFL: DFedAvg whose nodes start a round beyond the average, away from where they last trained to.

Li, Zhang, Wang, Yin, Shen. OledFL: Unleashing the Potential of Decentralized Federated Learning via Opposite Lookahead
Enhancement. 2024. arXiv 2410.06482.

    node:    w_k <- w_0,  z_k <- w_0
    round:   z_k <- w_k + beta (w_k - z_k)               the opposite lookahead
             z_k <- SGD(z_k; data_k)                     E local epochs of step eta
             w_k <- sum_l W_kl z_l                       over the neighbourhood
    at last  w   <- 1/K sum_k w_k                        or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import WEIGHTS_BETWEEN, Each, Fleet, Method, Traits, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """w_k: every node's weights, after averaging. z_k: before, where its own steps have led."""

    w_k: Each[Weights]
    z_k: Each[Weights]


def oledfl(
    task: Task,
    *,
    beta: float = 0.1,
    epochs: int = 20,
    batch: int = 25,
    lr: float = 0.1,
    momentum: float = 0.0,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """OledFL, in DFedAvg's bytes. The local settings' defaults are dfedavg's; beta's is ours, for the paper tunes it.

    Args:
        task: Model and loss.
        beta: How far beyond the average a round begins, in lengths of its distance to the node's own last weights; 0 is
            DFedAvg.
        epochs: E, passes over a node's data in a round.
        batch: Rows in a local batch.
        lr: eta, the step size.
        momentum: Of the local SGD; starts at zero every round.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    if not beta >= 0:
        raise SettingError(f"`beta` must not be negative; got {beta}. Use 0.1, or 0 for DFedAvg.")
    aggregate = node_mean(aggregation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    solve = solvers.sgd(task, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.everywhere(task.w_0), fleet.everywhere(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        z_k = fleet.map(train, state.w_k, state.z_k, data_k, batches_k)
        return State(fleet.mix(z_k, "weights"), z_k), {}

    def train(w: Weights, z: Weights, data: Shard, batches: Batches) -> Weights:
        return solve(trees.add_scaled(w, trees.subtract(w, z), beta), data, batches)

    return Method(
        "oledfl",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, gossips=True),
        aggregate,
        of_nodes,
        messages=WEIGHTS_BETWEEN,
    )
