"""FedAvg: average the clients' models, weighted by their data.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas. Communication-Efficient Learning of Deep
Networks from Decentralized Data. AISTATS 2017, Algorithm 1. arXiv 1602.05629.

    server:  w   <- w_0
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w                                   for every client k in S
             w_k <- SGD(w_k; data_k)                    E local epochs of step eta
             w   <- sum_k n_k / n  w_k
"""

from typing import Any, Literal, NamedTuple

from fedtangent.federation import WEIGHTS_AT_SERVER, Central, Each, Fleet, Method, Traits, participants, rows
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w: the server's weights."""

    w: Central[Weights]


def fedavg(
    task: Task,
    *,
    participation: float = 1.0,
    epochs: int = 1,
    batch: int = 10,
    lr: float = 0.1,
    momentum: float = 0.0,
    optimizer: Literal["sgd", "adam"] = "sgd",
) -> Method:
    """FedAvg.

    Args:
        task: Model and loss.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round.
        batch: B, rows in a local batch.
        lr: eta; Adam needs less, such as 0.001.
        momentum: Of the local SGD; starts at zero every round.
        optimizer: Of the clients, `sgd` as in the paper, or `adam`, which starts anew every round.
    """
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.local(task, optimizer, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.server(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        received_k = clients.broadcast(state.w, "weights")
        batches_k = clients.draw(draw, data_k, purpose="batches")
        w_k = clients.map(train, received_k, data_k, batches_k)
        return State(clients.mean(w_k, clients.map(rows, data_k), "weights", since_k=received_k)), {}

    return Method("fedavg", init, round, "aggregate", Traits(averages=True), clients=cohort, messages=WEIGHTS_AT_SERVER)
