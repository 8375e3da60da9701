"""NTK-DFL: every node evolves by the tangent kernel of its own and its neighbours' data, without a server.

Thompson, Yue, Wong, Dai. NTK-DFL: Enhancing Decentralized Federated Learning in Heterogeneous Settings via
Neural Tangent Kernel. ICML 2025. arXiv 2410.01922.

    node:    w_k <- w_0
    round:   w_k <- mean of w_l over the neighbourhood          (+ beta times the mean last displacement)
             J_l <- Jacobian of l's data at w_k, from every neighbour l; and its outputs and labels
             K_k <- J J^T over the neighbourhood's rows         trace or full
             w_k(t) <- w_k - J^T alpha_t at candidate times t
             w_k <- the w_k(t) of the lowest loss
    at last  w   <- 1/K sum_k w_k                               or weighted by n_k
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor

from fedtangent import shard, trees
from fedtangent.errors import SettingError
from fedtangent.federation import Each, Fleet, Inbox, Message, Method, Traits, first_weights, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.tangent_steps.step import (
    Score,
    Step,
    bill,
    choose,
    coded_bytes,
    countable,
    held_out,
    nothing_found,
    plausible,
    rows_of_losses,
    rows_to_send,
    score,
    whole_loss,
)
from fedtangent.task import Task, Weights

Tries = tuple[Weights, Tensor]


class State(NamedTuple):
    """w_k: every node's weights. v_k: their last displacements; empty without momentum."""

    w_k: Each[Weights]
    v_k: Each[Weights]


def ntkdfl(
    task: Task,
    *,
    kernel: Literal["trace", "full"] = "trace",
    clock: Literal["flow", "descent"] = "flow",
    times: Sequence[int] = (100, 200, 300, 400, 500, 600, 700, 800),
    lr: float = 0.01,
    lr_decay: float = 0.07,
    selection: Literal["loss", "linearised", "held-out"] = "loss",
    momentum: float = 0.0,
    averaging: bool = True,
    aggregation: Literal["plain", "weighted"] = "plain",
    exchange: Literal["jacobian", "factors"] = "jacobian",
) -> Method:
    """NTK-DFL, with the paper's defaults.

    Args:
        task: Model and loss; any model that `fedtangent.tangents` takes.
        kernel: `trace`, the paper's, or `full`, the exact dynamics of the linearised network.
        clock: `flow`, the paper's gradient flow, or `descent`, explicit steps of length lr.
        times: Candidate numbers of steps.
        lr: Length of a step.
        lr_decay: lr shrinks by exp(-lr_decay) every round.
        selection: By the candidates' true `loss`, scored by the rows' owners; by the `linearised` network's; or by the
            true loss on `held-out` rows, a tenth of every node's.
        momentum: beta, of the last displacement.
        averaging: Whether a round starts from the neighbourhood's mean, or (an ablation) from the node's own weights.
        aggregation: Of the final model, `plain` or `weighted` by rows.
        exchange: What is billed: the paper's Jacobians, or the factors, which give the same kernel.
    """
    if not 0 <= momentum < 1:
        raise SettingError(f"`momentum` must be in [0, 1); got {momentum}. Use 0.5, or 0 for none.")
    if momentum and not averaging:
        raise SettingError("`momentum` must be 0 without averaging; got both. Leave one of them out.")
    aggregate = node_mean(aggregation)
    step = Step(kernel, clock, tuple(times), lr, lr_decay, selection)
    answer = bill(task, exchange)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(first_weights(fleet, task), fleet.everywhere(trees.zeros_like(task.w_0) if momentum else {}))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        fit_k = held_k = data_k
        if selection == "held-out":  # the same rows in every round
            fit_k, held_k = replace(fleet, round=0).draw(held_out, data_k, purpose="held-out").unzip(2)
        mean_k = fleet.mix(state.w_k, "weights") if averaging else state.w_k
        w_k = mean_k
        if momentum:
            w_k = fleet.map(
                lambda w, v: trees.add_scaled(w, v, momentum), mean_k, fleet.mix(state.v_k, "displacements")
            )
        linear = rows_to_send(task, exchange, fleet.codes("factors"))
        ruled = fleet.wire.rule is not None and not fleet.codes("factors")
        rows_k = fleet.ask(linear, w_k, fit_k, bill=answer, message="factors")

        def evolved(w: Weights, data: Shard, inbox: Inbox) -> Tries:
            own, others = linear(w, data), inbox.values
            return step.candidates(
                task, w, shard.join([own, plausible(task, w, others) if ruled else others]), step.rate(k)
            )

        tries_k = fleet.map(evolved, w_k, fit_k, rows_k)
        if selection == "linearised":
            loss_k = fleet.map(lambda tries: tries[1], tries_k)
        else:
            candidates_k = fleet.map(lambda tries: tries[0], tries_k)
            loss_k = fleet.map(
                true_loss, fleet.ask_total(_score, candidates_k, held_k, rows=partial(rows_of_losses, task))
            )
        w_k, v_k, time_k = fleet.map(best, mean_k, tries_k, loss_k).unzip(3)
        return State(w_k, v_k), {"time": time_k, "failed": fleet.map(nothing_found, time_k)}

    def _score(tries: Weights, data: Shard) -> tuple[Score, Tensor]:
        return countable(score(task, tries, data))

    def true_loss(found: tuple[tuple[Score, Tensor], Tensor]) -> Tensor:
        return whole_loss(found[0])

    def best(mean: Weights, tries: Tries, loss: Tensor) -> tuple[Weights, Weights, Tensor]:
        w, time = choose(mean, tries[0], loss, times)
        return w, trees.subtract(w, mean) if momentum else {}, time

    return Method(
        "ntkdfl",
        init,
        round,
        "raw-equivalent",
        Traits(neighbours=True, tangent=True, own_start=True),
        aggregate,
        of_nodes,
        node_bytes=step.node_bytes(task),
        coded_bytes=coded_bytes(task, exchange, step.node_bytes(task)),
        messages={
            "weights": Message(("between",), lasting=True),
            **({"displacements": Message(("between",), lasting=True)} if momentum else {}),
            "factors": Message(("between",)),
        },
    )
