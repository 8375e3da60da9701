"""NTK-FL: clients send Jacobians, and the server takes many steps at once in the tangent space, choosing how many.

Yue, Jin, Pilgrim, Wong, Baron, Dai. Neural Tangent Kernel Empowered Federated Learning. ICML 2022. arXiv 2110.03681.

    server:  w   <- w_0
    round:   S   <- a random set of max(C K, 1) clients
             J_k <- Jacobian of k's data at w, for every client k in S; and its outputs and labels
             K   <- J J^T over all rows                         trace or full
             w(t) <- w - J^T alpha_t at candidate times t
             w   <- the w(t) of the lowest loss on the clients' rows

CP-NTK-FL, in the same paper, sends less: a client keeps a random part of its rows for the round (`subsample`), the
largest entries of what it sends, and those coarsely (the channels `topk` and `quantize` on the message `factors`); a
server of its own mixes all rows (`shuffle`), and the inputs are projected with a seed that the server does not know
(`project`, of the experiment).

None of it makes the exposure less than raw-equivalent. A row divided by its bias entry still is its input, or its
projection: from the top 5% of the entries an image comes back at 164 dB, from 10% in 16 levels at 29 dB. Shuffling
hides whose a row is, not what it says. With projected inputs the server and any one client, who holds the seed, see
images together (30 dB at 100 of 784 inputs, 42 dB at 200); the server alone sees which rows are alike.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import shard, trees
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits, participants
from fedtangent.shard import Shard
from fedtangent.tangent_steps.step import (
    Rows,
    Score,
    Step,
    bill,
    choose,
    coded_bytes,
    countable,
    held_out,
    nothing_found,
    rows_to_send,
    score,
    some,
    whole_loss,
)
from fedtangent.task import Task, Weights
from fedtangent.training import labels


class State(NamedTuple):
    """w: the server's weights. labels: rows of every class over all clients, which only balance asks for."""

    w: Central[Weights]
    labels: Central[Tensor]


def ntkfl(
    task: Task,
    *,
    participation: float = 0.07,
    kernel: Literal["trace", "full"] = "trace",
    clock: Literal["flow", "descent"] = "flow",
    times: Sequence[int] = (100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1500, 2000),
    lr: float = 0.01,
    lr_decay: float = 0.0,
    selection: Literal["loss", "linearised", "held-out"] = "loss",
    exchange: Literal["jacobian", "factors"] = "jacobian",
    subsample: float = 1.0,
    shuffle: bool = False,
    balance: float = 1.0,
) -> Method:
    """NTK-FL, with the defaults of the authors' code; what CP-NTK-FL adds is off.

    Args:
        task: Model and loss; any model that `fedtangent.tangents` takes.
        participation: C, the share of the clients in a round.
        kernel: `trace`, the paper's, or `full`, the exact dynamics of the linearised network.
        clock: `flow`, the paper's gradient flow, or `descent`, explicit steps of length lr.
        times: Candidate numbers of steps.
        lr: Length of a step.
        lr_decay: lr shrinks by exp(-lr_decay) every round.
        selection: By the candidates' true `loss`, scored by the rows' owners; by the `linearised` network's; or by the
            true loss on `held-out` rows, a tenth of every client's.
        exchange: What is billed: the paper's Jacobians, or the factors, which give the same kernel. What channels
            change, too, and then the Jacobians are written out: at most 2^24 numbers a client.
        subsample: Share of its rows with which a client takes part in a round, in the step and in the choice.
        shuffle: Whether a server in between decodes and mixes all rows; what it sends on is not billed.
        balance: Class weights, by a class's share in a round and over all clients, are clipped to
            [1 / balance, balance]; 1, the paper's, switches them off.
    """
    cohort = participants(participation)
    step = Step(kernel, clock, tuple(times), lr, lr_decay, selection)
    labels.check(balance)
    payload, part = bill(task, exchange), some(subsample)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        if balance == 1:
            return State(fleet.server(task.w_0), fleet.server(torch.zeros(0)))
        return State(fleet.server(task.w_0), fleet.sum(fleet.map(partial(labels.first_counts, task), data_k))[0])

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        fit_k = held_k = data_k
        if selection == "held-out":  # the same rows in every round
            fit_k, held_k = replace(fleet, round=0).draw(held_out, data_k, purpose="held-out").unzip(2)
        if subsample < 1:
            held_k = clients.draw(part, held_k, purpose="subsample")
            fit_k = held_k if selection != "held-out" else clients.draw(part, fit_k, purpose="subsample")
        linear = rows_to_send(task, exchange, clients.codes("factors"))
        w = clients.as_sent(state.w, "weights")
        rows = clients.gather(clients.map(linear, clients.broadcast(w), fit_k), payload, "factors")
        if shuffle:
            rows = fleet.at_server(_shuffled, rows, fleet.server(fleet.rng("shuffle")))
        by_class = fleet.at_server(weights, rows, state.labels) if balance > 1 else state.labels
        tries, loss = fleet.at_server(partial(evolve, step.rate(k)), w, rows, by_class).unzip(2)
        if selection != "linearised":
            tries = clients.as_sent(tries, "candidates")
            score_k = clients.map(_score, clients.broadcast(tries), clients.broadcast(by_class), held_k)
            loss = fleet.at_server(whole_loss, clients.sum(score_k)[0])
        w, time = fleet.at_server(best, w, tries, loss).unzip(2)
        return State(w, state.labels), {"time": time, "failed": fleet.at_server(nothing_found, time)}

    def _score(tries: Weights, by_class: Tensor, data: Shard) -> tuple[Score, Tensor]:
        return countable(score(labels.balanced(task, by_class), tries, data))

    def weights(rows: list[Rows], everywhere: Tensor) -> Tensor:
        here = [labels.counts(Shard(own.f, own.y, own.real), everywhere) for own in rows]
        return labels.weights(everywhere, torch.stack(here).sum(0), balance)

    def evolve(eta: float, w: Weights, rows: list[Rows], by_class: Tensor) -> tuple[Weights, Tensor]:
        return step.candidates(labels.balanced(task, by_class), w, shard.join(rows), eta)

    def best(w: Weights, tries: Weights, loss: Tensor) -> tuple[Weights, Tensor]:
        return choose(w, tries, loss, times)

    return Method(
        "ntkfl",
        init,
        round,
        "raw-equivalent",
        Traits(tangent=True, unaveraged=True),
        clients=cohort,
        node_bytes=step.node_bytes(task),
        coded_bytes=coded_bytes(task, exchange, step.node_bytes(task)),
        messages={
            "weights": Message(("down",), lasting=True),
            "candidates": Message(("down",)),
            "factors": Message(("up",)),
        },
    )


def _shuffled(rows: list[Rows], rng: np.random.Generator) -> list[Rows]:
    """All rows as one message, in an order that tells nothing of whose they are."""
    joined = shard.join(rows)
    order = torch.from_numpy(rng.permutation(len(joined.f))).to(joined.f.device)
    return [trees.map(lambda leaf: leaf[order], joined)]
