"""TCT: train features by FedAvg, convexify, and train a linear model on the network's tangent features.

Yu, Wei, Karimireddy, Ma, Jordan. TCT: Convexifying Federated Learning using Bootstrapped Neural Tangent Kernels.
NeurIPS 2022. arXiv 2207.06343.

    server:  w   <- w_0
    round:   w   <- FedAvg's round                            in the first rounds; E local epochs of step eta
             later, at that w, whose last layer gives way to one random output s(x):
             phi(x)  <- p drawn entries of the gradient of s(x) by its weights, for every row
             theta_k <- theta,  c                             for every client k; theta (p, C) begins at 0
             theta_k <- theta_k - lr (grad_k + c - c_k)       M steps on all rows of the squared loss of phi theta
             d_k     <- (theta - theta_k) / (M lr) - c
             theta   <- mean theta_k,  c <- c + mean d_k,  c_k <- c_k + d_k
    at last  f(x) = phi(x) theta
"""

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Message, Method, Schedule, Traits, rows
from fedtangent.shard import Shard, cleared, count
from fedtangent.tangent_steps.last_layer import last_layer
from fedtangent.tangent_steps.slices import slices
from fedtangent.tangents.capture.functional import each
from fedtangent.task import Task, Weights
from fedtangent.training import losses, solvers

THETA, KEPT, HEAD = "tct.theta", "tct.kept", "tct.head"


class State(NamedTuple):
    """What server and clients hold.

    Attributes:
        w: The server's weights.
        theta: The linear model, (p, C).
        c: The server's control variate, like theta.
        c_k: The clients'.
    """

    w: Central[Weights]
    theta: Central[Tensor]
    c: Central[Tensor]
    c_k: Each[Tensor]


class Public(NamedTuple):
    """What all draw from the run's seed. head: the weights of the random output (features,). kept: entries, (p,)."""

    head: Tensor
    kept: Tensor


def tct(
    task: Task,
    *,
    first_rounds: int = 100,
    epochs: int = 5,
    batch: int = 64,
    lr: float = 0.1,
    features: int = 100_000,
    steps: int = 100,
    linear_lr: float = 1e-3,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """TCT, the settings of its authors' code. In later rounds 2 p C numbers go up and down; c_k keeps p C a client.

    Which entries are kept, and the random output, follow from the run's seed, which all know. The squared loss is
    torch's, the mean over rows and outputs, of one-hot labels less 1 / C. Features are in the run's type, not float16.
    The run's model is the network at w; `Result.weights`, and predictor.safetensors of the record, hold what the linear
    model takes beside it.

    Args:
        task: Model and loss; its outputs must be those of its last linear layer.
        first_rounds: How many are FedAvg's; a run must be longer.
        epochs: E, passes over a client's data in each of them.
        batch: Rows in a local batch.
        lr: eta, the step size of FedAvg.
        features: p, how many entries of the gradient are kept; all where there are fewer.
        steps: M, of the linear model in a round.
        linear_lr: Step size of the linear model.
        aggregation: Of the linear model, `plain` as in SCAFFOLD, or `weighted` by rows.
    """
    for name, value, least in (("first_rounds", first_rounds, 0), ("features", features, 1), ("steps", steps, 1)):
        if value < least:
            raise SettingError(f"`{name}` must be at least {least}; got {value}. Give such a number.")
    if not 0 < linear_lr < math.inf:
        raise SettingError(f"`linear_lr` must be positive and finite; got {linear_lr}. Use 0.001.")
    if aggregation not in ("plain", "weighted"):
        raise SettingError(f"`aggregation` must be 'plain' or 'weighted'; got {aggregation!r}. Choose one of the two.")
    tangent = _Tangent(task, features)
    draw = solvers.shuffled(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        zero = tangent.zero()
        return State(fleet.server(task.w_0), fleet.server(zero), fleet.server(zero), fleet.everywhere(zero))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        w_k = fleet.broadcast(state.w, "weights")
        if k <= first_rounds:
            z_k = fleet.map(train, w_k, data_k, fleet.draw(draw, data_k, purpose="batches"))
            return state._replace(w=fleet.mean(z_k, fleet.map(rows, data_k), "weights", since_k=w_k)), {}
        public = tangent.public(fleet)
        theta_k, c_k = fleet.broadcast(state.theta, "theta"), fleet.broadcast(state.c, "control")
        moves_k, new_k = fleet.map(lambda *given: solved(public, *given), w_k, theta_k, c_k, state.c_k, data_k).unzip(2)
        weight_k = fleet.map(rows, data_k) if aggregation == "weighted" else None
        d_theta, d_c = fleet.mean(moves_k, weight_k, "moves").unzip(2)
        theta = fleet.at_server(torch.add, state.theta, d_theta)
        c = fleet.at_server(lambda c, d: c + fleet.proportion * d, state.c, d_c)
        return state._replace(theta=theta, c=c, c_k=new_k), {}

    def solved(
        public: Public, w: Weights, theta: Tensor, c: Tensor, c_k: Tensor, data: Shard
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The client's moves of theta and c, and its new c_k: theta_t = theta + phi^T a_t - t lr (c - c_k)."""
        phi = cleared(tangent.rows(public, w, data.x), data.real)
        start, kernel, along = phi @ theta, phi @ phi.mT, phi @ (c - c_k)
        target, rate = _centred(start, data.y), 2 * linear_lr / start.shape[1]
        a = torch.zeros_like(start)
        for step in range(steps):
            f = start + kernel @ a - step * linear_lr * along
            a = a - torch.where(data.real[:, None], f - target, 0) * rate / data.real.sum()
        move = phi.mT @ a - steps * linear_lr * (c - c_k)
        d = -move / (steps * linear_lr) - c
        return (move, d), c_k + d

    def aggregate(fleet: Fleet, state: State, data_k: Each[Shard]) -> Central[Weights]:
        if fleet.round <= first_rounds:
            return state.w
        public = tangent.public(fleet)
        return fleet.at_server(
            lambda w, theta: w | {THETA: theta, KEPT: public.kept, HEAD: public.head}, state.w, state.theta
        )

    def predict(w: Weights, x: Any) -> Tensor:
        if THETA not in w:
            return task.predict(w, x)
        own = {name: part for name, part in w.items() if name in task.w_0}
        return tangent.rows(Public(w[HEAD], w[KEPT]), own, x) @ w[THETA]

    messages = {
        "weights": Message(("up", "down"), lasting=True),
        "theta": Message(("down",), lasting=True),
        "control": Message(("down",), lasting=True),
        "moves": Message(("up",), lasting=True),
    }
    return Method(
        "tct",
        init,
        round,
        "aggregate",
        Traits(),
        aggregate,
        node_bytes=lambda rows, degree: 8 * tangent.bytes + 2 * (rows + 6 * tangent.outputs) * tangent.bytes,
        schedule=Schedule(first_rounds + 1, first_rounds),
        messages=messages,
        predict=predict,
    )


def _centred(f: Tensor, y: Tensor) -> Tensor:
    """One-hot labels less 1 / C; or targets as they are."""
    return y if y.is_floating_point() else losses.targets(f, y) - 1 / f.shape[1]


class _Tangent:
    """The tangent features of a task's model with one random output in place of its last layer."""

    def __init__(self, task: Task, features: int) -> None:
        self.task = task
        name, layer = last_layer(task)
        self.weight, self.bias = f"{name}weight", f"{name}bias" if layer.bias is not None else None
        self.outputs, self.inputs = layer.out_features, layer.in_features
        if task.example is not None and bool((f := task.predict(self._headed(task.w_0, 0.0), task.example)).any()):
            raise SettingError(
                f"`model` must give the outputs of its last linear layer, {name!r}; got {float(f.abs().max()):.3g} "
                "where that layer gives 0. End the model in a torch.nn.Linear."
            )
        used = []  # of the last layer the first output, which stands for the random one
        for key, part in task.w_0.items():
            whole = torch.ones(part.shape, dtype=torch.bool)
            if key in (self.weight, self.bias):
                whole[1:] = False
            used.append(whole.flatten())
        self.used = torch.cat(used).nonzero()[:, 0]
        self.count = min(features, len(self.used))
        self.like = task.w_0[self.weight]
        self.bytes = len(self.used) * self.like.element_size()

    def _headed(self, w: Weights, head: Tensor | float) -> Weights:
        """The weights with the last layer's first output random, and all its others and its biases 0."""
        last = torch.zeros_like(w[self.weight])
        last[0] = head
        return w | {self.weight: last} | ({self.bias: torch.zeros_like(w[self.bias])} if self.bias is not None else {})

    def zero(self) -> Tensor:
        """theta as it begins."""
        return self.like.new_zeros(self.count, self.outputs)

    def public(self, fleet: Fleet) -> Public:
        """The random output, drawn as torch draws a layer's, and the entries that are kept; the same in every round."""
        rng, bound = replace(fleet, round=0).rng("tangent features"), self.inputs**-0.5
        head = torch.from_numpy(rng.uniform(-bound, bound, self.inputs)).to(self.like)
        kept = torch.from_numpy(rng.permutation(len(self.used))[: self.count])
        return Public(head, self.used[kept.sort().values].to(self.like.device))

    def rows(self, public: Public, w: Weights, x: Any) -> Tensor:
        """phi, (rows, p)."""
        w = self._headed(w, public.head)

        def of_row(x: Any) -> Tensor:
            value, back, *_ = torch.func.vjp(
                lambda w: self.task.predict(w, trees.map(lambda leaf: leaf[None], x))[0, 0], w
            )
            g = back(torch.ones_like(value))[0]
            return torch.cat([g[key].flatten() for key in self.task.w_0])[public.kept]

        parts = slices(count(x), 4 * self.bytes)
        return torch.cat([each(of_row, trees.map(lambda leaf, part=part: leaf[part], x)) for part in parts])
