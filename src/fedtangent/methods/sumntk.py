"""SumNTK: NTK-FL's evolution from sums alone, in the primal of a sketched trace kernel; no row leaves a client.

The evolution is that of Yue et al., Neural Tangent Kernel Empowered Federated Learning, ICML 2022, arXiv 2110.03681.
A convex problem over features of a tangent kernel, learnt by sums over clients: Yu, Wei, Karimireddy, Ma, Jordan,
TCT: Convexifying Federated Learning using Bootstrapped Neural Tangent Kernels, NeurIPS 2022, arXiv 2207.06343.

    server:  w <- w_0
    round:   S <- a random set of max(C K, 1) clients
             R <- P x k signs, from a seed that everybody knows
             phi_n <- vec(J_n R) / sqrt(C)               for every row n of k's data, for every client k in S
             A, B <- sum_k in S of phi phi^T, phi r^T    over k's rows; r is dL/df at the outputs
             theta <- 0
             for knots u_0 = 0 < u_1 < ... of time:
                 theta <- its evolution to the next knot, by A's modes and B
                 B <- sum_k in S of phi r^T at f - theta^T phi
             rho_k(t) <- the integral of r over time, by theta at the knots, for several times t
             w(t) <- w - sum_k in S of J_k^T rho_k(t) / N
             L(t) <- sum_k in S of k's loss at w(t)
             w <- the w(t) of the lowest loss
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits, disclosure, participants, rows
from fedtangent.shard import Shard
from fedtangent.tangent_steps import of_task, primal
from fedtangent.tangent_steps.primal import Features, PrimalFlow, Sums
from fedtangent.tangent_steps.step import Score, Step, choose, countable, nothing_found, score, summed_loss
from fedtangent.task import Task, Weights
from fedtangent.training.losses import squared

# What `columns` is where nobody says: a message below 1 MB for 784-100-10.
_COLUMNS = 32
# As many as a round may take: each is a message of every client, and twice as many leave a quarter of the error.
_SUMS = 1000


class State(NamedTuple):
    """w: the server's weights."""

    w: Central[Weights]


class Size(NamedTuple):
    """What decides how large a sum may be. rows: a client's number of rows. outputs: C."""

    rows: Tensor
    outputs: Tensor


def sumntk(
    task: Task,
    *,
    participation: float = 1.0,
    columns: int | None = None,
    times: Sequence[int] = (500, 2000),
    lr: float = 0.01,
    sums: int | None = None,
) -> Method:
    """SumNTK; a client sends q (q + 1) / 2 + sums q C + times P numbers, q = C columns.

    Below 2 q rows in a sum it would tell which rows are in it, as it would of one client that holds most of them.

    Args:
        task: Model and loss.
        participation: C, the share of the clients in a round.
        columns: k, of the projection; where not given the most that a round's rows allow, up to 32.
        times: Candidate numbers of steps; P numbers each, up and down.
        lr: Length of a step; only lr times a time matters.
        sums: How many sums over the clients the evolution takes, 12 where not given; the squared loss takes one.
    """
    cohort = participants(participation)
    step = Step("trace", "flow", tuple(times), lr)
    evolution = PrimalFlow(task.loss, tuple(lr * time for time in step.times), _knots(task, sums))
    _check_columns(columns)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.server(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        size = fleet.at_server(allowed, clients.gather(clients.map(size_of, data_k)))
        w_k, seed = clients.broadcast(state.w, "weights"), int(fleet.rng("projection").integers(2**62))
        features_k = clients.map(partial(features, seed), w_k, clients.broadcast(size), data_k).settle()
        total, refused = clients.sum(clients.map(sums_of, features_k))
        thetas_k, drift_k = _evolved(clients, evolution, total, slope_of, features_k)
        move, _ = clients.sum(clients.map(moved, w_k, drift_k, features_k, data_k, *thetas_k), "moves")
        tries = fleet.at_server(candidates, state.w, move, total)
        loss, _ = clients.sum(clients.map(losses, clients.broadcast(tries), data_k))
        w, time = fleet.at_server(best, state.w, tries, loss).unzip(2)
        record = {"time": time, "columns": size, "refused": refused, "failed": fleet.at_server(nothing_found, time)}
        return State(w), record

    def size_of(data: Shard) -> Size:
        return Size(rows(data), torch.tensor(of_task.uses(task, task.w_0, data.x).outputs, device=data.y.device))

    def allowed(sizes: list[Size]) -> int:
        return _allowed(columns, [int(size.rows) for size in sizes], int(sizes[0].outputs))

    def features(seed: int, w: Weights, size: int, data: Shard) -> Features:
        return primal.features(task, w, size, seed, data)

    def sums_of(data: Features) -> Sums:
        return primal.sums(task.loss, data)

    def slope_of(theta: Tensor, data: Features) -> Tensor:
        return primal.slope(task.loss, theta, data)

    def moved(w: Weights, drift: Tensor, own: Features, data: Shard, *thetas: Tensor) -> Weights:
        return primal.moved(task, w, evolution.alpha(drift, thetas, own), data)

    def candidates(w: Weights, move: Weights, total: Sums) -> Weights:
        return trees.map(lambda start, by: start - by / total.rows, w, move)  # type: ignore[no-any-return]

    def losses(tries: Weights, data: Shard) -> tuple[Score, Tensor]:
        return countable(score(task, tries, data))

    def best(w: Weights, tries: Weights, loss: tuple[Score, Tensor]) -> tuple[Weights, Tensor]:
        return choose(w, tries, summed_loss(loss), times)

    return Method(
        "sumntk",
        init,
        round,
        "aggregate",
        Traits(tangent=True),
        clients=cohort,
        messages={"weights": Message(("down",), lasting=True), "moves": Message(("up",))},
        node_bytes=_node_bytes(task, columns, len(times)),
    )


def _evolved(
    clients: Fleet,
    evolution: PrimalFlow,
    total: Central[Sums],
    slope_of: Callable[[Tensor, Features], Tensor],
    features_k: Each[Features],
) -> tuple[list[Each[Tensor]], Each[Tensor]]:
    """What every client learns of the evolution: theta at the knots after 0, and the drift."""
    modes, course = clients.at_server(evolution.modes, total), clients.at_server(evolution.start, total)
    slope, thetas_k = clients.at_server(lambda total: total.b, total), []
    for j in range(evolution.count):
        course = clients.at_server(partial(evolution.advanced, j), modes, course, slope, total)
        if j + 1 < evolution.count:
            thetas_k.append(clients.broadcast(clients.at_server(lambda course: course.theta, course)))
            slope, _ = clients.sum(clients.map(slope_of, thetas_k[-1], features_k))
    return thetas_k, clients.broadcast(clients.at_server(lambda course: course.drift, course))


def _allowed(columns: int | None, rows: list[int], outputs: int) -> int:
    """k, where sums of q = C k columns over clients with these rows hide each of them."""
    disclosure.check(rows, 0)
    most = sum(rows) // (2 * outputs)
    if most < 1 or (columns or 1) > most:
        raise SettingError(
            f"`columns` must be at most rows / (2 outputs), {most} for a round's {sum(rows)} rows, {outputs} outputs; "
            f"got {columns or 1}. Take fewer columns, or more clients."
        )
    return columns or min(most, _COLUMNS)


def _check_columns(columns: int | None) -> None:
    if columns is not None and columns < 1:
        raise SettingError(f"`columns` must be at least 1; got {columns}. Leave it out for the most that rows allow.")


def _knots(task: Task, sums: int | None) -> int:
    if task.loss.curvature is None:
        raise SettingError(
            f"`loss` must state its curvature for a flow; got none for {task.loss.name!r}. "
            "Pass curvature= to losses.custom."
        )
    if task.loss is squared and sums is not None:
        raise SettingError(
            f"`sums` must be left out under the squared loss, which takes one; got {sums}. Leave it out."
        )
    if sums is not None and not 1 <= sums <= _SUMS:
        raise SettingError(f"`sums` must be from 1 to {_SUMS}; got {sums}. Leave it out for {primal.KNOTS}.")
    return 1 if task.loss is squared else sums or primal.KNOTS


def _node_bytes(task: Task, columns: int | None, tries: int) -> Callable[[int, int], int]:
    """(rows, degree) -> about the peak memory of a client: R, its rows' factors and features, sums, candidates."""
    shapes = [tuple(w.shape) or (1,) for w in task.w_0.values()]
    k, outputs, number = columns or _COLUMNS, shapes[-1][0], next(iter(task.w_0.values())).element_size()
    row = 3 * outputs * (k + sum(shape[0] for shape in shapes)) + 3 * sum(shape[-1] for shape in shapes)
    return lambda rows, degree: number * (rows * row + 2 * (outputs * k) ** 2 + (k + 3 * tries + 2) * task.size)
