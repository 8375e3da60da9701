"""SPARK: NTK-DFL with projected Jacobians, soft labels that come in with the rounds, and Nesterov momentum.

Xia. SPARK: Igniting Communication-Efficient Decentralized Learning via Stage-wise Projected NTK and Accelerated
Regularization. 2025; since June 2026 Communication-Efficient Neural Tangent Kernels for Heterogeneous Decentralized
Federated Learning. arXiv 2512.12737. Only its abstracts were read: what they name is here, and all else is our choice.

    node:    w_k <- w_0,  v_k <- 0
    round:   u_k <- mean of w_l over the neighbourhood
             w_k <- u_k + beta times the mean of v_l               Nesterov: the step is taken from where momentum leads
             S_l <- J_l R of l's data at w_k, from every neighbour l; and its outputs f and labels y; R is P x p signs
             y   <- (1 - a_t) y + a_t softmax(f / T)               a_t = a clip((t - stage) / ramp, 0, 1)
             alpha_t <- NTK-DFL's evolution by the kernel S S^T of the neighbourhood's rows, at candidate times t
             w_k(t) <- w_k - sum_l J_l^T alpha_t                   by l, whose rows they are
             w_k <- the w_k(t) of the lowest loss on the labels as they are,  v_k <- w_k - u_k
    at last  w   <- 1/K sum_k w_k                                  or weighted by n_k
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import shard, trees
from fedtangent.errors import SettingError
from fedtangent.federation import Each, Fleet, Inbox, Message, Method, Traits, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.tangent_steps import explicit, primal, slices
from fedtangent.tangent_steps.step import (
    Rows,
    Score,
    Step,
    bill,
    choose,
    countable,
    jacobian,
    linearised_rows,
    nothing_found,
    rows_of_losses,
    rows_to_send,
    score,
    whole_loss,
)
from fedtangent.tangents.numerics import dynamics
from fedtangent.tangents.sketch import projection
from fedtangent.task import Task, Weights
from fedtangent.training import losses

_AT_ONCE = 64  # columns of R, of which each takes as many numbers as there are weights


class State(NamedTuple):
    """w_k: every node's weights. v_k: their last displacements; empty without momentum."""

    w_k: Each[Weights]
    v_k: Each[Weights]


class Sketch(NamedTuple):
    """A node's rows, linearised and projected.

    Attributes:
        f: Outputs, (n, C).
        y: Labels (n,) or targets (n, C).
        s: J R, (n, C, p).
        owner: The number of the node whose they are, (n,).
        real: Which rows are real, (n,).
    """

    f: Tensor
    y: Tensor
    s: Tensor
    owner: Tensor
    real: Tensor


class Evolved(NamedTuple):
    """alpha of a neighbourhood's rows at T times, (N, T, C), and whose rows they are."""

    alpha: Tensor
    owner: Tensor
    real: Tensor


def spark(
    task: Task,
    *,
    columns: int | None = 1000,
    soften: float = 0.2,
    stage: int = 5,
    ramp: int = 10,
    temperature: float = 2.0,
    momentum: float = 0.8,
    kernel: Literal["trace", "full"] = "trace",
    clock: Literal["flow", "descent"] = "flow",
    times: Sequence[int] = (100, 200, 300, 400, 500, 600, 700, 800),
    lr: float = 0.01,
    lr_decay: float = 0.07,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """SPARK; without projection and soft labels it is NTK-DFL with momentum.

    Our choices: the soft labels are what the round's starting point itself predicts on the neighbourhood's rows; they
    come in with the rounds, from a stage on; R follows from the run's seed, another one in every round; and owners turn
    alpha into steps, T P numbers each, for R S^T alpha in their place has noise of some sqrt(P / p) times the step.

    Args:
        task: Model and loss; any model that `fedtangent.tangents` takes.
        columns: p, of the projection, from the abstract's 98.7% less than NTK-DFL; none sends the Jacobian's factors.
        soften: a, the most that soft labels weigh.
        stage: The rounds before they come in.
        ramp: The rounds in which they come in.
        temperature: T, by which outputs are divided before the softmax.
        momentum: beta, of the mean last displacement.
        kernel: `trace`, NTK-DFL's, or `full`.
        clock: `flow`, the papers' gradient flow, or `descent`, explicit steps of length lr.
        times: Candidate numbers of steps.
        lr: Length of a step.
        lr_decay: lr shrinks by exp(-lr_decay) every round.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    if columns is not None and columns < 1:
        raise SettingError(f"`columns` must be at least 1; got {columns}. Use 1000, or none to project nothing.")
    for name, value in (("soften", soften), ("momentum", momentum)):
        if not 0 <= value < 1:
            raise SettingError(f"`{name}` must be in [0, 1); got {value}. Use 0 for none.")
    if stage < 0 or ramp < 1:
        raise SettingError(f"`stage` and `ramp` must be at least 0 and 1; got {stage} and {ramp}. Use 5 and 10.")
    if not temperature > 0:
        raise SettingError(f"`temperature` must be positive; got {temperature}. Use 2.")
    if soften and task.loss.name not in losses.NAMES:
        raise SettingError(
            f"`soften` must be 0 for a loss of your own, which may take no soft labels; got {soften}. Set it to 0."
        )
    aggregate = node_mean(aggregation)
    step = Step(kernel, clock, tuple(times), lr, lr_decay)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.everywhere(task.w_0), fleet.everywhere(trees.zeros_like(task.w_0) if momentum else {}))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        mean_k = w_k = fleet.mix(state.w_k, "weights")
        if momentum:
            last_k = fleet.mix(state.v_k, "displacements")
            w_k = fleet.map(lambda w, v: trees.add_scaled(w, v, momentum), mean_k, last_k)
        share = soften * min(max((k - stage) / ramp, 0.0), 1.0)
        how = _exact if columns is None else partial(_projected, columns)
        tries_k = how(fleet, task, step, partial(_soft, share, temperature), k, w_k, data_k)
        loss_k = fleet.map(true_loss, fleet.ask_total(scored, tries_k, data_k, rows=partial(rows_of_losses, task)))
        w_k, v_k, time_k = fleet.map(best, mean_k, tries_k, loss_k).unzip(3)
        return State(w_k, v_k), {"time": time_k, "failed": fleet.map(nothing_found, time_k)}

    def scored(tries: Weights, data: Shard) -> tuple[Score, Tensor]:
        return countable(score(task, tries, data))

    def true_loss(found: tuple[tuple[Score, Tensor], Tensor]) -> Tensor:
        return whole_loss(found[0])

    def best(mean: Weights, tries: Weights, loss: Tensor) -> tuple[Weights, Weights, Tensor]:
        w, time = choose(mean, tries, loss, times)
        return w, trees.subtract(w, mean) if momentum else {}, time

    *_, last = task.w_0.values()
    plain, row = step.node_bytes(task), len(last) * (columns or 0) * last.element_size()
    return Method(
        "spark",
        init,
        round,
        "raw-equivalent",
        Traits(neighbours=True, tangent=True),
        aggregate,
        of_nodes,
        node_bytes=lambda rows, degree: plain(rows, degree) + 2 * rows * (degree + 1) * row,
        messages={
            "weights": Message(("between",), lasting=True),
            **({"displacements": Message(("between",), lasting=True)} if momentum else {}),
            "factors" if columns is None else "sketches": Message(("between",)),
        },
    )


def _soft(share: float, temperature: float, f: Tensor, y: Tensor) -> Tensor:
    """(1 - share) of the labels or targets, and the rest what the outputs say."""
    if not share:
        return y
    own = f if y.is_floating_point() else torch.softmax(f / temperature, -1)
    return (1 - share) * losses.targets(f, y) + share * own


def _exact(
    fleet: Fleet, task: Task, step: Step, soft: Any, k: int, w_k: Each[Weights], data_k: Each[Shard]
) -> Each[Weights]:
    """Candidates from the neighbours' factors."""
    linear = rows_to_send(task, "factors", fleet.codes("factors"))
    rows_k = fleet.ask(linear, w_k, data_k, bill=bill(task, "factors"), message="factors")

    def evolved(w: Weights, data: Shard, inbox: Inbox) -> Weights:
        rows: Rows = shard.join([linear(w, data), inbox.values])
        return step.candidates(task, w, rows._replace(y=soft(rows.f, rows.y)), step.rate(k))[0]

    return fleet.map(evolved, w_k, data_k, rows_k)


def _projected(
    columns: int, fleet: Fleet, task: Task, step: Step, soft: Any, k: int, w_k: Each[Weights], data_k: Each[Shard]
) -> Each[Weights]:
    """Candidates by a kernel of projected Jacobians; steps are taken by the rows' owners."""
    seed = int(fleet.rng("projection").integers(2**62))
    number_k = fleet.each([torch.tensor(node, device=fleet.device) for node in fleet.nodes])

    @lru_cache(maxsize=max(1, slices.MEMORY // (_AT_ONCE * slices.size(task.w_0))))
    def drawn(start: int) -> Weights:
        """Some columns of R; drawn once in a round where all fit in memory."""
        return projection(task.w_0, min(_AT_ONCE, columns - start), seed + start)

    def sketched(w: Weights, data: Shard, number: Tensor) -> Sketch:
        rows = linearised_rows(task, w, data)
        push, parts = jacobian(task, w, rows)[1], []
        for start in range(0, columns, _AT_ONCE):
            parts.append(push(drawn(start)) * (min(_AT_ONCE, columns - start) / columns) ** 0.5)
        return Sketch(rows.f, rows.y, torch.cat(parts).movedim(0, -1), number.repeat(len(data.real)), data.real)

    def evolved(own: Sketch, inbox: Inbox) -> Evolved:
        rows: Sketch = shard.join([own, inbox.values])
        kernel = explicit.kernel_of_jacobian(step.kernel, {"s": shard.cleared(rows.s, rows.real)})
        given = (kernel, rows.f, soft(rows.f, rows.y), rows.real, task.loss)
        if step.clock == "flow":
            alpha = dynamics.flow(*given, [step.rate(k) * time for time in step.times])
        else:
            alpha = dynamics.descent(*given, step.rate(k), step.times)
        return Evolved(alpha.movedim(0, 1), rows.owner, rows.real)

    def pulled(asked: tuple[Weights, Evolved], data: Shard, number: Tensor) -> Weights:
        """J^T alpha of a node's own rows, which come in their order among all."""
        w, all_rows = asked
        mine = all_rows.real & (all_rows.owner == number)
        own = (~mine).to(torch.int8).argsort(stable=True)[: len(data.real)]
        return primal.moved(task, w, all_rows.alpha[own].movedim(0, 1), data)

    def candidates(w: Weights, step: tuple[Weights, Tensor]) -> Weights:
        return trees.subtract(w, step[0])  # type: ignore[no-any-return]

    own_k = fleet.map(sketched, w_k, data_k, number_k)
    rows_k = fleet.ask(sketched, w_k, data_k, number_k, message="sketches")
    asked_k = w_k.zip(fleet.map(evolved, own_k, rows_k))
    return fleet.map(candidates, w_k, fleet.ask_total(pulled, asked_k, data_k, number_k))
