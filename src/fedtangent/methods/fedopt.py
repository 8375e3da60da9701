"""FedOpt: the server takes the clients' mean move as a gradient; FedAvgM, FedAdagrad, FedAdam, FedYogi.

Hsu, Qi, Brown. Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification. 2019.
arXiv 1909.06335: momentum. Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan. Adaptive Federated
Optimization. ICLR 2021, Algorithm 2. arXiv 2003.00295: the others, without bias corrections; v starts at tau^2.

    server:  w   <- w_0,  m <- 0,  v <- tau^2
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w                                   for every client k in S
             w_k <- SGD(w_k; data_k)                    E local epochs of step eta
             d   <- sum_k n_k / n  w_k - w
             m   <- beta1 m + d                         momentum
                    beta1 m + (1 - beta1) d             the others
             v   <- v + d^2                             adagrad
                    beta2 v + (1 - beta2) d^2           adam
                    v - (1 - beta2) d^2 sign(v - d^2)   yogi
             w   <- w + eta_s m                         momentum
                    w + eta_s m / (sqrt(v) + tau)       the others
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import WEIGHTS_AT_SERVER, Central, Each, Fleet, Method, Traits, participants, rows
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers

# v after a move d, by optimizer; momentum has none
SECOND: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "momentum": lambda v, d, beta2: v,
    "adagrad": lambda v, d, beta2: v + d * d,
    "adam": lambda v, d, beta2: beta2 * v + (1 - beta2) * d * d,
    "yogi": lambda v, d, beta2: v - (1 - beta2) * d * d * (v - d * d).sign(),
}


class State(NamedTuple):
    """w: the server's weights. m, v: the moments of their moves; with momentum v stays as it is."""

    w: Central[Weights]
    m: Central[Weights]
    v: Central[Weights]


def fedopt(
    task: Task,
    *,
    optimizer: Literal["momentum", "adagrad", "adam", "yogi"] = "adam",
    server_lr: float | None = None,
    beta1: float | None = None,
    beta2: float | None = None,
    tau: float | None = None,
    participation: float = 1.0,
    epochs: int = 1,
    batch: int = 10,
    lr: float = 0.1,
    momentum: float = 0.0,
) -> Method:
    """FedOpt. The local settings' defaults are FedAvg's; with `momentum`, `beta1` 0 and `server_lr` 1 it is FedAvg.

    Args:
        task: Model and loss.
        optimizer: Of the server: `momentum` is FedAvgM, `adagrad`, `adam` and `yogi` are FedAdagrad and so on.
        server_lr: eta_s; none is 1 for momentum and 0.01 for the others.
        beta1: Decay of m; none is 0 for adagrad and 0.9 for the others.
        beta2: Decay of v, of adam and yogi only; none is 0.99.
        tau: Adaptivity, the smaller the more; not of momentum; none is 0.001.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round.
        batch: Rows in a local batch.
        lr: eta, the step size.
        momentum: Of the local SGD; starts at zero every round.
    """
    server = Server.chosen(optimizer, server_lr, beta1, beta2, tau)
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        m = trees.zeros_like(task.w_0)
        v = trees.map(lambda zero: zero + server.tau**2, m)
        return State(fleet.server(task.w_0), fleet.server(m), fleet.server(v))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        w = clients.as_sent(state.w, "weights")
        received_k = clients.broadcast(w)
        batches_k = clients.draw(draw, data_k, purpose="batches")
        w_k = clients.map(train, received_k, data_k, batches_k)
        mean = clients.mean(w_k, clients.map(rows, data_k), "weights", since_k=received_k)
        return State(*fleet.at_server(server.step, mean, *state._replace(w=w)).unzip(3)), {}

    return Method("fedopt", init, round, "aggregate", Traits(averages=True), clients=cohort, messages=WEIGHTS_AT_SERVER)


class Server(NamedTuple):
    """The server's optimizer."""

    optimizer: str
    lr: float
    beta1: float
    beta2: float
    tau: float

    @classmethod
    def chosen(
        cls, optimizer: str, lr: float | None, beta1: float | None, beta2: float | None, tau: float | None
    ) -> "Server":
        """With the defaults of the optimizer.

        Raises:
            ValueError: A value is out of its range, or not one that this optimizer knows.
        """
        if optimizer not in SECOND:
            raise SettingError(
                f"`optimizer` must be one of {', '.join(SECOND)}; got {optimizer!r}. Choose one of these."
            )
        if beta2 is not None and optimizer not in ("adam", "yogi"):
            raise SettingError(f"`beta2` must be left out for {optimizer}, which has none; got {beta2}. Drop it.")
        if tau is not None and optimizer == "momentum":
            raise SettingError(f"`tau` must be left out for momentum, which has none; got {tau}. Drop it.")
        made = cls(
            optimizer,
            (1.0 if optimizer == "momentum" else 0.01) if lr is None else lr,
            (0.0 if optimizer == "adagrad" else 0.9) if beta1 is None else beta1,
            0.99 if beta2 is None else beta2,
            1e-3 if tau is None else tau,
        )
        if not 0 < made.lr < math.inf:
            raise SettingError(
                f"`server_lr` must be positive and finite; got {lr}. Give a step such as 0.01, or 1 for momentum."
            )
        for name, beta in (("beta1", made.beta1), ("beta2", made.beta2)):
            if not 0 <= beta < 1:
                raise SettingError(f"`{name}` must be in [0, 1); got {beta}. Use 0.9, or leave it out.")
        if not made.tau > 0:
            raise SettingError(f"`tau` must be positive; got {tau}. Use 0.001.")
        return made

    def step(self, mean: Weights, w: Weights, m: Weights, v: Weights) -> tuple[Weights, Weights, Weights]:
        """w, m and v after the clients' mean."""
        d = trees.subtract(mean, w)
        if self.optimizer == "momentum":
            m = trees.map(lambda m, d: self.beta1 * m + d, m, d)
            return trees.add_scaled(w, m, self.lr), m, v
        m = trees.map(lambda m, d: self.beta1 * m + (1 - self.beta1) * d, m, d)
        v = trees.map(lambda v, d: SECOND[self.optimizer](v, d, self.beta2), v, d)
        return trees.map(lambda w, m, v: w + self.lr * m / (v.sqrt() + self.tau), w, m, v), m, v
