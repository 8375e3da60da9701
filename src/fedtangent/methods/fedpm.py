"""FedPM: clients take steps preconditioned by their own curvature, and the server weighs where they end by it, too.

Ishii, Niwa, Sawada, Fujino, Harada, Yokota. FedPM: Federated Learning Using Second-order Optimization with
Preconditioned Mixing of Local Parameters. AAAI 2026. arXiv 2511.09100; with the preconditioner of its deep networks,
FOOF: the uncentred covariance of a layer's inputs.

    server:  w   <- w_0
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w                                        for every client k in S
             P_k <- mean over k's rows of u u^T + damping 1  of the inputs u of every linear map at w
             z_k <- z_k - eta P_k^-1 g                       from w_k, for every batch of E local epochs
             w   <- (sum_k P_k)^-1 sum_k P_k z_k             or weighted by n_k

With one step on all rows this is w - eta (sum_k P_k)^-1 sum_k g_k: a Gauss-Newton step with K-FAC's A alone.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits, disclosure, participants, rows
from fedtangent.shard import Shard
from fedtangent.tangent_steps import foof, kfac
from fedtangent.tangent_steps.answers import Answers
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """w: the server's weights. fewest: the rows that a round's sums must have, 0 without a guard."""

    w: Central[Weights]
    fewest: Central[Tensor]


class Sums(NamedTuple):
    """What a client sends, and what is added up.

    Attributes:
        moves: P_k (z_k - w), like the weights.
        inputs: The mean of u u^T of every linear map, packed.
        weight: What both are multiplied by: 1, or the client's rows.
    """

    moves: Weights
    inputs: dict[str, Tensor]
    weight: Tensor


def fedpm(
    task: Task,
    *,
    damping: float = 1.0,
    participation: float = 1.0,
    epochs: int = 5,
    batch: int = 64,
    lr: float = 0.1,
    aggregation: Literal["plain", "weighted"] = "plain",
    guard: bool = True,
) -> Method:
    """FedPM. In a round I^2 / 2 numbers of a layer's I inputs go up beside the weights, and I^3 multiply-adds are done.

    Ours are the damping, batch and lr; that P_k is of all rows and once a round; and that parameters of no linear map
    take plain steps and a plain mean. The server adds up sums, and so need not see any client's.

    Args:
        task: Model and loss; it must be deterministic.
        damping: Added to the diagonal of every P_k.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round.
        batch: Rows in a local batch.
        lr: eta; 1 is the step that a quadratic loss with that curvature asks for.
        aggregation: How clients count, all alike (`plain`, as in the paper) or `weighted` by rows.
        guard: Whether a round is refused whose sums would show a client or a row, as in fedkfac. Without it the
            exposure is `kernel`.
    """
    if not damping > 0:
        raise SettingError(f"`damping` must be positive; got {damping}. Use 1.")
    if aggregation not in ("plain", "weighted"):
        raise SettingError(f"`aggregation` must be 'plain' or 'weighted'; got {aggregation!r}. Choose one of the two.")
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)
    solve = solvers.sgd(task, lr=lr, precondition=lambda g, lower: foof.solved(lower, g))

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        fewest = fleet.server(torch.tensor(0))
        if guard:
            fewest = fleet.at_server(most, fleet.gather(fleet.map(sizes, data_k)))
        return State(fleet.server(task.w_0), fewest)

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        if guard:
            clients.at_server(check, clients.gather(clients.map(rows, data_k)), state.fewest)
        w_k = clients.broadcast(state.w, "weights")
        batches_k = clients.draw(draw, data_k, purpose="batches")
        total, refused = clients.sum(clients.map(train, w_k, data_k, batches_k), "sums", lambda sums: sums.weight)
        return state._replace(w=fleet.at_server(mixed, state.w, total)), {"refused": refused}

    def sizes(data: Shard) -> Tensor:
        _, first, others = kfac.sizes(task, data, other="exact")
        return torch.maximum(first, others)

    def most(fewest: list[Tensor]) -> Tensor:
        return torch.stack(fewest).max()

    def check(counts: list[Tensor], fewest: Tensor) -> None:
        disclosure.check(counts, int(fewest), "Raise participation or nodes, or take guard off.")

    def train(w: Weights, data: Shard, batches: Batches) -> Sums:
        a, count = kfac.all_inputs(task, w, data)
        p = foof.damped(a, count, damping)
        move = trees.subtract(solve(w, data, batches, foof.factored(p)), w)
        weight = count if aggregation == "weighted" else torch.ones_like(count)
        moves, means = foof.times(p, move), trees.map(lambda part: part / count, a)
        return Sums(trees.scale(moves, weight), trees.scale(means, weight), weight)

    def mixed(w: Weights, total: Sums) -> Weights:
        p = foof.damped(total.inputs, total.weight, damping)
        mean = trees.map(lambda part: part / total.weight, total.moves)
        return trees.add(w, foof.solved(foof.factored(p), mean))  # type: ignore[no-any-return]

    return Method(
        "fedpm",
        init,
        round,
        "aggregate" if guard else "kernel",
        Traits(tangent=True),
        clients=cohort,
        node_bytes=Answers(task, "exact", 0.0).node_bytes(1, 1),
        messages={"weights": Message(("down",), lasting=True), "sums": Message(("up",))},
    )
