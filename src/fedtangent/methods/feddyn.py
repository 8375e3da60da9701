"""FedDyn: a regulariser of every client's own lets all of them stop at the same weights.

Acar, Zhao, Navarro, Mattina, Whatmough, Saligrama. Federated Learning Based on Dynamic Regularization. ICLR 2021,
Algorithm 1. arXiv 2111.04263. The model that is scored is the server's w, from which clients start.

    server:  w   <- w_0,  h <- 0
    client:  g_k <- 0
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w                                   for every client k in S
             z_k <- SGD(w_k; loss on data_k - <g_k, z_k> + alpha/2 |z_k - w_k|^2)    E local epochs of step eta
             g_k <- g_k - alpha (z_k - w_k)
             h   <- h - alpha |S| / K (mean_k z_k - w)
             w   <- mean_k z_k - h / alpha
"""

from typing import Any, NamedTuple

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import WEIGHTS_AT_SERVER, Central, Each, Fleet, Method, Traits, participants
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """w: the server's weights. h: the server's memory, the mean of the clients'. g_k: the clients' memories."""

    w: Central[Weights]
    h: Central[Weights]
    g_k: Each[Weights]


def feddyn(
    task: Task,
    *,
    penalty: float = 0.01,
    participation: float = 1.0,
    epochs: int = 1,
    batch: int = 10,
    lr: float = 0.1,
    momentum: float = 0.0,
) -> Method:
    """FedDyn, all clients alike as in the paper. The local settings' defaults are FedAvg's.

    With few local steps the server moves further than its clients: in round 1 by (1 + C) times their mean move.

    Args:
        task: Model and loss.
        penalty: alpha, of the regulariser.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round; the paper takes 5.
        batch: Rows in a local batch; the paper takes 50.
        lr: eta, the step size.
        momentum: Of the local SGD; starts at zero every round.
    """
    if not penalty > 0:
        raise SettingError(f"`penalty` must be positive; got {penalty}. Use 0.01, or the method fedavg for none.")
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)

    def pull(z: Weights, w: Weights, g: Weights) -> Weights:
        found: Weights = trees.map(lambda z, w, g: penalty * (z - w) - g, z, w, g)
        return found

    solve = solvers.sgd(task, lr=lr, momentum=momentum, pull=pull)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        zero = trees.zeros_like(task.w_0)
        return State(fleet.server(task.w_0), fleet.server(zero), fleet.everywhere(zero))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        w = clients.as_sent(state.w, "weights")
        w_k = clients.broadcast(w)
        batches_k = clients.draw(draw, data_k, purpose="batches")
        z_k, g_k = clients.map(train, w_k, state.g_k, data_k, batches_k).unzip(2)
        mean = clients.mean(z_k, message="weights", since_k=w_k)
        w, h = fleet.at_server(lambda mean, w, h: step(mean, w, h, clients.proportion), mean, w, state.h).unzip(2)
        return State(w, h, fleet.merge(g_k, state.g_k)), {}

    def train(w: Weights, g: Weights, data: Shard, batches: Batches) -> tuple[Weights, Weights]:
        z = solve(w, data, batches, w, g)
        return z, trees.add_scaled(g, trees.subtract(z, w), -penalty)

    def step(mean: Weights, w: Weights, h: Weights, share: float) -> tuple[Weights, Weights]:
        h = trees.add_scaled(h, trees.subtract(mean, w), -penalty * share)
        return trees.add_scaled(mean, h, -1 / penalty), h

    return Method("feddyn", init, round, "aggregate", Traits(averages=True), clients=cohort, messages=WEIGHTS_AT_SERVER)
