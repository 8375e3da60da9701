"""Gradient tracking: every node steps along an estimate of all nodes' mean gradient, which gossip keeps up to date.

Pu, Nedic. Distributed Stochastic Gradient Tracking Methods. Mathematical Programming 187, 2021. arXiv 1805.11454.
With momentum it is Momentum Tracking: Takezawa, Bao, Niwa, Sato, Yamada. Momentum Tracking: Momentum Acceleration for
Decentralized Deep Learning on Heterogeneous Data. TMLR 2023. arXiv 2209.15505; with local epochs K-GT: Liu, Lin,
Koloskova, Stich. Decentralized Gradient Tracking with Local Steps. 2023. arXiv 2301.01313.

In the usual form the estimate is y_k <- sum_l W_kl y_l + u_k - last u_k. Kept here is c_k = u_k - sum_l W_kl y_l, how
far a node's own gradient is off the estimate, so that y_k = u_k - c_k.

    node:    w_k <- w_0,  u_k <- 0,  c_k <- 0
    round:   u_k <- beta u_k + gradient of one batch of data_k at w_k
             y_k <- u_k - c_k                            with local epochs the mean of what their steps take
             w_k <- sum_l W_kl (w_l - eta y_l)           over the neighbourhood
             c_k <- y_k + c_k - sum_l W_kl y_l
    at last  w   <- 1/K sum_k w_k                        or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Each, Fleet, Message, Method, Traits, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """Every node's.

    Attributes:
        w_k: Weights, after averaging.
        u_k: The momentum of its own gradients; empty without momentum.
        c_k: How far its own gradient, or momentum, is off the estimate of all nodes'.
    """

    w_k: Each[Weights]
    u_k: Each[Weights]
    c_k: Each[Weights]


def gradient_tracking(
    task: Task,
    *,
    momentum: float = 0.0,
    epochs: int = 0,
    batch: int = 32,
    lr: float = 0.1,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """Gradient tracking, in twice D-PSGD's bytes: weights and estimates. Its papers tune batch and lr by task.

    Where degrees differ, only the gossip weights `metropolis` make the estimates those of all nodes alike.

    Args:
        task: Model and loss.
        momentum: beta, of Momentum Tracking, whose paper takes 0.9; it has a gradient a round and no local epochs.
        epochs: 0 for a gradient of one batch; or passes over a node's data, in each step of which c_k stays.
        batch: Rows in a batch.
        lr: eta, the step size.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    if not 0 <= momentum < 1:
        raise SettingError(f"`momentum` must be in [0, 1); got {momentum}. Use 0.9, or 0 for none.")
    if momentum and epochs:
        raise SettingError(
            f"`momentum` must be 0 with local epochs, which Momentum Tracking does not have; got {momentum}. "
            "Use epochs 0, or no momentum."
        )
    aggregate = node_mean(aggregation)
    draw = solvers.drawn(epochs, batch, task.augment)
    solve = solvers.sgd(task, lr=lr, pull=lambda w, more: more)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        zero = fleet.everywhere(trees.zeros_like(task.w_0))
        return State(fleet.everywhere(task.w_0), zero if momentum else fleet.everywhere({}), zero)

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        z_k, y_k, u_k = fleet.map(train, state.w_k, state.u_k, state.c_k, data_k, batches_k).unzip(3)
        w_k, mean_k = fleet.mix(z_k, "weights"), fleet.mix(y_k, "estimates")
        return State(w_k, u_k, fleet.map(corrected, y_k, state.c_k, mean_k)), {}

    def train(w: Weights, u: Weights, c: Weights, data: Shard, batches: Batches) -> tuple[Weights, Weights, Weights]:
        more = trees.map(lambda u, c: momentum * u - c, u, c) if momentum else trees.scale(c, -1)
        z = solve(w, data, batches, more)
        y = trees.map(lambda w, z: (w - z) / solvers.travelled(task, batches) / lr, w, z)
        return z, y, trees.add(y, c) if momentum else u

    def corrected(y: Weights, c: Weights, mean: Weights) -> Weights:
        return trees.map(lambda y, c, mean: y + c - mean, y, c, mean)  # type: ignore[no-any-return]

    return Method(
        "gradient_tracking",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, gossips=True),
        aggregate,
        of_nodes,
        messages={name: Message(("between",), lasting=True) for name in ("weights", "estimates")},
    )
