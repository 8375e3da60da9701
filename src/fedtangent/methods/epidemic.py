"""Epidemic Learning: after local steps every node sends its model to a few nodes drawn anew in every round.

De Vos, Farhadkhani, Guerraoui, Kermarrec, Pires, Sharma. Epidemic Learning: Boosting Decentralized Learning with
Randomized Communication. NeurIPS 2023, Algorithms 1 to 3. arXiv 2310.01972.

    node:    w_k <- w_0
    round:   S_k <- s random other nodes                 EL-Local; EL-Oracle: the neighbours in a random s-regular graph
             z_k <- SGD(w_k; data_k)                     one batch, or E local epochs, of step eta
             send z_k to S_k
             w_k <- mean of z_k and of all z_l that came
    at last  w   <- 1/K sum_k w_k                        or weighted by n_k
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from fedtangent import catalog
from fedtangent.errors import SettingError
from fedtangent.federation import (
    WEIGHTS_BETWEEN,
    Each,
    Fleet,
    Graph,
    Method,
    Traits,
    first_weights,
    node_mean,
    of_nodes,
)
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers


class State(NamedTuple):
    """w_k: every node's weights, after averaging."""

    w_k: Each[Weights]


def epidemic(
    task: Task,
    *,
    sample: int | None = None,
    draws: Literal["local", "oracle"] = "local",
    epochs: int = 0,
    batch: int = 10,
    lr: float = 0.1,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """Epidemic Learning; any node may send to any other, so it takes no topology. Local defaults are dpsgd's.

    Args:
        task: Model and loss.
        sample: s, to how many nodes each sends; none is the paper's log2 of their number, rounded up.
        draws: Who draws receivers: every node for itself, so that some get more than others (EL-Local), or an
            `oracle`, by which every node sends to s and hears s (EL-Oracle).
        epochs: 0 for a gradient of one batch; or passes over a node's data.
        batch: Rows in a batch.
        lr: eta, the step size.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    if sample is not None and sample < 1:
        raise SettingError(f"`sample` must be at least 1; got {sample}. Give a number of nodes, or leave it out.")
    if draws not in ("local", "oracle"):
        raise SettingError(f"`draws` must be 'local' or 'oracle'; got {draws!r}. Choose one of the two.")
    aggregate = node_mean(aggregation)
    draw = solvers.drawn(epochs, batch, task.augment)
    train = solvers.sgd(task, lr=lr)

    def graph(nodes: int, rng: np.random.Generator) -> Graph:
        odd = draws == "oracle" and nodes % 2
        s = max(math.ceil(math.log2(nodes)), 1) if sample is None else sample
        s += int(odd and sample is None and s % 2)
        if s >= nodes or (odd and s % 2):
            rule = f"below the number of nodes, {nodes}" if s >= nodes else f"even for an oracle of {nodes} nodes"
            raise SettingError(f"`sample` must be {rule}; got {s}. Use another, or more nodes.")
        if draws == "oracle":
            found: Graph = catalog.load("topologies", "regular")(nodes, rng, degree=s)
            return found
        sent = ((i, (i + 1 + int(j)) % nodes) for i in range(nodes) for j in rng.choice(nodes - 1, s, replace=False))
        return Graph(sent, nodes, directed=True)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(first_weights(fleet, task))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        z_k = fleet.map(train, state.w_k, data_k, batches_k)
        return State(fleet.mix(z_k, "weights")), {}

    return Method(
        "epidemic",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, gossips=True, own_start=True),
        aggregate,
        of_nodes,
        messages=WEIGHTS_BETWEEN,
        graph=graph,
    )
