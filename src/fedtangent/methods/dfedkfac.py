"""DFedKFAC: the tangent step from sums, between neighbours; Kronecker factors take the place of NTK-DFL's kernel.

The round is that of NTK-DFL (Thompson, Yue, Wong, Dai. ICML 2025), the step that of K-FAC (Martens, Grosse. Optimizing
Neural Networks with Kronecker-factored Approximate Curvature. ICML 2015, sections 6.3 and 7). Of its neighbours a node
needs nothing but sums over all of them.

    node:    w_k <- w_0,  v_k <- 0,  A_k <- moments of k's inputs, of the layers that see the data itself
             or A_k <- their sum over all nodes, once
    round:   w_k <- (1 - s) w_k
             u_k <- SGD(w_k; data_k) - w_k,  w_k <- w_k + u_k    E local epochs, logits plus the log of k's class shares
             w_k <- mean of w_l over the neighbourhood; so v and u
             A <- sum_l of A_l, where that is not everybody's already
             g, A, B <- sum_l over the neighbourhood of l's gradient, moments of inputs and of sensitivities at w_k
            g, A, B <- sum_l over the neighbourhood of these sums                                     hops - 1 times
             D <- v_k, u_k, and (B + damping)^-1 g (A + damping)^-1 for several dampings
             Q <- sum_l of D^T J^T H J D               the exact curvature along these few directions
             c <- -(Q + m diag Q)^-1 D^T g             for several ridges m, times several scales
             L(c) <- sum_l of l's loss at w_k + D c    where there are several c
             v_k <- u_k + D c,  w_k <- w_k + D c       with the c of the lowest loss
    at last  w   <- 1/K sum_k w_k                      or weighted by n_k

Without local epochs (E = 0), u is none of the directions. The sums of two hops are as good as taken at one place, since
what gossip has just averaged lies close together; exact curvature and losses are of the neighbourhood's rows.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import (
    Each,
    Fleet,
    Message,
    Method,
    Traits,
    disclosure,
    first_weights,
    node_mean,
    of_nodes,
    rows,
)
from fedtangent.shard import Shard
from fedtangent.tangent_steps.answers import Answers, Inputs
from fedtangent.tangent_steps.kfac import Moments, rows_of_inputs, rows_of_moments
from fedtangent.tangent_steps.local_steps import LocalSteps, shrinking
from fedtangent.tangent_steps.span import Curvature, Span, chosen, rows_of_curvature
from fedtangent.tangent_steps.step import Score, nothing_found, rows_of_losses, summed_loss
from fedtangent.task import Task, Weights


class State(NamedTuple):
    """Every node's.

    Attributes:
        w_k: Weights.
        v_k: The last displacements.
        a_k: Input moments of the layers that see the data itself, sums over its own or all rows, and their number.
        fewest_k: The rows that a neighbourhood's sums must have; 0 without a guard.
    """

    w_k: Each[Weights]
    v_k: Each[Weights]
    a_k: Each[Inputs]
    fewest_k: Each[Tensor]


def dfedkfac(
    task: Task,
    *,
    dampings: Sequence[float] = (1.0, 100.0),
    ridges: Sequence[float] = (1e-4, 1e-2),
    scales: Sequence[float] = (0.5, 1.0, 2.0, 3.0),
    momentum: bool = True,
    weight_decay: float = 5e-4,
    inputs: Literal["neighbourhood", "shared"] = "neighbourhood",
    guard: bool = False,
    averaging: bool = True,
    aggregation: Literal["plain", "weighted"] = "plain",
    other: Literal["refuse", "exact"] = "refuse",
    epochs: int = 0,
    batch: int = 32,
    lr: float = 0.01,
    local_momentum: float = 0.9,
    hops: int = 1,
    local_rounds: int | None = None,
    shrinkage: float = 0.0,
) -> Method:
    """DFedKFAC; the defaults are tuned on validation rows.

    Args:
        task: Model and loss.
        dampings: Of the Kronecker factors, in units of their mean eigenvalue; a direction each.
        ridges: m, relative to the curvature along every direction; candidates of each.
        scales: Multiples of the step; candidates of each. Above 1, for the average with the neighbours shortens it. A
            single candidate is taken unscored.
        momentum: Whether the neighbourhood's mean last displacement is one of the directions.
        weight_decay: lambda, of lambda |w|^2 / 2 in the loss of which the step is taken.
        inputs: Of whom the moments of the data's own inputs are: the `neighbourhood`, sent in every round, or `shared`,
            summed over all nodes once.
        guard: Whether a node keeps its mean, and counts as failed, in a round whose sums would show another node or a
            row: of fewer than three neighbours, one with more than half of the rows, or of fewer rows than twice a
            layer's inputs; or, with `hops`, of such nodes two links away, or three, and so on. With it, and secure
            sums among a node's neighbours, the exposure is `aggregate`.
        averaging: Whether a round starts from the neighbourhood's means, or (an ablation) from the node's own weights
            and last displacement; sums are over the neighbourhood in any case.
        aggregation: Of the final model, `plain` or `weighted` by rows.
        other: What becomes of parameters of no linear map, normalisation, scale or sum: `refuse` them, or take
            `exact` blocks of the Gauss-Newton matrix.
        epochs: E, local passes that open a round; 0 for none. They help networks that bend within a step.
        batch: Rows in a local batch.
        lr: Step size of the local SGD.
        local_momentum: Of the local SGD; starts at zero every round.
        hops: How far the gradient and the moments at the present weights come from: 1, the neighbourhood; 2, the
            neighbours' neighbourhoods, too, by one more exchange; and so on. More rows make a better step.
        local_rounds: How many rounds have local epochs, from the first on; none is all. Later ones may only overfit.
        shrinkage: s, the part of the weights that every round takes off them first: decoupled weight decay (Loshchilov
            and Hutter, ICLR 2019). It helps networks that overfit more than `weight_decay` does.
    """
    span = Span(tuple(dampings), tuple(ridges), tuple(scales), momentum)
    _check_options(inputs, hops)
    aggregate = node_mean(aggregation)

    node = Answers(task, other, weight_decay)
    steps = LocalSteps(task, epochs, batch, lr, local_momentum, weight_decay, local_rounds)
    shrunk = shrinking(shrinkage)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        v_k = fleet.everywhere(trees.zeros_like(task.w_0) if momentum else {})
        a_k = fleet.map(node.inputs, data_k)
        fewest_k = _fewest(fleet, fleet.map(node.sizes, data_k), inputs) if guard else fleet.everywhere(torch.tensor(0))
        if inputs == "shared":
            a_k = fleet.broadcast(fleet.sum(a_k, rows=rows_of_inputs)[0])
        return State(first_weights(fleet, task), v_k, a_k, fewest_k)

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        u_k: Each[Weights] = fleet.everywhere({})
        w_k = fleet.map(shrunk, state.w_k) if shrinkage else state.w_k
        if steps.in_round(k):
            batches_k = fleet.draw(steps.draw, data_k, purpose="batches")
            w_k, u_k = fleet.map(steps.taken, w_k, data_k, batches_k).unzip(2)
            u_k = fleet.mix(u_k, "moves") if averaging else u_k
        mean_k = fleet.mix(w_k, "weights") if averaging else w_k
        v_k = fleet.mix(state.v_k, "displacements") if momentum and averaging else state.v_k
        a_k = state.a_k
        if inputs == "neighbourhood":
            a_k = _passed_on(fleet, a_k, rows=rows_of_inputs)
        found_k = fleet.ask_total(node.moments, mean_k, data_k, message="moments", rows=rows_of_moments)
        if hops > 1:
            found_k.settle()  # computed once: they are answers of the next exchange
        reach_k = disclosure.reach(fleet, fleet.map(rows, data_k)) if guard else None
        total_k = _farther(fleet, hops, _total(fleet, found_k), reach_k, state.fewest_k)
        basis_k = fleet.as_sent(fleet.map(basis, total_k, a_k, v_k, u_k), "directions")
        asked_k = mean_k.zip(basis_k)
        q_k = _total(fleet, fleet.ask_total(along, asked_k, data_k, rows=rows_of_curvature))
        c_k = fleet.map(span.combinations, total_k, basis_k, q_k)
        if span.tries > 1:
            scores_k = fleet.ask_total(losses, asked_k.zip(c_k), data_k, rows=partial(rows_of_losses, task))
            loss_k = fleet.map(summed_loss, _total(fleet, scores_k))
        else:
            loss_k = fleet.map(lambda c: torch.where(torch.isfinite(c).all(), 0.0, torch.inf)[None], c_k)
        w_k, v_k, choice_k, refused_k = fleet.map(best, asked_k, c_k, loss_k, found_k, u_k).unzip(4)
        return state._replace(w_k=w_k, v_k=v_k), {
            "choice": choice_k,
            "refused": refused_k,
            "failed": fleet.map(nothing_found, choice_k),
        }

    def basis(total: Moments, a: Inputs, v: Weights, u: Weights) -> Weights:
        return span.basis(total, trees.map(lambda part: part / a[1], a[0]), v, *([u] if u else []))

    def along(asked: tuple[Weights, Weights], data: Shard) -> Curvature:
        return node.along(*asked, data)

    def losses(asked: tuple[tuple[Weights, Weights], Tensor], data: Shard) -> tuple[Score, Tensor]:
        (mean, basis), c = asked
        return node.losses(mean, basis, c, data)

    def best(
        asked: tuple[Weights, Weights], c: Tensor, loss: Tensor, found: tuple[Moments, Tensor], u: Weights
    ) -> tuple[Weights, Weights, Tensor, Tensor]:
        mean, basis = asked
        w, choice = chosen(mean, basis, c, loss)
        v = trees.subtract(w, mean) if momentum else {}
        return w, trees.add(v, u) if momentum and u else v, choice, found[1]

    return Method(
        "dfedkfac",
        init,
        round,
        "aggregate" if guard else "kernel",
        Traits(neighbours=True, tangent=True, own_start=True),
        aggregate,
        of_nodes,
        node_bytes=node.node_bytes(len(dampings) + momentum + (epochs > 0), span.tries),
        messages={
            **({"weights": Message(("between",), lasting=True)} if averaging else {}),
            **({"displacements": Message(("between",), lasting=True)} if momentum and averaging else {}),
            **({"moves": Message(("between",), lasting=True)} if epochs and averaging else {}),
            "moments": Message(("between",)),
            "directions": Message(("between",)),
        },
    )


def _check_options(inputs: str, hops: int) -> None:
    if inputs not in ("neighbourhood", "shared"):
        raise SettingError(f"`inputs` must be 'neighbourhood' or 'shared'; got {inputs!r}. Choose one of the two.")
    if hops < 1:
        raise SettingError(f"`hops` must be 1 or more; got {hops}. Take 1 for sums over the neighbourhood alone.")


def _total(fleet: Fleet, found_k: Each[tuple[Any, Tensor]]) -> Each[Any]:
    """The sums over the neighbourhoods, without how many answers were refused."""
    return fleet.map(_first, found_k)


def _first(found: tuple[Any, Tensor]) -> Any:
    return found[0]


def _passed_on(fleet: Fleet, sums_k: Each[Any], **options: Any) -> Each[Any]:
    """What all of a neighbourhood hold, summed."""
    return _total(fleet, fleet.ask_total(lambda _, sums: sums, fleet.everywhere(()), sums_k, **options))


def _farther(
    fleet: Fleet, hops: int, total_k: Each[Moments], reach_k: Each[disclosure.Reach] | None, fewest_k: Each[Tensor]
) -> Each[Moments]:
    """The neighbourhoods' sums after more hops; not finite where their reach is given and shows somebody."""
    for hop in range(hops):
        if hop:
            total_k = _passed_on(fleet, total_k, message="moments", rows=rows_of_moments)
        if reach_k is not None:
            rows_k = _passed_on(fleet, fleet.map(_rows, reach_k))
            total_k, reach_k = fleet.map(_guarded, total_k, reach_k, rows_k, fewest_k).unzip(2)
    return total_k


def _rows(reach: disclosure.Reach) -> Tensor:
    return reach.rows


def _guarded(total: Moments, reach: disclosure.Reach, come: Tensor, fewest: Tensor) -> tuple[Moments, disclosure.Reach]:
    """NaN gradient if the sums, now over the rows that have come, would expose a node."""
    reach, shown = reach.farther(come, fewest)
    gradient = trees.map(lambda g: torch.where(shown, torch.nan, g), total.gradient)
    return total._replace(gradient=gradient), reach


def _fewest(fleet: Fleet, sizes_k: Each[tuple[Tensor, ...]], inputs: str) -> Each[Tensor]:
    """The rows that a neighbourhood's sums must have; raises where the shared sum has too few."""
    rows_k, first_k, others_k = sizes_k.unzip(3)
    if inputs == "neighbourhood":
        return fleet.map(torch.maximum, first_k, others_k)
    fleet.at_server(_check, fleet.gather(rows_k), fleet.gather(first_k))
    return others_k


def _check(rows: list[Tensor], fewest: list[Tensor]) -> None:
    disclosure.check(rows, int(fewest[0]), "Add nodes, or take guard off.")
