"""FedKFAC: the tangent step from sums alone; Kronecker factors take the kernel's role, and a few numbers correct them.

The step is the damped Gauss-Newton step of Martens and Grosse, Optimizing Neural Networks with Kronecker-factored
Approximate Curvature, ICML 2015 (sections 6.3 and 7), from sums that clients send; second-order *gradient* mixing, as
FedNL (Safaryan et al., ICML 2022) for convex problems. NTK-FL (Yue et al., ICML 2022) sends every row's Jacobian.

    server:  w <- w_0,  v <- 0
             A <- sum_k over all clients of the input moments of the layers that see the data itself, once
             n <- sum_k over all clients of the rows of every class, once
    round:   S <- a random set of max(C K, 1) clients
             rows of a class weigh by its share of n over its share of sum_k in S of the same
             w <- (1 - s) w
             w_k <- SGD(w; data_k)                      E local epochs, the logits plus the log of k's class shares
             u <- sum_k in S of n_k (w_k - w) / sum_k n_k,  w <- w + u
             g, A, B <- sum_k in S of k's gradient, moments of inputs and of output sensitivities at w
             D <- v, u, and (B + damping)^-1 g (A + damping)^-1 for several dampings
             Q <- sum_k in S of D^T J^T H J D          the exact curvature along these few directions
             c <- -(Q + m diag Q)^-1 D^T g             for several ridges m, times several scales
             L(c) <- sum_k in S of k's loss at w + D c
             v <- u + D c,  w <- w + D c               with the c of the lowest loss

Without local epochs (E = 0), u is none of the directions. With them a round has one exchange more.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits, disclosure, participants, rows
from fedtangent.shard import Shard
from fedtangent.tangent_steps.answers import Answers
from fedtangent.tangent_steps.kfac import Moments, rows_of_inputs, rows_of_moments
from fedtangent.tangent_steps.local_steps import LocalSteps, moved, rows_of_moves, shrinking
from fedtangent.tangent_steps.span import Curvature, Span, chosen, rows_of_curvature
from fedtangent.tangent_steps.step import Score, held_out, nothing_found, rows_of_losses, summed_loss
from fedtangent.task import Task, Weights
from fedtangent.training import labels


class State(NamedTuple):
    """The server's.

    Attributes:
        w: The weights.
        v: The last displacement.
        a: Input moments of the layers that see the data itself, means over rows.
        fewest: The rows that a round's sums must have, 0 without a guard.
        labels: Rows of every class, over all clients.
    """

    w: Central[Weights]
    v: Central[Weights]
    a: Central[dict[str, Tensor]]
    fewest: Central[Tensor]
    labels: Central[Tensor]


def fedkfac(
    task: Task,
    *,
    participation: float = 1.0,
    dampings: Sequence[float] = (1.0, 100.0),
    ridges: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    scales: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    momentum: bool = True,
    weight_decay: float = 5e-4,
    selection: Literal["held-out", "loss"] = "held-out",
    other: Literal["refuse", "exact"] = "refuse",
    balance: float = 10.0,
    guard: bool = True,
    epochs: int = 0,
    batch: int = 32,
    lr: float = 0.01,
    local_momentum: float = 0.9,
    local_rounds: int | None = None,
    shrinkage: float = 0.0,
) -> Method:
    """FedKFAC; the defaults are tuned on validation rows.

    Args:
        task: Model and loss.
        participation: C, the share of the clients in a round.
        dampings: Of the Kronecker factors, in units of their mean eigenvalue; a direction each.
        ridges: m, relative to the curvature along every direction; candidates of each.
        scales: Parts of the step; candidates of each.
        momentum: Whether the last displacement is one of the directions.
        weight_decay: lambda, of lambda |w|^2 / 2 in the loss of which the step is taken.
        selection: Of the candidate, by the true loss on `held-out` rows, a tenth of every client's, or on those that
            the step was taken with (`loss`).
        other: What becomes of parameters of no linear map, normalisation, scale or sum: `refuse` them, or take
            `exact` blocks of the Gauss-Newton matrix.
        balance: Class weights, by a class's share in a round and over all clients, are clipped to
            [1 / balance, balance]; 1 switches them off.
        guard: Whether a round is refused whose sums would show a client or a row: of fewer than three clients, one of
            which may not hold more than half of the rows, or of fewer rows than twice a layer's inputs. Without it the
            exposure is `kernel`.
        epochs: E, local passes before the sums of a round; 0 for none. They help networks that bend within a step.
        batch: Rows in a local batch.
        lr: Step size of the local SGD.
        local_momentum: Of the local SGD; starts at zero every round.
        local_rounds: How many rounds have local epochs, from the first on; none is all. Later ones may only overfit.
        shrinkage: s, the part of the weights that every round takes off them first: decoupled weight decay (Loshchilov
            and Hutter, ICLR 2019). It helps networks that overfit more than `weight_decay` does.
    """
    cohort = participants(participation)
    span = Span(tuple(dampings), tuple(ridges), tuple(scales), momentum)
    if selection not in ("held-out", "loss"):
        raise SettingError(f"`selection` must be 'held-out' or 'loss'; got {selection!r}. Choose one of the two.")

    client = Answers(task, other, weight_decay)
    labels.check(balance)
    steps = LocalSteps(task, epochs, batch, lr, local_momentum, weight_decay, local_rounds)
    shrunk = shrinking(shrinkage)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        fewest, everywhere = fleet.server(torch.tensor(0)), fleet.server(torch.zeros(0))
        if guard:
            fewest = fleet.at_server(_first_check, fleet.gather(fleet.map(client.sizes, data_k)))
        if balance > 1:
            everywhere, _ = fleet.sum(fleet.map(client.labels, data_k), rows=torch.sum)
        sums, _ = fleet.sum(fleet.map(client.inputs, data_k), rows=rows_of_inputs)
        a = fleet.at_server(lambda sums: {key: part / sums[1] for key, part in sums[0].items()}, sums)
        return State(fleet.server(task.w_0), fleet.server(trees.zeros_like(task.w_0)), a, fewest, everywhere)

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        fit_k = held_k = data_k
        if selection == "held-out":  # the same rows in every round
            fit_k, held_k = replace(fleet, round=0).draw(held_out, data_k, purpose="held-out").unzip(2)
        if guard:
            clients.at_server(_check, clients.gather(clients.map(rows, fit_k)), state.fewest)
        by_class = state.labels
        if balance > 1:
            here, _ = clients.sum(clients.map(labels.counts, fit_k, clients.broadcast(state.labels)), rows=torch.sum)
            by_class = fleet.at_server(partial(labels.weights, most=balance), state.labels, here)
        before = fleet.at_server(shrunk, state.w) if shrinkage else state.w
        w, *u = along_the_bend(clients, before, fit_k) if steps.in_round(k) else (before,)
        w_k, by_class_k = clients.broadcast(w, "weights"), clients.broadcast(by_class)
        total, refused = clients.sum(clients.map(moments, w_k, by_class_k, fit_k), "moments", rows_of_moments)
        basis = clients.as_sent(fleet.at_server(span.basis, total, state.a, state.v, *u), "directions")
        basis_k = clients.broadcast(basis)
        q, _ = clients.sum(clients.map(along, w_k, by_class_k, basis_k, fit_k), rows=rows_of_curvature)
        c = fleet.at_server(span.combinations, total, basis, q)
        loss_k = clients.map(losses, w_k, by_class_k, basis_k, clients.broadcast(c), held_k)
        loss, _ = clients.sum(loss_k, rows=partial(rows_of_losses, task))
        w, v, choice = fleet.at_server(best, before, w, basis, c, loss).unzip(3)
        return state._replace(w=w, v=v), {
            "choice": choice,
            "refused": refused,
            "failed": fleet.at_server(nothing_found, choice),
        }

    def along_the_bend(clients: Fleet, w: Central[Weights], fit_k: Each[Shard]) -> tuple[Central[Weights], ...]:
        batches_k = clients.draw(steps.draw, fit_k, purpose="batches")
        move_k = clients.map(steps.moves, clients.broadcast(w, "weights"), fit_k, batches_k)
        total, _ = clients.sum(move_k, "moves", rows_of_moves)
        return clients.at_server(moved, w, total).unzip(2)

    def moments(w: Weights, by_class: Tensor, data: Shard) -> Moments:
        return client.weighing(by_class).moments(w, data)

    def along(w: Weights, by_class: Tensor, basis: Weights, data: Shard) -> Curvature:
        return client.weighing(by_class).along(w, basis, data)

    def losses(w: Weights, by_class: Tensor, basis: Weights, c: Tensor, data: Shard) -> tuple[Score, Tensor]:
        return client.weighing(by_class).losses(w, basis, c, data)

    def best(
        before: Weights, w: Weights, basis: Weights, c: Tensor, loss: tuple[Score, Tensor]
    ) -> tuple[Weights, Weights, Tensor]:
        found, choice = chosen(w, basis, c, summed_loss(loss))
        return found, trees.subtract(found, before), choice

    return Method(
        "fedkfac",
        init,
        round,
        "aggregate" if guard else "kernel",
        Traits(tangent=True),
        clients=cohort,
        node_bytes=client.node_bytes(len(dampings) + momentum + (epochs > 0), span.tries),
        messages={
            "weights": Message(("down",), lasting=True),
            **({"moves": Message(("up",), lasting=True)} if epochs else {}),
            "moments": Message(("up",)),
            "directions": Message(("down",)),
        },
    )


def _first_check(sizes: list[tuple[Tensor, ...]]) -> Tensor:
    """The fewest rows of all sums but the first, which must have theirs."""
    _check([count for count, _, _ in sizes], sizes[0][1])
    return sizes[0][2]


def _check(rows: list[Tensor], fewest: Tensor) -> None:
    disclosure.check(rows, int(fewest), "Raise participation or nodes, or take guard off.")
