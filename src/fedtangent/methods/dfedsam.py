"""DFedSAM: DFedAvg whose local steps look for flat minima, by the gradient at the worst point nearby.

Shi, Shen, Wei, Sun, Yuan, Wang, Tao. Improving the Model Consistency of Decentralized Federated Learning. ICML 2023,
Algorithm 1; with several gossip steps it is DFedSAM-MGS. arXiv 2302.04083. The local step is that of Foret, Kleiner,
Mobahi, Neyshabur. Sharpness-Aware Minimization for Efficiently Improving Generalization. ICLR 2021; the adaptive one
that of Kwon, Kim, Park, Choi. ASAM. ICML 2021.

    node:    w_k <- w_0
    round:   z_k <- w_k
             z_k <- z_k - eta grad f(z_k + rho g / |g|)     g = grad f(z_k) on the same batch; E local epochs
             w_k <- sum_l W_kl z_l                          over the neighbourhood, Q times
    at last  w   <- 1/K sum_k w_k                           or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import WEIGHTS_BETWEEN, Each, Fleet, Method, Traits, first_weights, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers

_TINY = 1e-12  # beside a norm that may be zero, as in the reference code


class State(NamedTuple):
    """w_k: every node's weights, after averaging."""

    w_k: Each[Weights]


def dfedsam(
    task: Task,
    *,
    rho: float = 0.01,
    adaptive: bool = False,
    gossip_steps: int = 1,
    epochs: int = 5,
    batch: int = 128,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """DFedSAM, twice the work of DFedAvg. Its paper's lr is that of `--lr-schedule step --lr-every 1 --lr-gamma 0.998`.

    Args:
        task: Model and loss.
        rho: How far the worst point is looked for; 0 is DFedAvg.
        adaptive: Whether distances are measured relative to the weights' sizes (ASAM): rho w^2 g / |w g|.
        gossip_steps: Q, averages with the neighbours in a round, each of which is sent; the paper's MGS takes 4.
        epochs: E, passes over a node's data in a round.
        batch: Rows in a local batch.
        lr: eta, the step size.
        momentum: Of the local SGD; starts at zero every round.
        weight_decay: Times the weights, added to the gradient.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    if not rho >= 0:
        raise SettingError(f"`rho` must not be negative; got {rho}. Use 0.01, or 0 for DFedAvg.")
    if gossip_steps < 1:
        raise SettingError(f"`gossip_steps` must be at least 1; got {gossip_steps}. Use 1, or more bytes and 4.")
    aggregate = node_mean(aggregation)
    draw = solvers.shuffled(epochs, batch, task.augment)

    def worst(w: Weights, g: Weights) -> Weights:
        def scaled(w: Tensor, g: Tensor, power: int) -> Tensor:
            return g * w.abs() ** power if adaptive else g

        along = trees.map(lambda w, g: scaled(w, g, 1), w, g)
        reach = rho / (trees.inner(along, along).sqrt() + _TINY)
        return trees.map(lambda w, g: w + reach * scaled(w, g, 2), w, g)  # type: ignore[no-any-return]

    train = solvers.sgd(task, lr=lr, momentum=momentum, weight_decay=weight_decay, ahead=worst if rho else None)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(first_weights(fleet, task))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        w_k = fleet.map(train, state.w_k, data_k, batches_k)
        for _ in range(gossip_steps):
            w_k = fleet.mix(w_k, "weights")
        return State(w_k), {}

    return Method(
        "dfedsam",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, gossips=True, own_start=True),
        aggregate,
        of_nodes,
        messages=WEIGHTS_BETWEEN,
    )
