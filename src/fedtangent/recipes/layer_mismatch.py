"""layer_mismatch: gradients and steps around each averaging, of all layers at once and of one group at a time.

Wang et al. Why Go Full? Elevating Federated Learning Through Partial Network Updates. NeurIPS 2024. arXiv 2410.11559.
Figure 1, on the same parameters, and with an optimiser that does not start anew.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import islice, pairwise, product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fedtangent import catalog, trees
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.options import unknown
from fedtangent.experiments.setup import Setup, setup
from fedtangent.federation import generator
from fedtangent.methods.fedpart import scheduled
from fedtangent.shard import Shard
from fedtangent.training import solvers
from fedtangent.training.groups import Groups, layer_groups
from fedtangent.training.task import Task, Weights, training

Optimizer = Literal["adam", "adam_kept", "sgd"]
Row = dict[str, Any]
Parameters = dict[str, nn.Parameter]

OPTIMIZERS = {"adam": torch.optim.Adam, "adam_kept": torch.optim.Adam, "sgd": torch.optim.SGD}
LABELS = {"adam": "Adam anew each round", "adam_kept": "Adam kept", "sgd": "SGD"}
UPDATES = ("full", "partial")
MOST = 5  # steps on either side of an averaging


class Quantity(NamedTuple):
    """What is compared around an averaging.

    Attributes:
        norm: Of what.
        grouped: Whether of the group alone that partial updates train in the round before.
        visits: Whether only where they train the same one in the round after.
        style: Of its line.
    """

    norm: Literal["gradient", "step"]
    grouped: bool
    visits: bool
    style: str


QUANTITIES = {
    "gradient": Quantity("gradient", False, False, "-"),
    "group's gradient": Quantity("gradient", True, False, "--"),
    "group's step": Quantity("step", True, True, ":"),
}


def layer_mismatch(
    done: Sequence[Row] = (),
    *,
    dataset: str = "digits",
    data_dir: str | None = None,
    model: str = "lenet",
    clients: int = 4,
    rows: int = 128,
    epochs: int = 2,
    batch: int = 32,
    optimizers: tuple[Optimizer, ...] = ("adam", "adam_kept", "sgd"),
    lr: float = 0.001,
    sgd_lr: float = 0.1,
    warm_up: int = 5,
    rounds_per_group: int = 2,
    cycles: int = 1,
    seed: int = 0,
) -> Iterator[Row]:
    """Do gradients and steps jump after an averaging, and less when one group of layers is averaged at a time?

    FedAvg with full and with partial updates, on the same batches. At every local step of every client: the norm of the
    gradient before it, over all parameters and over each group, frozen or not; and of the step itself.

    The spike ratio of a norm is its mean over the first s steps after an averaging by its mean over the last s before
    it. Both runs are measured on the same parameters: on all of them, and on the group that partial updates train in
    the round before. Gradients are compared around every averaging between two rounds of partial updates; steps where
    both rounds train the same group.

    Adam that starts anew takes a first step of nearly its rate in every number, whatever the gradient: steps then jump
    without any mismatch. Controls are raw gradients, Adam whose moments a client keeps from round to round, and SGD.
    Where a batch does not divide the rows, an epoch ends in a smaller batch, whose gradient is larger by its noise; and
    where a norm falls as training goes on, its ratio is below one without any averaging.

    The paper's figure has 40 clients of 500 rows of CIFAR-100, ResNet-8 and eight epochs a round.

    Args:
        done: Rows that are there already.
        dataset: A data set, or a file that defines one.
        data_dir: Where it is, for a data set that is not built in.
        model: A model, whose groups are found.
        clients: How many, all in every round.
        rows: Of each, drawn from all rows whatever the others have.
        epochs: E, in a round.
        batch: Rows of a batch.
        optimizers: Of the clients: adam, which starts anew every round; adam_kept, which does not; sgd.
        lr: Step size of Adam.
        sgd_lr: Step size of SGD.
        warm_up: W, full rounds that open every cycle.
        rounds_per_group: R, successive rounds of one group.
        cycles: C, how often all groups are visited.
        seed: Of everything that is drawn.
    """
    if min(rounds_per_group, cycles) < 1 or warm_up < 0:
        raise SettingError(
            f"`rounds_per_group` and `cycles` must be positive and `warm_up` not negative; got {rounds_per_group}, "
            f"{cycles} and {warm_up}. Give such whole numbers."
        )
    for name in optimizers:
        if name not in OPTIMIZERS:
            raise SettingError(unknown(name, OPTIMIZERS, "an optimizer here"))
    if not optimizers or not 0 < min(lr, sgd_lr) <= max(lr, sgd_lr) < math.inf:
        raise SettingError(
            f"`optimizers` must be at least one, `lr` and `sgd_lr` positive and finite; got {len(optimizers)}, {lr} "
            f"and {sgd_lr}. Choose an optimizer and its step size."
        )
    draw = solvers.shuffled(epochs, batch)
    data = catalog.load("datasets", dataset)(data_dir=data_dir)
    chosen = {"dataset": data, "model": model, "partition": "iid_overlapping", "size": rows, "nodes": clients}
    built = setup(experiment("fedavg", rounds=1, seed=seed, **chosen))
    groups = layer_groups(built.task)
    turns = schedule(len(groups), warm_up, rounds_per_group, cycles)
    for optimizer, updates in product(optimizers, UPDATES):
        key = {"optimizer": optimizer, "updates": updates}
        there = sum(key.items() <= row.items() for row in done)
        if there < len(turns) * clients * epochs * -(-rows // batch):
            rate = sgd_lr if optimizer == "sgd" else lr
            measured = traced(built, groups, turns, updates == "partial", optimizer, rate, draw)
            yield from (key | row for row in islice(measured, there, None))


def schedule(count: int, warm_up: int, rounds_per_group: int, cycles: int) -> list[int]:
    """For every round, the number from 1 of the group that partial updates train in it; 0 for all.

    Args:
        count: M, of the groups.
        warm_up: W.
        rounds_per_group: R, successive rounds of one group.
        cycles: C, how often all groups are visited.
    """
    rounds = cycles * (warm_up + rounds_per_group * count)
    visits = (scheduled(k, count, warm_up, rounds_per_group)[1] for k in range(1, rounds + 1))
    return [0 if visit is None else visit + 1 for visit in visits]


def traced(
    built: Setup, groups: Groups, turns: Sequence[int], partial: bool, optimizer: Optimizer, lr: float, draw: Any
) -> Generator[Row, None, Weights]:
    """A row a local step, round by round and client by client; returns the server's weights at the end.

    The steps are those of `fedavg` with this optimizer, of `fedpart` around it if partial, to rounding.

    Args:
        built: Data, model, loss, and the seed.
        groups: Of the model.
        turns: For every round the group that partial updates train; 0 for all.
        partial: Whether updates are partial.
        optimizer: Of the clients.
        lr: Its step size.
        draw: Of a client's batches.
    """
    w, total = built.task.w_0, sum(len(data.x) for data in built.data)
    own_k: list[Parameters] = [{n: nn.Parameter(p.clone()) for n, p in w.items()} for _ in built.data]
    moves_k = [OPTIMIZERS[optimizer](own.values(), lr) for own in own_k]
    for k, turn in enumerate(turns, 1):
        trained = groups[turn - 1] if partial and turn else tuple(w)
        for client, (data, own) in enumerate(zip(built.data, own_k, strict=True)):
            with torch.no_grad():
                for name, p in own.items():
                    p.copy_(w[name])
            if optimizer != "adam_kept":
                moves_k[client] = OPTIMIZERS[optimizer](own.values(), lr)
            batches = draw(generator(built.experiment.seed, k, "batches", client), data)
            for number, (index, at) in enumerate(zip(batches.rows, batches.keys, strict=True), 1):
                moved, gradient = _stepped(built.task, own, moves_k[client], data, index, at, trained)
                key = {"round": k, "group": turn, "client": client, "step": number}
                yield key | _norms("gradient", gradient, groups) | _norms("step", moved, groups)
        parts = [{name: p.detach() for name, p in own.items()} for own in own_k]
        w = trees.weighted_sum(parts, [len(data.x) / total for data in built.data])
    return w


def _stepped(
    task: Task,
    own: Parameters,
    moves: torch.optim.Optimizer,
    data: Shard,
    index: Tensor,
    key: Tensor,
    trained: Sequence[str],
) -> tuple[Weights, Weights]:
    """What one step has moved, and the gradient before it, of all parameters; only those that are trained move."""
    rows, real = (index - 1).clamp(min=0), index > 0
    with training(real, key):
        each = task.loss.per_sample(task.predict(own, data.x[rows]), data.y[rows])  # type: ignore[arg-type]
    slopes = torch.autograd.grad(torch.where(real, each, 0).sum() / real.sum(), list(own.values()))
    gradient = dict(zip(own, slopes, strict=True))
    for name, p in own.items():
        p.grad = gradient[name] if name in trained else None  # none: neither it nor its moments move
    before = {name: p.detach().clone() for name, p in own.items()}
    moves.step()
    return {name: p.detach() - before[name] for name, p in own.items()}, gradient


def _norms(what: str, tree: Weights, groups: Groups) -> dict[str, float]:
    """The norm over all parameters, and over each group, numbered from 1."""
    squares = [float(sum(tree[name].double().square().sum() for name in group)) for group in groups]
    each = {f"{what}_{number}": math.sqrt(square) for number, square in enumerate(squares, 1)}
    return {f"{what}_all": math.sqrt(sum(squares)), **each}


def table(rows: Sequence[Row]) -> list[Row]:
    """Every optimizer and quantity, s by s: the spike ratios of both kinds of updates, and their deviation."""
    summary_rows = []
    for (optimizer, quantity), pairs in _ratios(rows).items():
        for s in range(1, 1 + max(len(values[0]) for values in pairs.values())):
            row: Row = {"optimizer": optimizer, "norm": quantity, "s": s}
            for updates, values in pairs.items():
                row |= {updates: float(values[:, s - 1].mean()), f"dev {updates}": _deviation(values[:, s - 1])}
            summary_rows.append(row)
    return summary_rows


def spikes(course: Sequence[Sequence[Row]], quantity: str) -> list[list[float]]:
    """The spike ratio of one client around every averaging, (averagings, s).

    Args:
        course: Its rows, by round.
        quantity: One of QUANTITIES.
    """
    norm, grouped, visits, _ = QUANTITIES[quantity]
    ratios = []
    for last, first in pairwise(course):
        group, after = last[0]["group"], first[0]["group"]
        if group and after and (group == after or not visits):
            key = f"{norm}_{group if grouped else 'all'}"
            ended, begun = [row[key] for row in last], [row[key] for row in first]
            most = min(MOST, len(ended))
            ratios.append([_ratio(sum(begun[:s]), sum(ended[-s:])) for s in range(1, most + 1)])
    return ratios


def _ratio(after: float, before: float) -> float:
    return after / before if before else math.nan


def _ratios(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """By optimizer and quantity, then by updates: the mean ratio of each client over the averagings, (clients, s)."""
    curves: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for (optimizer, updates), courses in _courses(rows).items():
        for quantity in QUANTITIES:
            values = [spikes(course, quantity) for course in courses]
            if values[0]:
                curves.setdefault((optimizer, quantity), {})[updates] = np.mean(values, 1)
    return curves


def _courses(rows: Sequence[Row]) -> dict[tuple[str, str], list[list[list[Row]]]]:
    """By optimizer and updates: of every client, its steps by round."""
    courses: dict[tuple[str, str], dict[int, dict[int, list[Row]]]] = {}
    for row in rows:
        run = courses.setdefault((row["optimizer"], row["updates"]), {})
        run.setdefault(row["client"], {}).setdefault(row["round"], []).append(row)
    return {run: [list(course.values()) for course in clients.values()] for run, clients in courses.items()}


def _deviation(values: np.ndarray) -> float:
    """Over the clients."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def figure(rows: Sequence[Row]) -> Figure:
    """By optimizer: the gradient, the step of the group that partial updates train, and the ratios around averagings.

    Means over the clients; thin lines mark averagings, and bars the deviation over the clients.
    """
    courses, ratios = _courses(rows), _ratios(rows)
    names = list(dict.fromkeys(optimizer for optimizer, _ in courses))
    drawn = Figure(figsize=(15.6, 4.2 * len(names)), layout="constrained")
    for optimizer, (gradient, step, ratio) in zip(names, drawn.subplots(len(names), 3, squeeze=False), strict=True):
        for i, updates in enumerate(UPDATES):
            if (optimizer, updates) in courses:
                steps, count = _course(courses[optimizer, updates], "gradient")
                gradient.plot(steps, color=f"C{i}", label=f"{updates} updates", linewidth=1.2)
                steps, _ = _course(courses[optimizer, updates], "step")
                step.plot(steps, color=f"C{i}", linewidth=1.2)
            for quantity, (*_, style) in QUANTITIES.items():
                values = ratios.get((optimizer, quantity), {}).get(updates)
                if values is not None:
                    s = [place + 0.12 * (i - 0.5) for place in range(1, len(values[0]) + 1)]
                    errors = [_deviation(column) for column in values.T]
                    look = {"color": f"C{i}", "linestyle": style, "label": f"{quantity}, {updates}"}
                    ratio.errorbar(s, values.mean(0), None if len(values) < 2 else errors, capsize=2, **look)
        for axes in (gradient, step):
            for place in range(count, len(steps), count):
                axes.axvline(place - 0.5, color="0.6", linewidth=0.5, zorder=0)
            axes.set(yscale="log", xlabel="local steps")
        ratio.axhline(1, color="0.6", linewidth=0.5, zorder=0)
        gradient.set(title=f"Gradient: {LABELS[optimizer]}")
        step.set(title="Step of the group in turn")
        ratio.set(title="Spike ratio", xlabel="s, steps on either side", xticks=range(1, MOST + 1))
        gradient.legend(loc="lower left")
        ratio.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return drawn


def _course(courses: Sequence[Sequence[Sequence[Row]]], what: str) -> tuple[list[float], int]:
    """A norm at every local step, the mean over the clients, and how many steps a round has.

    The gradient is that of all parameters, the step that of the group in turn.
    """

    def norm(row: Row) -> float:
        return float(row["gradient_all"] if what == "gradient" else row[f"step_{row['group'] or 'all'}"])

    values = [[norm(row) for steps in course for row in steps] for course in courses]
    return np.mean(values, 0).tolist(), len(courses[0][0])
