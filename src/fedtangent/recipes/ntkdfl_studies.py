"""ntkdfl_studies: what NTK-DFL's graph, data, averages, first weights and kernel are worth, a study at a time.

Thompson, Yue, Wong, Dai. NTK-DFL: Enhancing Decentralized Federated Learning in Heterogeneous Settings via Neural
Tangent Kernel. ICML 2025. arXiv 2410.01922. Every study also with DFedKFAC, and with the control that shares rows.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtangent.errors import SettingError
from fedtangent.experiments.evaluate import worst_tenth
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.recipes._grid import check, deviation, mean, split
from fedtangent.recipes._studies import METHODS, ORDERS, ends, gap, orders, settings, values_of

Study = Literal[
    "degree", "alpha", "averaging", "graph", "first_weights", "nodes", "final_average", "deviation", "kernel"
]
Row = dict[str, Any]
_KEY = ("study", "value", "method", "partition", "seed")
_AXES = {
    "degree": "neighbours of a node",
    "alpha": "alpha of the Dirichlet partition",
    "nodes": "nodes",
    "graph": "spectral gap",
    "deviation": "deviation of the nodes' models",
}


def ntkdfl_studies(
    done: Sequence[Row] = (),
    *,
    study: Study = "degree",
    values: tuple[str, ...] = (),
    methods: tuple[str, ...] = ("NTK-DFL", "DFedKFAC", "Pooled rows"),
    dataset: str = "fashion_mnist",
    data_dir: str | None = None,
    partitions: tuple[str, ...] = ("0.1",),
    size: int = 200,
    nodes: int = 300,
    degree: int = 5,
    gossip_weights: Literal["uniform", "metropolis"] = "uniform",
    rounds: int = 30,
    seeds: int = 3,
    seed: int = 0,
    target: float = 0.85,
) -> Iterator[Row]:
    """A study's full grid by one command; less of it by values, nodes, rounds and seeds.

    `degree` from 2 to 10; `alpha` of the labels' Dirichlet draw, and IID; `averaging`, or none at the beginning of a
    round; `graph`, drawn anew (those that are fixed change places) or static, against its spectral gap;
    `first_weights`, the same or distinct; the number of `nodes`; which models enter the `final_average`, the best,
    random or worst first; `deviation` of the nodes' models against the aggregate's accuracy; trace or full `kernel`.
    Nodes' own models are measured as they are after the last round, before they are averaged.

    Args:
        done: Rows that are there already.
        study: What is varied; each study has a grid, a table and a figure of its own.
        values: Of what is varied; none is the paper's grid.
        methods: Among NTK-DFL, DFedKFAC, Pooled rows and DFedAvg.
        dataset: A data set, or a file that defines one.
        data_dir: Where it is, for a data set that is not built in.
        partitions: Each the alpha of the papers' Dirichlet draw of labels, `iid`, or an index file.
        size: Rows of a node, before rounding down, of the papers' draw.
        nodes: How many; with an index file as many as it has.
        degree: How many neighbours every node has.
        gossip_weights: How a neighbourhood is averaged.
        rounds: How many rounds each run has.
        seeds: Runs of every value, method and partition.
        seed: The first of the seeds.
        target: The accuracy to which rounds are counted in the table.
    """
    check(rounds, seeds, methods, partitions, METHODS, "method")
    chosen = values_of(study, values)
    papers = {"partition": "papers_dirichlet", "size": size}
    if study == "nodes" and any(split(one, papers)["partition"] == one != "iid" for one in partitions):
        raise SettingError(
            f"`partitions` must be drawn in the study of nodes; got {', '.join(partitions)}, of which one is an index "
            "file. Give an alpha, or iid."
        )
    there = [{name: row[name] for name in _KEY} for row in done if row["kind"] == "run"]
    for value, own, partition, name in product(chosen, range(seed, seed + seeds), partitions, methods):
        given = settings(study, value, name, nodes, degree)
        dealt_by = value if study == "alpha" else partition
        shown = "none" if study == "kernel" and METHODS[name]["method"] != "ntkdfl" else value
        key = dict(zip(_KEY, (study, shown, name, Path(dealt_by).name, own), strict=True))
        if given is None or key in there:
            continue
        if given["method"] != "local":
            given["gossip_weights"] = gossip_weights
        dealt = split(dealt_by, papers)
        if dealt["partition"] == dealt_by != "iid":  # an index file, which has its nodes
            given.pop("nodes")
        common = {"dataset": dataset, "data_dir": data_dir, "rounds": rounds, "seed": own, "evaluate_nodes_every": 0}
        for row in _found(key, common | dealt | given, target):
            if row not in done:
                yield row


def table(rows: Sequence[Row]) -> list[Row]:
    """Every value and method, over partitions and seeds: rounds to the target, accuracy at the end and its deviation.

    Of the nodes' own models the mean accuracy, that of the worst tenth, and how far their weights are apart; and the
    graph's spectral gap. Of the final average every order: how many models' average is the most accurate, how accurate.
    """
    if rows[0]["study"] == "final_average":
        return _orders_table(rows)
    summary = []
    for (value, method), runs in _runs(rows).items():
        reached, last = [run["rounds_to"] for run in runs], [run["accuracy"] for run in runs]
        summary.append(
            {
                rows[0]["study"]: value,
                "method": method,
                f"rounds to {runs[0]['target']:g}": mean(reached),
                "end": mean(last),
                "dev": deviation(last),
                "a node": mean([run["node_mean"] for run in runs]),
                "worst": mean([run["worst_tenth"] for run in runs]),
                "apart": mean([run["deviation"] for run in runs]),
                "gap": mean([run["gap"] for run in runs]),
            }
        )
    return summary


def figure(rows: Sequence[Row]) -> Figure:
    """The study's question: accuracy against its axis, histograms of the nodes, or curves over rounds or models."""
    study = rows[0]["study"]
    if study == "averaging":
        return _histograms(rows)
    if study == "final_average":
        return _order_curves(rows)
    drawn = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = drawn.subplots()
    (_against_axis if study in _AXES else _against_rounds)(axes, rows)
    axes.set(ylabel="accuracy of the aggregated model", xlabel=_AXES.get(study, "round"))
    axes.legend()
    return drawn


def _found(key: Row, asked: dict[str, Any], target: float) -> Iterator[Row]:
    """The rows of one run: its rounds, its nodes or orders, and the run itself at last."""
    built = setup(experiment(**asked))
    result = run(built, keep_nodes=True)
    course = [entry["accuracy"] for entry in result.rounds]
    for k, accuracy in enumerate(course, 1):
        yield key | {"kind": "round", "round": k, "accuracy": accuracy}
    own = ends(built, result.nodes)
    if key["study"] == "averaging":
        for node, accuracy in enumerate(own.accuracy):
            yield key | {"kind": "node", "node": node, "accuracy": accuracy}
    if key["study"] == "final_average":
        for order, count, accuracy in orders(built, result.nodes, key["seed"]):
            yield key | {"kind": "order", "order": order, "models": count, "accuracy": accuracy}
    yield key | {
        "kind": "run",
        "accuracy": course[-1],
        "rounds_to": next((float(k) for k, a in enumerate(course, 1) if a >= target), math.nan),
        "target": target,
        "node_mean": mean(own.accuracy),
        "worst_tenth": mean(worst_tenth(own.accuracy)),
        "deviation": own.deviation,
        "gap": gap(built),
        "node_bytes": result.rounds[-1]["sent_bytes"] / len(own.accuracy),
    }


def _runs(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The runs of every value and method, in order."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] == "run":
            found.setdefault((row["value"], row["method"]), []).append(row)
    return found


def _orders_table(rows: Sequence[Row]) -> list[Row]:
    summary = []
    for (method, order), curve in _order_means(rows).items():
        best = max(curve, key=lambda count: (curve[count], -count))
        few, whole = min(curve), max(curve)
        summary.append(
            {
                "method": method,
                "first": order,
                "models": best,
                "accuracy": curve[best],
                "of one": curve[few],
                f"of all {whole}": curve[whole],
            }
        )
    return summary


def _order_means(rows: Sequence[Row]) -> dict[tuple[str, str], dict[int, float]]:
    """By method and order the mean accuracy of so many models' average."""
    held: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        if row["kind"] == "order":
            curve = held.setdefault((row["method"], row["order"]), {})
            curve.setdefault(row["models"], []).append(row["accuracy"])
    return {key: {count: mean(found) for count, found in curve.items()} for key, curve in held.items()}


def _against_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """Accuracy against the study's numbers; of graphs and deviations a mark a value, hollow where it is static."""
    study, by_method = rows[0]["study"], _by_method(rows)
    for i, (method, unsorted) in enumerate(by_method.items()):
        found = dict(sorted(unsorted.items(), key=lambda item: _number(item[0])))
        accuracy = [mean([run["accuracy"] for run in runs]) for runs in found.values()]
        spread = [float(np.std([run["accuracy"] for run in runs])) for runs in found.values()]
        if study in ("graph", "deviation"):
            place = [mean([run["gap" if study == "graph" else study] for run in runs]) for runs in found.values()]
            fill = ["none" if value.endswith("static") else f"C{i}" for value in found]
            axes.scatter(place, accuracy, facecolors=fill, edgecolors=f"C{i}", marker="os^D"[i], label=method)
            axes.margins(x=0.12)  # for the names
            for k, (x, y, value) in enumerate(sorted(zip(place, accuracy, found, strict=True))):
                if not value.endswith("static"):  # the hollow mark beside it says enough
                    aside = (4, 3 if k % 2 else -9)  # neighbours' names apart
                    axes.annotate(value, (x, y), aside, textcoords="offset points", fontsize=7, color=f"C{i}")
        else:
            axes.errorbar(list(found), accuracy, spread, color=f"C{i}", marker="o", capsize=3, label=method)
    if study == "graph":
        axes.set_title("filled: dynamic, hollow: static")


def _number(value: str) -> float:
    """By which values are in order on an axis: what is no number, such as iid, is last."""
    return float(value) if value.replace(".", "").isdigit() else math.inf


def _against_rounds(axes: Axes, rows: Sequence[Row]) -> None:
    """The mean accuracy after every round: a colour a method, a line style a value."""
    styles: dict[str, str] = {}
    for i, (method, found) in enumerate(_by_method(rows).items()):
        for value in found:
            style = styles.setdefault(value, ("-", "--", ":")[len(styles) % 3])
            own = [r for r in rows if r["kind"] == "round" and (r["value"], r["method"]) == (value, method)]
            rounds = sorted({row["round"] for row in own})
            course = [mean([row["accuracy"] for row in own if row["round"] == k]) for k in rounds]
            axes.plot(rounds, course, color=f"C{i}", linestyle=style, label=f"{method}, {value}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _histograms(rows: Sequence[Row]) -> Figure:
    """The accuracies of the nodes' own models, with averaging and without, a panel a method."""
    by_method = _by_method(rows)
    drawn = Figure(figsize=(4.4 * len(by_method), 3.8), layout="constrained")
    panels = drawn.subplots(1, len(by_method), sharex=True, sharey=True, squeeze=False)[0]
    bins = np.linspace(0, 1, 41).tolist()
    for axes, (method, found) in zip(panels, by_method.items(), strict=True):
        for value in found:
            own = [r["accuracy"] for r in rows if r["kind"] == "node" and (r["value"], r["method"]) == (value, method)]
            axes.hist(own, bins, weights=[1 / len(own)] * len(own), alpha=0.55, label=f"averaging {value}")
        axes.set(title=method, xlabel="accuracy of a node's own model")
    panels[0].set_ylabel("share of the nodes")
    panels[-1].legend()
    return drawn


def _order_curves(rows: Sequence[Row]) -> Figure:
    """The accuracy of the average of so many models, the best, random or worst first, a panel a method."""
    means = _order_means(rows)
    methods = list(dict.fromkeys(method for method, _ in means))
    drawn = Figure(figsize=(4.4 * len(methods), 3.8), layout="constrained")
    panels = drawn.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        for order in ORDERS:
            curve = sorted(means[method, order].items())
            axes.plot(*zip(*curve, strict=True), marker=".", label=f"{order} first")
        axes.set(title=method, xlabel="models in the average")
    panels[0].set_ylabel("accuracy of the average")
    panels[-1].legend()
    return drawn


def _by_method(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """The runs by method, and of each by value."""
    found: dict[str, dict[str, list[Row]]] = {}
    for (value, method), runs in _runs(rows).items():
        found.setdefault(method, {})[value] = runs
    return found
