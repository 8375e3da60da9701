"""SCAFFOLD: what is known of all clients' gradients, and of one's own, corrects the drift of local steps.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh. SCAFFOLD: Stochastic Controlled Averaging for Federated Learning.
ICML 2020, Algorithm 1 with option II. arXiv 1910.06378.

    server:  w   <- w_0,  c <- 0
    client:  c_k <- 0
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w,  c                               for every client k in S
             z_k <- SGD(w_k; data_k), c - c_k added to every gradient            t_k steps eta in E local epochs
             e_k <- c_k - c + (w_k - z_k) / (t_k eta)
             w   <- w + eta_s mean_k (z_k - w_k)
             c   <- c + |S| / K  mean_k (e_k - c_k)
             c_k <- e_k
"""

import math
from typing import Any, Literal, NamedTuple

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits, participants, rows
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """w: the server's weights. c: the server's control variate. c_k: the clients'."""

    w: Central[Weights]
    c: Central[Weights]
    c_k: Each[Weights]


def scaffold(
    task: Task,
    *,
    server_lr: float = 1.0,
    aggregation: Literal["plain", "weighted"] = "plain",
    participation: float = 1.0,
    epochs: int = 1,
    batch: int = 10,
    lr: float = 0.1,
) -> Method:
    """SCAFFOLD. The local settings' defaults are FedAvg's; momentum would break the scale of c_k, and is not offered.

    Args:
        task: Model and loss.
        server_lr: eta_s, the step size of the server.
        aggregation: Of both moves, `plain` as in the paper, or `weighted` by rows.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round.
        batch: Rows in a local batch.
        lr: eta, the step size.
    """
    if not 0 < server_lr < math.inf:
        raise SettingError(
            f"`server_lr` must be positive and finite; got {server_lr}. Use 1 to move as far as the clients' mean."
        )
    if aggregation not in ("plain", "weighted"):
        raise SettingError(f"`aggregation` must be 'plain' or 'weighted'; got {aggregation!r}. Choose one of the two.")
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    solve = solvers.sgd(task, lr=lr, pull=lambda w, correction: correction)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        zero = trees.zeros_like(task.w_0)
        return State(fleet.server(task.w_0), fleet.server(zero), fleet.everywhere(zero))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        w, c = clients.as_sent(state.w, "weights"), clients.as_sent(state.c, "control")
        w_k, server_k = clients.broadcast(w), clients.broadcast(c)
        batches_k = clients.draw(draw, data_k, purpose="batches")
        moves_k, c_k = clients.map(train, w_k, server_k, state.c_k, data_k, batches_k).unzip(2)
        weight_k = clients.map(rows, data_k) if aggregation == "weighted" else None
        dw, dc = clients.mean(moves_k, weight_k, "moves").unzip(2)
        w = fleet.at_server(lambda w, dw: trees.add_scaled(w, dw, server_lr), w, dw)
        c = fleet.at_server(lambda c, dc: trees.add_scaled(c, dc, clients.proportion), c, dc)
        return State(w, c, fleet.merge(c_k, state.c_k)), {}

    def train(
        w: Weights, c: Weights, c_k: Weights, data: Shard, batches: Batches
    ) -> tuple[tuple[Weights, Weights], Weights]:
        dw = trees.subtract(solve(w, data, batches, trees.subtract(c, c_k)), w)
        dc = trees.map(lambda dw, c: -dw / solvers.travelled(task, batches) / lr - c, dw, c)
        return (dw, dc), trees.add(c_k, dc)

    down = Message(("down",), lasting=True)
    messages = {"weights": down, "control": down, "moves": Message(("up",), lasting=True)}
    return Method("scaffold", init, round, "aggregate", Traits(averages=True), clients=cohort, messages=messages)
