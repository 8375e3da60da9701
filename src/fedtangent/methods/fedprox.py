"""FedProx: FedAvg whose clients are held near the server's weights.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith. Federated Optimization in Heterogeneous Networks. MLSys 2020,
Algorithm 2. arXiv 1812.06127. Clients are drawn evenly and weighted by their rows, as in FedAvg.

    server:  w   <- w_0
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w                                              for every client k in S
             w_k <- SGD(w_k; loss on data_k + mu/2 |w_k - w|^2)    E local epochs of step eta
             w   <- sum_k n_k / n  w_k
"""

from typing import Any, Literal, NamedTuple

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import WEIGHTS_AT_SERVER, Central, Each, Fleet, Method, Traits, participants, rows
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w: the server's weights."""

    w: Central[Weights]


def fedprox(
    task: Task,
    *,
    mu: float = 0.01,
    participation: float = 1.0,
    epochs: int = 1,
    batch: int = 10,
    lr: float = 0.1,
    momentum: float = 0.0,
    optimizer: Literal["sgd", "adam"] = "sgd",
) -> Method:
    """FedProx; FedAvg where `mu` is 0. The local settings' defaults are FedAvg's.

    Args:
        task: Model and loss.
        mu: Of the proximal term, the squared distance; the paper tries 0.001 to 1.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round.
        batch: Rows in a local batch.
        lr: eta; Adam needs less, such as 0.001.
        momentum: Of the local SGD; starts at zero every round.
        optimizer: Of the clients, `sgd` as in the paper, or `adam`, which starts anew every round.
    """
    if not mu >= 0:
        raise SettingError(f"`mu` must not be negative; got {mu}. Use 0 for FedAvg.")
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.local(task, optimizer, lr=lr, momentum=momentum, pull=lambda w_k, w: towards(w_k, w, mu))

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.server(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        received_k = clients.broadcast(state.w, "weights")
        batches_k = clients.draw(draw, data_k, purpose="batches")
        w_k = clients.map(train, received_k, data_k, batches_k, received_k)
        return State(clients.mean(w_k, clients.map(rows, data_k), "weights", since_k=received_k)), {}

    return Method(
        "fedprox", init, round, "aggregate", Traits(averages=True), clients=cohort, messages=WEIGHTS_AT_SERVER
    )


def towards(w_k: Weights, w: Weights, mu: float) -> Weights:
    """mu (w_k - w), the gradient of the proximal term."""
    pull: Weights = trees.scale(trees.subtract(w_k, w), mu)
    return pull
