"""NTK-FL: clients send Jacobians, and the server takes many steps at once in the tangent space, choosing how many.

Yue, Jin, Pilgrim, Wong, Baron, Dai. Neural Tangent Kernel Empowered Federated Learning. ICML 2022. arXiv 2110.03681.

    server:  w   <- w_0
    round:   S   <- a random set of max(C K, 1) clients
             J_k <- Jacobian of k's data at w, for every client k in S; and its outputs and labels
             K   <- J J^T over all rows                         trace or full
             w(t) <- w - J^T alpha_t at candidate times t
             w   <- the w(t) of the lowest loss on the clients' rows
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import shard, trees
from fedtangent.fleet import Central, Each, Fleet, Method, participants
from fedtangent.shard import Shard
from fedtangent.tangents.step import (
    Rows,
    Score,
    Step,
    bill,
    choose,
    held_out,
    linearize,
    mean_loss,
    nothing_found,
    score,
)
from fedtangent.task import Task, Weights


class State(NamedTuple):
    """w: the server's weights."""

    w: Central[Weights]


def ntkfl(
    task: Task,
    *,
    participation: float = 0.07,
    kernel: Literal["trace", "full"] = "trace",
    clock: Literal["flow", "descent"] = "flow",
    times: Sequence[int] = (100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1500, 2000),
    lr: float = 0.01,
    decay: float = 0.0,
    selection: Literal["loss", "linearised", "held-out"] = "loss",
    exchange: Literal["jacobian", "factors"] = "jacobian",
) -> Method:
    """NTK-FL, with the defaults of the authors' code.

    Args:
        task: Model and loss; its trainable parameters in Linear layers.
        participation: C, the share of the clients in a round.
        kernel: `trace`, the paper's, or `full`, the exact dynamics of the linearised network.
        clock: `flow` or `descent`.
        times: Candidate numbers of steps.
        lr: Length of a step.
        decay: lr shrinks by exp(-decay) every round.
        selection: By the candidates' true `loss`, scored by the rows' owners; by the `linearised` network's; or by the
            true loss on `held-out` rows, a tenth of every client's.
        exchange: What is billed: the paper's Jacobians, or the factors, which give the same kernel.
    """
    cohort = participants(participation)
    step = Step(kernel, clock, tuple(times), lr, decay, selection)
    answer = bill(task, exchange)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(Central(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        fit_k = held_k = data_k
        if selection == "held-out":  # the same rows in every round
            fit_k, held_k = replace(fleet, round=0).draw(held_out, data_k, purpose="held-out")
        rows = clients.gather(clients.map(_linearize, clients.broadcast(state.w), fit_k), bill=answer)
        tries, loss = fleet.at_server(lambda w, rows: evolve(w, rows, step.rate(k)), state.w, rows)
        if selection != "linearised":
            score_k = clients.map(_score, clients.broadcast(tries), held_k)
            loss = fleet.at_server(true_loss, clients.gather(score_k))
        w, time = fleet.at_server(best, state.w, tries, loss)
        return State(w), {"time": time, "failed": fleet.at_server(nothing_found, time)}

    def _linearize(w: Weights, data: Shard) -> Rows:
        return linearize(task, w, data)

    def _score(tries: Weights, data: Shard) -> Score:
        return score(task, tries, data)

    def evolve(w: Weights, rows: list[Rows], eta: float) -> tuple[Weights, Tensor]:
        return step.candidates(task, w, shard.join(rows), eta)

    def true_loss(scores: list[Score]) -> Tensor:
        own, *others = scores
        slots = torch.ones(len(others), dtype=torch.bool, device=own.total.device)
        return mean_loss(own, trees.stack(others), slots) if others else own.total / own.rows

    def best(w: Weights, tries: Weights, loss: Tensor) -> tuple[Weights, Tensor]:
        return choose(w, tries, loss, times)

    def aggregate(fleet: Fleet, state: State, data_k: Each[Shard]) -> Central[Weights]:
        return state.w

    return Method("ntkfl", init, round, "raw-equivalent", False, aggregate, step.node_bytes(task))
