"""Central training: all nodes' rows in one place, the upper end of every plot.

data <- the union of data_k, with multiplicity      what federated learning avoids
round:  w <- SGD(w; data)                           E epochs of step eta
"""

from typing import Any, NamedTuple

from fedtangent import shard, trees
from fedtangent.federation import Central, Each, Fleet, Method, Traits
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w: the weights."""

    w: Central[Weights]


def central(
    task: Task, *, epochs: int = 1, batch: int = 100, lr: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0
) -> Method:
    """Training on the union of the nodes' rows. The rows count as sent, once, in the first round.

    Args:
        task: Model and loss.
        epochs: Passes over all rows in a round.
        batch: How many rows a batch has.
        lr: Step size of the SGD.
        momentum: Of the SGD; starts at zero every round.
        weight_decay: Times the weights, added to the gradient.
    """
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.server(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        def step(w: Weights, shards: list[Shard]) -> Weights:
            data = shard.join(shards)
            return train(w, data, trees.to(draw.of_round(k)(fleet.rng("batches"), data), data.real.device))

        first_round_only = (lambda _: 0) if k > 1 else trees.payload_bytes
        return State(fleet.at_server(step, state.w, fleet.gather(data_k, bill=first_round_only))), {}

    return Method(
        "central", init, round, "raw-equivalent", Traits(needs_all="asks every node once, in round 1", unaveraged=True)
    )
