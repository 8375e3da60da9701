"""Local training: every node alone, the lower end of every plot.

node:    w_k <- w_0
round:   w_k <- SGD(w_k; data_k)                    E local epochs of step eta
at last  w   <- 1/K sum_k w_k                       for the record only
"""

from typing import Any, NamedTuple

from fedtangent.federation import Central, Each, Fleet, Method, Traits, first_weights, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w_k: every node's weights."""

    w_k: Each[Weights]


def local(task: Task, *, epochs: int = 1, batch: int = 10, lr: float = 0.1, momentum: float = 0.0) -> Method:
    """Local training, without any communication.

    Args:
        task: Model and loss.
        epochs: Passes over a node's data in a round.
        batch: Rows in a batch.
        lr: Step size of the SGD.
        momentum: Of the SGD; starts at zero every round.
    """
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(first_weights(fleet, task))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        return State(fleet.map(train, state.w_k, data_k, batches_k)), {}

    def aggregate(fleet: Fleet, state: State, data_k: Each[Shard]) -> Central[Weights]:
        return fleet.mean(state.w_k)

    return Method("local", init, round, "none", Traits(unaveraged=True, own_start=True), aggregate, of_nodes)
