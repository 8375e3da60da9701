"""fedpart: what partial network updates cost and reach beside full ones, host by host, by warm-up and by order.

Wang et al. Why Go Full? Elevating Federated Learning Through Partial Network Updates. NeurIPS 2024. arXiv 2410.11559.
Tables 1, 6 and 7.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate, product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from matplotlib.figure import Figure

from fedtangent import catalog
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.options import options, unknown
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import setup
from fedtangent.methods.fedpart import Order, scheduled
from fedtangent.reports import partial_bill
from fedtangent.training import groups

Kind = Literal["hosts", "warm_up", "order"]
Row = dict[str, Any]

HOSTS = {"FedAvg": "fedavg", "FedProx": "fedprox", "MOON": "moon"}
UPDATES = ("full", "partial")
# Of each table, the paper's columns.
COLUMNS: dict[str, tuple[str, ...]] = {
    "hosts": tuple(f"{host} {updates}" for host in HOSTS for updates in UPDATES),
    "warm_up": ("0", "5", "60"),
    "order": ("sequential", "reverse", "random"),
}
WARM_UP = 5
TITLES = {"hosts": None, "warm_up": "full rounds first", "order": "order"}


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        name: In the table.
        host: The method inside.
        partial: Whether updates are partial; if not, the rounds are as many.
        warm_up: W, full rounds that open every cycle, or the first one only.
        once: Whether it is the first one only.
        order: Of the groups.
    """

    name: str
    host: str = "fedavg"
    partial: bool = True
    warm_up: int = WARM_UP
    once: bool = True
    order: Order = "sequential"

    def rounds(self, visits: int, cycles: int) -> int:
        """All rounds, of cycles with so many partial rounds each."""
        return self.warm_up * (1 if self.once else cycles) + visits * cycles

    def cycle(self, k: int, visits: int) -> int:
        """The cycle, from 1, that round k is in; 0 in full rounds before the first one."""
        if self.once:
            return max(0, -(-(k - self.warm_up) // visits))
        return -(-k // (self.warm_up + visits))


def fedpart(
    done: Sequence[Row] = (),
    *,
    table: Kind = "hosts",
    columns: tuple[str, ...] | None = None,
    dataset: str = "cifar10",
    data_dir: str | None = None,
    model: str = "resnet8",
    norm: Literal["batch", "group"] = "batch",
    clients: int = 10,
    rows: int = 500,
    epochs: int = 2,
    batch: int = 32,
    augment: bool = False,
    optimizer: Literal["adam", "sgd"] = "adam",
    lr: float = 0.001,
    warm_up: int | None = None,
    rounds_per_group: int = 2,
    cycles: int = 2,
    fedprox_mu: float = 0.01,
    moon_mu: float = 1.0,
    seeds: int = 1,
    engine: str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[Row]:
    """Partial updates send 0.28 of the uplink of full ones; what they reach is measured beside them.

    The table `hosts` has full and partial updates under FedAvg, FedProx and MOON, with full rounds opening every cycle;
    `warm_up` and `order` have FedAvg, partial, with full rounds before the first cycle only. Every column has the same
    clients, rows, epochs and cycles, the same first weights, and round by round the same batches.

    By default ten clients of 500 rows train two epochs a round for two cycles: a quarter of the paper's clients and of
    its epochs, and two of its five cycles. All six columns of `hosts` then cost 1.95e14 multiply-adds, a third of them
    for batch norm's statistics and the test accuracy after every round: 2.7 hours at a sustained 2e10 a second. The
    paper's size is 40 clients, 8 epochs, 5 cycles and several seeds: 8.2e14 multiply-adds for FedAvg's full updates
    alone.

    The best accuracy so far is the paper's measure, and chosen on the test set. Bytes are those of all clients,
    multiply-adds those of one, as in the paper, whose own accounting stands beside what was really sent and run: uplink
    only, in units of 1.024e9 bytes, and two thirds of three forward passes a partial step under any host. Batch norm's
    statistics are summed over all clients' rows after every round, where the paper measures with its first client's.
    Other than in the authors' code, CIFAR-10 is scaled to mean 0 and deviation 1 a channel, FedProx has the squared
    distance of its paper, not norms tensor by tensor, and MOON's other two models, like the trained one, are normalised
    by the batch.

    Args:
        done: Rows that are there already.
        table: Which one: hosts (table 1), warm_up (table 6) or order (table 7).
        columns: Which of its columns: a host and its updates, such as `FedAvg partial`; numbers of full rounds; orders.
            None is all of the paper's.
        dataset: A data set, or a file that defines one.
        data_dir: Where the data set lies.
        model: A model, whose groups are found.
        norm: Of a model that has the choice: `batch`, the paper's, or `group`.
        clients: How many, all in every round.
        rows: Of each, drawn from all rows whatever the others have.
        epochs: E, local epochs in a round.
        batch: How many rows a batch has.
        augment: Whether the rows of batches are cropped, mirrored and turned up to 15 degrees, as the paper does with
            CIFAR-100.
        optimizer: Of the clients, which starts anew every round.
        lr: Step size of the optimizer.
        warm_up: W, full rounds, but in the table of that name; none is 5.
        rounds_per_group: R, successive rounds of one group.
        cycles: C, how often all groups are visited.
        fedprox_mu: Of FedProx's squared distance.
        moon_mu: Weight of MOON's contrast.
        seeds: How many runs every column has.
        engine: What runs the clients; none takes the one that is faster here.
        device: cpu, or cuda with or without a number.
        seed: The first of the seeds.
    """
    if min(rounds_per_group, cycles, seeds) < 1:
        raise SettingError(
            f"`rounds_per_group`, `cycles` and `seeds` must be positive; got {rounds_per_group}, {cycles} and {seeds}. "
            "Give such whole numbers."
        )
    chosen = _columns(table, columns, warm_up)
    common: dict[str, Any] = {
        "dataset": catalog.load("datasets", dataset)(data_dir=data_dir),
        "model": model,
        "partition": "iid_overlapping",
        "partition_options": {"size": rows},
        "nodes": clients,
        "engine": engine,
        "device": device,
        "evaluate_nodes_every": 0,
    }
    if "norm" in options(catalog.load("models", model)):
        common["model_options"] = {"norm": norm}
    if augment:
        common |= {"augment": "images", "augment_options": {"degrees": 15.0}}
    local = {"epochs": epochs, "batch": batch, "lr": lr, "optimizer": optimizer}
    mu = {"fedprox": {"mu": fedprox_mu}, "moon": {"mu": moon_mu}}
    visits = rounds_per_group * len(groups.layer_groups(setup(Experiment(method="fedavg", rounds=1, **common)).task))
    for own, column in product(range(seed, seed + seeds), chosen):
        common |= {"seed": own, "rounds": column.rounds(visits, cycles)}
        key = {"table": table, "column": column.name, "seed": own}
        there = {row["round"] for row in done if key.items() <= row.items()}
        if common["rounds"] not in there:
            result = run(_experiment(column, local | mu.get(column.host, {}), rounds_per_group, common))
            measured = _measured(column, result, visits, rounds_per_group, epochs * rows)
            yield from (key | row for row in measured if row["round"] not in there)


def _columns(table: str, names: Sequence[str] | None, warm_up: int | None) -> list[Column]:
    """The chosen columns of a table."""
    if table not in COLUMNS:
        raise SettingError(f"`table` must be one of {', '.join(COLUMNS)}; got {table!r}. Choose one of these.")
    names = COLUMNS[table] if names is None else names
    if not names:
        raise SettingError("`columns` must be at least one; got none. Leave it out for all of the table.")
    if table == "warm_up":
        if warm_up is not None:
            raise SettingError(f"`warm_up` must be left out where it is what varies; got {warm_up}. Give `columns`.")
        for name in names:
            if not name.isdecimal():
                raise SettingError(f"`columns` must be numbers of full rounds here; got {name!r}. Give such as 0,5,60.")
        return [Column(name, warm_up=int(name)) for name in names]
    warm_up = WARM_UP if warm_up is None else warm_up
    if warm_up < 0:
        raise SettingError(f"`warm_up` must not be negative; got {warm_up}. Give a number of rounds.")
    known = get_args(Order) if table == "order" else COLUMNS[table]
    for name in names:
        if name not in known:
            raise SettingError(unknown(name, dict.fromkeys(known), f"a column of the table {table}"))
    if table == "order":
        return [Column(name, warm_up=warm_up, order=name) for name in names]  # type: ignore[arg-type]
    words = [(name, *name.split()) for name in names]
    return [Column(name, HOSTS[host], how == "partial", warm_up, once=False) for name, host, how in words]


def _experiment(column: Column, local: dict[str, Any], rounds_per_group: int, common: dict[str, Any]) -> Experiment:
    if not column.partial:
        return Experiment(method=column.host, options=local, **common)
    schedule = {
        "warm_up": column.warm_up,
        "warm_up_once": column.once,
        "rounds_per_group": rounds_per_group,
        "order": column.order,
    }
    return Experiment(method="fedpart", options=schedule, host=column.host, host_options=local, **common)


def _measured(column: Column, result: Result, visits: int, rounds_per_group: int, samples: int) -> Iterator[Row]:
    """A row a round: what it reached, and all that it took up to there; `samples` are a client's in a round."""
    parameters, forward = result.manifest["parameters"], result.manifest["forward_multiply_adds"]
    clients = len(result.manifest["rows"])
    count, schedule = visits // rounds_per_group, (column.warm_up, rounds_per_group, column.once)
    partial = [column.partial and scheduled(e["round"], count, *schedule)[1] is not None for e in result.rounds]
    sent = accumulate(entry.get("trained_parameters", parameters) for entry in result.rounds)
    steps = accumulate(Fraction(2, 3) if part else Fraction(1) for part in partial)  # in full ones
    for entry, numbers, passed in zip(result.rounds, sent, steps, strict=True):
        yield {
            "round": entry["round"],
            "cycle": column.cycle(entry["round"], visits),
            "accuracy": entry["accuracy"],
            "uplink_bytes": entry["uplink_bytes"],
            "downlink_bytes": entry["sent_bytes"] - entry["uplink_bytes"],
            "multiply_adds": entry["multiply_adds"] / clients,
            "paper_gigabytes": partial_bill.gigabytes(numbers, clients),
            "paper_multiply_adds": float(3 * forward * samples * passed),
        }


def table(rows: Sequence[Row]) -> list[Row]:
    """Every column after every cycle: accuracy in percent over seeds, best so far and last; what was sent and run.

    Where full rounds come before the first cycle only, `before` is the best accuracy in them. Bytes are all clients',
    TMAC 1e12 multiply-adds of one.
    """
    summary_rows = []
    for name, runs in _runs(rows).items():
        for cycle in sorted({row["cycle"] for row in runs[0]} - {0}):
            until = [[row for row in run if row["cycle"] <= cycle] for run in runs]
            best = [_best(run) for run in until]
            ends = [run[-1] for run in until]
            summary_rows.append(
                {
                    "column": name,
                    "cycle": cycle,
                    **_before(rows, runs),
                    "best": _mean(best),
                    "dev": float(np.std(best, ddof=1)) if len(best) > 1 else math.nan,
                    "last": _mean([100 * row["accuracy"] for row in ends]),
                    "up GB": _mean([row["uplink_bytes"] for row in ends]) / 1e9,
                    "paper GB": _mean([row["paper_gigabytes"] for row in ends]),
                    "down GB": _mean([row["downlink_bytes"] for row in ends]) / 1e9,
                    "TMAC": _mean([row["multiply_adds"] for row in ends]) / 1e12,
                    "paper TMAC": _mean([row["paper_multiply_adds"] for row in ends]) / 1e12,
                }
            )
    return summary_rows


def _before(rows: Sequence[Row], runs: Sequence[Sequence[Row]]) -> Row:
    """The best accuracy before the first cycle, where the table has such rounds."""
    if rows[0]["table"] == "hosts":
        return {}
    first = [[row for row in run if row["cycle"] == 0] for run in runs]
    return {"before": _mean([_best(run) for run in first]) if all(first) else math.nan}


def _best(run: Sequence[Row]) -> float:
    """In percent."""
    return max(100 * float(row["accuracy"]) for row in run)


def figure(rows: Sequence[Row]) -> Figure:
    """The best accuracy so far against rounds, uplink and multiply-adds; full updates dashed, dots at cycles' ends."""
    drawn = Figure(figsize=(15.6, 4.8), layout="constrained")
    panels = drawn.subplots(1, 3, sharey=True)
    places = {"round": 1.0, "uplink_bytes": 1e9, "multiply_adds": 1e12}
    by_column = _runs(rows)
    colours = {kind: f"C{i}" for i, kind in enumerate(dict.fromkeys(map(_colour, by_column)))}
    for name, runs in by_column.items():
        best = np.mean([np.maximum.accumulate([row["accuracy"] for row in run]) for run in runs], 0)
        ends = [i for i, row in enumerate(runs[0]) if i + 1 == len(runs[0]) or runs[0][i + 1]["cycle"] > row["cycle"]]
        look = {"color": colours[_colour(name)], "linestyle": "--" if name.endswith("full") else "-"}
        for axes, (key, unit) in zip(panels, places.items(), strict=True):
            x = np.mean([[row[key] for row in run] for run in runs], 0) / unit
            axes.plot(x, best, label=name, marker="o", markevery=ends, markersize=5, **look)
    for axes, title, x in zip(
        panels,
        ("Best test accuracy so far", "For what clients send", "For what a client computes"),
        ("round", "GB to the server, of all clients", "multiply-adds of a client, 10¹²"),
        strict=True,
    ):
        axes.set(title=title, xlabel=x)
    panels[-1].legend(title=TITLES[rows[0]["table"]], loc="center left", bbox_to_anchor=(1.02, 0.5))
    return drawn


def _colour(name: str) -> str:
    """What the columns of one colour have in common."""
    return name.removesuffix(" full").removesuffix(" partial")


def _runs(rows: Sequence[Row]) -> dict[str, list[list[Row]]]:
    """The rounds of every run, by column; a run is a seed."""
    by_column: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        by_column.setdefault(row["column"], {}).setdefault(row["seed"], []).append(row)
    return {
        name: [sorted(run, key=lambda row: row["round"]) for run in runs.values()] for name, runs in by_column.items()
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
