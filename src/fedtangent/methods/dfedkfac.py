"""DFedKFAC: the tangent step from sums, between neighbours; Kronecker factors take the place of NTK-DFL's kernel.

The round is that of NTK-DFL (Thompson, Yue, Wong, Dai. ICML 2025), the step that of K-FAC (Martens, Grosse. Optimizing
Neural Networks with Kronecker-factored Approximate Curvature. ICML 2015, sections 6.3 and 7).

    node:    w_k <- w_0,  v_k <- 0,  A_k <- moments of k's inputs, of the layers that see the data itself
    round:   w_k <- mean of w_l over the neighbourhood; so v and A
             g, A, B <- sum_l over the neighbourhood of l's gradient, moments of inputs and of sensitivities at w_k
             D <- v_k, and (B + damping)^-1 g (A + damping)^-1 for several dampings
             Q <- sum_l of D^T J^T H J D               the exact curvature along these few directions
             c <- -(Q + m diag Q)^-1 D^T g             for several ridges m, times several scales
             L(c) <- sum_l of l's loss at w_k + D c    where there are several c
             v_k <- D c,  w_k <- w_k + v_k             with the c of the lowest loss
    at last  w   <- 1/K sum_k w_k                      or weighted by n_k
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.fleet import Each, Fleet, Inbox, Method, node_mean
from fedtangent.shard import Shard
from fedtangent.tangents import kfac
from fedtangent.tangents.kfac import Moments
from fedtangent.tangents.span import Span, candidates, curvature
from fedtangent.tangents.step import Score, choose, mean_loss, nothing_found, score
from fedtangent.task import Task, Weights

Inputs = tuple[dict[str, Tensor], Tensor]


class State(NamedTuple):
    """w_k: every node's weights. v_k: their last displacements. a_k: sums of moments of inputs, and their rows."""

    w_k: Each[Weights]
    v_k: Each[Weights]
    a_k: Each[Inputs]


def dfedkfac(
    task: Task,
    *,
    dampings: Sequence[float] = (1.0, 100.0),
    ridges: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    momentum: bool = True,
    decay: float = 5e-4,
    gossip: int = 0,
    aggregation: Literal["plain", "weighted"] = "plain",
    other: Literal["refuse", "exact"] = "refuse",
    wire: Literal["full", "bfloat16"] = "full",
) -> Method:
    """DFedKFAC; the defaults are tuned on validation rows.

    Args:
        task: Model and loss.
        dampings: Of the Kronecker factors, in units of their mean eigenvalue; a direction each.
        ridges: m, relative to the curvature along every direction; candidates of each.
        scales: Multiples of the step; candidates of each. Above 1, for the average with the neighbours shortens it. A
            single candidate is taken unscored.
        momentum: Whether the neighbourhood's mean last displacement is one of the directions.
        decay: m, of m |w|^2 / 2 in the loss of which the step is taken.
        gossip: 0 takes the neighbourhood's moments of the data's own inputs in every round. A number n averages them
            with the neighbours' in the first n rounds, on and on, and they are not sent again.
        aggregation: Of the final model, `plain` or `weighted` by rows.
        other: What becomes of parameters that are neither of a linear map nor of a normalisation: `refuse` them, or
            take `exact` blocks of the Gauss-Newton matrix.
        wire: The precision in which a node sends its directions; all work with what was sent.
    """
    span = Span(tuple(dampings), tuple(ridges), tuple(scales), momentum, wire)
    if gossip < 0:
        raise ValueError(f"`gossip` must not be negative; got {gossip}. Give a number of rounds, or 0.")
    aggregate = node_mean(aggregation)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        v_k = fleet.everywhere(trees.zeros_like(task.w_0) if momentum else {})
        return State(fleet.everywhere(task.w_0), v_k, fleet.map(first_inputs, data_k))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        mean_k = fleet.mix(state.w_k)
        v_k = fleet.mix(state.v_k) if momentum else state.v_k
        a_k = fleet.mix(state.a_k) if not gossip or k <= gossip else state.a_k
        total_k = fleet.map(total, mean_k, data_k, fleet.ask(moments, mean_k, data_k))
        basis_k = fleet.map(basis, total_k, a_k, v_k)
        asked_k = fleet.map(lambda *known: known, mean_k, basis_k)
        q_k = fleet.ask(answer_along, basis_k, data_k, known_k=mean_k)
        c_k = fleet.map(combined, asked_k, total_k, data_k, q_k)
        if span.tries > 1:
            loss_k = fleet.map(loss, asked_k, c_k, data_k, fleet.ask(answer_score, c_k, data_k, known_k=asked_k))
        else:
            loss_k = fleet.map(lambda c: torch.where(torch.isfinite(c).all(), 0.0, torch.inf)[None], c_k)
        w_k, v_k, choice_k = fleet.map(best, asked_k, c_k, loss_k)
        return State(w_k, v_k, a_k if gossip else state.a_k), {
            "choice": choice_k,
            "failed": fleet.map(nothing_found, choice_k),
        }

    def first_inputs(data: Shard) -> Inputs:
        found = kfac.moments(task, task.w_0, data, other=other, inputs="fixed")
        return found.inputs, found.rows.to(next(iter(found.gradient.values())).dtype)

    def moments(w: Weights, data: Shard) -> Moments:
        return kfac.moments(task, w, data, other=other, inputs="moving", decay=decay)

    def total(w: Weights, data: Shard, inbox: Inbox) -> Moments:
        found: Moments = _added(moments(w, data), inbox)
        return found

    def basis(total: Moments, a: Inputs, v: Weights) -> Weights:
        return span.basis(total, trees.scale(a[0], 1 / a[1]), v)

    def answer_along(w: Weights, basis: Weights, data: Shard) -> Tensor:
        return curvature(task, w, basis, data, decay)

    def combined(asked: tuple[Weights, Weights], total: Moments, data: Shard, inbox: Inbox) -> Tensor:
        q = _added(answer_along(*asked, data), inbox)
        return span.combinations(total, asked[1], q / total.rows)

    def answer_score(asked: tuple[Weights, Weights], c: Tensor, data: Shard) -> Score:
        return score(task, candidates(*asked, c), data)

    def loss(asked: tuple[Weights, Weights], c: Tensor, data: Shard, inbox: Inbox) -> Tensor:
        return mean_loss(answer_score(asked, c, data), inbox.values, inbox.real)

    def best(asked: tuple[Weights, Weights], c: Tensor, loss: Tensor) -> tuple[Weights, Weights, Tensor]:
        mean, _ = asked
        w, choice = choose(mean, candidates(*asked, c), loss, range(1, len(c) + 1))
        return w, trees.subtract(w, mean) if momentum else {}, choice

    return Method("dfedkfac", init, round, "kernel", True, aggregate, kfac.node_bytes(task, span.tries))


def _added(own: Any, inbox: Inbox) -> Any:
    """A node's own sums and its neighbours'."""

    def add(mine: Tensor, theirs: Tensor) -> Tensor:
        real = inbox.real.reshape(-1, *[1] * (theirs.dim() - 1))
        return mine + torch.where(real, theirs, 0).sum(0).to(mine.dtype)

    return trees.map(add, own, inbox.values)
