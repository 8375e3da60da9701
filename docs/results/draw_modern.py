"""The picture and the tables of modern.md from the records beside this file.

    python docs/results/draw_modern.py modern.png

Folders `cifar10/VARIANT-test-SEED` are those of modern.py; `fashion_mnist/fedkfac-local-PARTITION-SEED` single runs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from validation import lines

from fedtangent.reports import recipe_page

HERE = Path(__file__).parent
CLIENTS = 20
# By folder: a line's name and colour.
LINES = {
    "fedkfac-first3-shrinkage0.1-dampings": ("FedKFAC, 4 local epochs in 3 rounds, shrinkage", "C0"),
    "fedkfac-epochs4": ("FedKFAC, 4 local epochs", "C9"),
    "fedkfac-epochs4-decay": ("FedKFAC, 4 local epochs, decay 0.01", "C4"),
    "fedkfac": ("FedKFAC", "C1"),
    "dfedkfac-first3-shrinkage0.1": ("DFedKFAC, 4 local epochs in 3 rounds, shrinkage", "C5"),
    "fedavgm-0.05": ("FedAvgM, 5 epochs", "C3"),
    "fedavg-momentum": ("FedAvg, 5 epochs, momentum", "C2"),
}
CEILING, EPOCH = "central-50-0.005-0.01", 17  # the epoch of the highest accuracy on validation images


def runs(name: str) -> list[list[dict[str, Any]]]:
    """The rounds of every seed of a variant."""
    found = [lines(path) for path in sorted(HERE.glob(f"cifar10/{name}-test-[0-9]/rounds.jsonl"))]
    return [run for run in found if run]


def over_seeds(found: Sequence[list[dict[str, Any]]], key: str) -> list[np.ndarray]:
    """The values of a key after every round, of the seeds that got there."""
    longest = max(len(run) for run in found)
    return [np.array([run[k][key] for run in found if len(run) > k]) for k in range(longest)]


def told(values: np.ndarray) -> str:
    """Mean and deviation, as in the tables."""
    text = f"{values.mean():.4f}"[1:]
    return text if len(values) < 2 else f"{text} ± {values.std(ddof=1):.4f}".replace("± 0", "± ")


def figure(found: Sequence[str]) -> Figure:
    """Accuracy after every round, and for the bytes of a client."""
    drawn = Figure(figsize=(11, 5), layout="constrained")
    by_round, by_bytes = drawn.subplots(1, 2, sharey=True)
    for name in found:
        label, colour = LINES[name]
        accuracy = [values.mean() for values in over_seeds(runs(name), "accuracy")]
        spent = [values.mean() / CLIENTS / 1e6 for values in over_seeds(runs(name), "sent_bytes")]
        by_round.plot(range(1, len(accuracy) + 1), accuracy, color=colour, marker="o", markersize=3, label=label)
        by_bytes.plot(spent, accuracy, color=colour, marker="o", markersize=3)
    if ceiling := [run[EPOCH - 1]["accuracy"] for run in runs(CEILING) if len(run) >= EPOCH]:
        for axes in (by_round, by_bytes):
            axes.axhline(float(np.mean(ceiling)), color="0.4", linestyle="--", linewidth=1)
        by_round.annotate(
            "central SGD, its best epoch", (1, float(np.mean(ceiling))), (0, 4), textcoords="offset points"
        )
    by_round.set(title="Accuracy after a round", xlabel="round", ylabel="test accuracy")
    by_round.set_xticks(range(1, 16))
    by_bytes.set(title="Accuracy for the bytes sent", xlabel="MB a client, both ways", xscale="log")
    by_bytes.set_xticks(ticks := [0.5, 1, 2, 5, 10, 20, 50, 100, 200], [f"{tick:g}" for tick in ticks])
    by_bytes.minorticks_off()
    drawn.legend(loc="outside lower center", ncols=3)
    return drawn


def main(out: str) -> None:
    """Writes the picture and prints the tables."""
    found = [name for name in LINES if runs(name)]
    recipe_page.picture(Path(out), found, figure)
    for name in [*found, CEILING]:
        print("|", LINES.get(name, (name,))[0], "|", len(runs(name)), "|", end=" ")
        print(" | ".join(told(values) for values in over_seeds(runs(name), "accuracy")), "|")
        for key, unit in (("sent_bytes", 1e6 * CLIENTS), ("multiply_adds", 1e9)):
            print("  ", key, [round(values.mean() / unit, 1) for values in over_seeds(runs(name), key)])
    ends = [run[EPOCH - 1]["accuracy"] for run in runs(CEILING) if len(run) >= EPOCH]
    print("ceiling", ends)
    for path in sorted(HERE.glob("fashion_mnist/*fedkfac-local-*/rounds.jsonl")):
        mine = [f"{entry['accuracy']:.4f}"[1:] for entry in lines(path)]
        print(path.parent.name, *mine, end=" ")
        usual = HERE / "fashion_mnist" / path.parent.name.replace("-local", "") / "rounds.jsonl"
        before = lines(usual) if usual.exists() else []  # those of dfedkfac lie with the frontier's
        print("| defaults", *(f"{entry['accuracy']:.4f}"[1:] for entry in before[: len(mine)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
