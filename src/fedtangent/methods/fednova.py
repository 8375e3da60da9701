"""FedNova: the clients' moves are divided by how far their steps could take them, before they are averaged.

Wang, Liu, Liang, Joshi, Poor. Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization.
NeurIPS 2020, equations 5 to 8, local SGD with momentum rho. arXiv 2007.07481.

    server:  w   <- w_0
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w                                   for every client k in S
             z_k <- SGD(w_k; data_k)                    t_k steps eta in E local epochs
             a_k <- sum over t = 1..t_k of (1 - rho^t) / (1 - rho)         t_k without momentum
             d_k <- (w_k - z_k) / a_k
             w   <- w - (sum_k n_k / n  a_k) (sum_k n_k / n  d_k)
"""

from typing import Any, NamedTuple

from torch import Tensor

from fedtangent import trees
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits, participants, rows
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """w: the server's weights."""

    w: Central[Weights]


def fednova(
    task: Task, *, participation: float = 1.0, epochs: int = 1, batch: int = 10, lr: float = 0.1, momentum: float = 0.0
) -> Method:
    """FedNova. The local settings' defaults are FedAvg's; where all clients take as many steps it is FedAvg.

    Args:
        task: Model and loss.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round.
        batch: Rows in a local batch.
        lr: eta, the step size.
        momentum: rho, of the local SGD; starts at zero every round.
    """
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    solve = solvers.sgd(task, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.server(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        w = clients.as_sent(state.w, "weights")
        w_k = clients.broadcast(w)
        batches_k = clients.draw(draw, data_k, purpose="batches")
        move_k = clients.map(train, w_k, data_k, batches_k)
        a, d = clients.mean(move_k, clients.map(rows, data_k), "moves").unzip(2)
        return State(fleet.at_server(lambda w, a, d: trees.add_scaled(w, d, -a), w, a, d)), {}

    def train(w: Weights, data: Shard, batches: Batches) -> tuple[Tensor, Weights]:
        z = solve(w, data, batches)
        t = batches.real.sum().to(next(iter(w.values())).dtype)
        a = (t - momentum * (1 - momentum**t) / (1 - momentum)) / (1 - momentum)
        return a, trees.scale(trees.subtract(w, z), 1 / a)

    messages = {"weights": Message(("down",), lasting=True), "moves": Message(("up",), lasting=True)}
    return Method("fednova", init, round, "aggregate", Traits(averages=True), clients=cohort, messages=messages)
