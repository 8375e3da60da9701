"""frontier: what a round, a byte and an exposed row buy in accuracy, method by method.

NTK-FL (Yue et al., ICML 2022) and NTK-DFL (Thompson et al., ICML 2025) beside what sends less and what sends as much.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.recipes._frontier_variants import AVERAGING, COHORT, CYCLE, NEIGHBOURS, PARTIAL, SERVER, VARIANTS
from fedtangent.recipes._grid import check, deviation, mean, split

# What a message tells of the rows, and how its method's line is drawn.
STYLES: dict[str, Any] = {"none": "-", "aggregate": "-", "kernel": "--", "raw-equivalent": ":"}
WHAT_IT_TELLS: dict[Any, str] = {"-": "sums over rows", "--": "similarities of rows", ":": "what rows can be read from"}
PANELS = {"With a server": SERVER | COHORT, "Between neighbours": NEIGHBOURS}
GREY = "#8a8a8a"
Row = dict[str, Any]


def frontier(
    done: Sequence[Row] = (),
    *,
    dataset: str = "digits",
    data_dir: str | None = None,
    nodes: int = 20,
    degree: int = 5,
    participation: float = 0.25,
    partitions: tuple[str, ...] = ("0.1",),
    variants: tuple[str, ...] = tuple(VARIANTS),
    rounds: int = 20,
    seeds: int = 1,
    target: float = 0.9,
    seed: int = 0,
) -> Iterator[Row]:
    """Few rounds were bought with the rows of the data; sums over them buy the same.

    Test accuracy of the aggregated model against rounds, against all bytes sent, and by what a message exposes: sums
    over a client's rows (aggregate), similarities (kernel), or what the rows can be read from (raw-equivalent).
    Decentralised methods run on a random regular graph that is redrawn every round, RelaySGD on a binary tree.

    Args:
        done: Rows that are there already.
        dataset: A data set, or a file that defines one.
        data_dir: Where it is, for a data set that is not built in.
        nodes: How many; with an index file as many as it has.
        degree: How many neighbours every node has.
        participation: The share of the clients in a round, of the variants where a server asks some.
        partitions: Each the alpha of a Dirichlet draw of labels, `iid`, or an index file.
        variants: The names of the methods to compare.
        rounds: How many rounds each method has.
        seeds: Runs of every method and partition.
        target: The accuracy to which rounds and bytes are counted in the table.
        seed: The first of the seeds.
    """
    check(rounds, seeds, variants, partitions, VARIANTS, "variant")
    if PARTIAL in variants and rounds < CYCLE:
        raise SettingError(
            f"`rounds` must be at least {CYCLE}, a cycle of {PARTIAL}; got {rounds}. Take more, or other variants."
        )
    there = {(row["variant"], row["partition"], row["seed"]) for row in done if row["round"] == rounds}
    for partition, own, name in product(partitions, range(seed, seed + seeds), variants):
        if (name, Path(partition).name, own) in there:
            continue
        settings: dict[str, Any] = {
            "dataset": dataset,
            "data_dir": data_dir,
            "rounds": rounds,
            "seed": own,
            "evaluate_nodes_every": 0,
        }
        settings |= split(partition, {"partition": "dirichlet"}, {"nodes": nodes})
        if name in COHORT:
            settings["participation"] = participation
        if name in NEIGHBOURS and not {"topology", "sample"} & VARIANTS[name].keys():
            settings |= {"topology": "regular", "degree": degree}
        settings |= VARIANTS[name]
        result = run(experiment(**settings))
        for entry in result.rounds:
            key = {"variant": name, "partition": Path(partition).name, "seed": own, "round": entry["round"]}
            if not any(key.items() <= row.items() for row in done):
                yield key | {
                    "accuracy": entry["accuracy"],
                    "sent_bytes": entry["sent_bytes"],
                    "exposure": result.manifest["exposure"],
                    "nodes": len(result.manifest["rows"]),
                    "target": target,
                }


def table(rows: Sequence[Row]) -> list[Row]:
    """Every method: rounds and bytes a node to the target, and the accuracy at the end, over partitions and seeds."""
    summary_rows = []
    for name, runs in _runs(rows).items():
        target, last = runs[0][0]["target"], [entries[-1]["accuracy"] for entries in runs]
        first = [next((entry for entry in entries if entry["accuracy"] >= target), None) for entries in runs]
        there = [entry for entry in first if entry is not None]
        reached = len(there) == len(runs)
        summary_rows.append(
            {
                "method": name,
                "exposure": runs[0][0]["exposure"],
                "runs": len(runs),
                f"rounds to {target:g}": mean([entry["round"] for entry in there]) if reached else math.nan,
                "MB": mean([entry["sent_bytes"] / entry["nodes"] / 1e6 for entry in there]) if reached else math.nan,
                "end": mean(last),
                "dev": deviation(last),
            }
        )
    return summary_rows


def figure(rows: Sequence[Row]) -> Figure:
    """Accuracy against rounds and against bytes a node, with a server and between neighbours.

    Methods that average weights are grey, the others have a colour each; a line's style is what its messages tell.
    """
    by_variant = _runs(rows)
    kinds = [(title, [name for name in names if name in by_variant]) for title, names in PANELS.items()]
    kinds = [(title, names) for title, names in kinds if names]
    low, high = min(row["target"] for row in rows) - 0.1, max(row["accuracy"] for row in rows) + 0.01
    drawn = Figure(figsize=(13.6, 4.6 * len(kinds)), layout="constrained")
    panels = drawn.subplots(len(kinds), 2, sharex="col", sharey=True, squeeze=False)
    for (by_rounds, by_bytes), (title, names) in zip(panels, kinds, strict=True):
        by_rounds.set(title=f"{title}: accuracy after a round", ylim=(low, max(high, low + 0.1)))
        by_rounds.xaxis.get_major_locator().set_params(integer=True)
        by_bytes.set(title="Accuracy for the bytes sent", xscale="log")
        colours = iter(f"C{i}" for i in (0, 1, 2, 3, 4, 5, 6, 8, 9))  # without the grey one
        for name in names:
            runs = by_variant[name]
            colour = GREY if name in AVERAGING else next(colours)
            style: Any = {"color": colour, "linestyle": STYLES[runs[0][0]["exposure"]]}
            style["linewidth"] = 0.9 if name in AVERAGING else 1.9
            rounds = [entry["round"] for entry in runs[0]]
            accuracy = np.mean([[entry["accuracy"] for entry in entries] for entries in runs], 0)
            spent = np.mean([[entry["sent_bytes"] / entry["nodes"] for entry in entries] for entries in runs], 0)
            by_rounds.plot(rounds, accuracy, label=name, **style)
            by_bytes.plot(spent / 1e6, accuracy, label=name, **style)
        _name_lines(by_rounds)
        _name_lines(by_bytes)
    by_rounds.set(xlabel="round")
    by_bytes.set(xlabel="MB a node, of all messages")
    styles = [Line2D([], [], color="black", linestyle=style, label=told) for style, told in WHAT_IT_TELLS.items()]
    panels[0][0].legend(handles=styles, title="messages hold", loc="lower right", fontsize=8, title_fontsize=8)
    return drawn


def _name_lines(axes: Axes) -> None:
    """Each line's name right of the panel, at the height where it ends, or as near as other names leave room."""
    low, high = axes.get_ylim()
    apart = (high - low) / 26  # of the names of two lines
    ends = sorted((max(float(np.asarray(line.get_ydata())[-1]), low), place) for place, line in enumerate(axes.lines))
    below = apart * np.arange(len(ends))  # what the names below take
    heights = isotonic_regression([end for end, _ in ends] - below).x.clip(low, high - apart / 2 - below[-1]) + below
    for (end, place), height in zip(ends, heights, strict=True):
        line = axes.lines[place]
        axes.annotate(
            str(line.get_label()),
            xy=(np.asarray(line.get_xdata())[-1], end),
            xytext=(1.03, height),
            textcoords=("axes fraction", "data"),
            color=line.get_color(),
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.4, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def _runs(rows: Sequence[Row]) -> dict[str, list[list[Row]]]:
    """The rounds of every run, by method; a run is a partition and a seed."""
    by_variant: dict[str, dict[Any, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: row["round"]):
        by_variant.setdefault(row["variant"], {}).setdefault((row["partition"], row["seed"]), []).append(row)
    return {name: list(by_variant[name].values()) for name in VARIANTS if name in by_variant}
