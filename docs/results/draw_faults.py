"""What absent nodes cost: the picture and the table of faults.md from the records beside this file.

    python docs/results/draw_faults.py faults.png

Runs with 30% of the nodes absent lie in `fashion_mnist/*-dropout-0/`; those without faults in `fashion_mnist/` too, and
DFedKFAC's among the rows of `fedtangent recipe frontier`.
"""

import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from draw_frontier import FIRST, HERE
from matplotlib.figure import Figure
from validation import lines

from fedtangent.reports import recipe_page

ROUNDS = 20
SHOWN = (1, 2, 5, 10, 15, 20)
METHODS = {"DFedKFAC": "dfedkfac", "NTK-DFL": "ntkdfl", "DFedAvg": "dfedavg"}
Run = list[dict[str, Any]]


def without(title: str) -> Run:
    """The rounds of a method with everybody present."""
    folder = HERE / "fashion_mnist" / f"{METHODS[title]}-0"
    if folder.is_dir():
        return lines(folder / "rounds.jsonl")[:ROUNDS]
    rows = [row for path in sorted(HERE.glob("recipes/frontier-*/rows.jsonl")) for row in lines(path)]
    mine = {"variant": title, "partition": FIRST, "seed": 0}
    found = {row["round"]: row for row in rows if mine.items() <= row.items()}
    return [found[k] for k in sorted(found)]


def cells(run: Run) -> list[str]:
    """Accuracies after the rounds that are shown, and all bytes."""
    accuracy = {entry["round"]: f"{entry['accuracy']:.4f}"[1:] for entry in run}
    return [*(accuracy.get(k, "") for k in SHOWN), f"{run[-1]['sent_bytes'] / 1e9:,.1f}"]


def figure(runs: dict[str, Run]) -> Figure:
    """Accuracy against rounds: solid with everybody present, dashed with 30% absent."""
    drawn = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = drawn.subplots()
    for i, (told, run) in enumerate(runs.items()):
        points = [[entry[key] for entry in run] for key in ("round", "accuracy")]
        axes.plot(*points, "--" if i % 2 else "-", color=f"C{i // 2}", label=told)
    axes.set(xlabel="round", ylabel="test accuracy of the aggregated model", ylim=(0.5, 0.9))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right")
    return drawn


def main(out: str) -> None:
    """Writes the picture and prints the table."""
    runs: dict[str, Run] = {}
    for title, name in METHODS.items():
        clean, faulty = without(title), lines(HERE / "fashion_mnist" / f"{name}-dropout-0" / "rounds.jsonl")
        runs |= {title: clean, f"{title}, 30% absent": faulty}
        lost = 100 * (clean[len(faulty) - 1]["accuracy"] - faulty[-1]["accuracy"])
        there = [f"{fmean(entry[key] for entry in faulty):.0f}" for key in ("present", "links")]
        print("| " + " | ".join([title, *cells(clean), "300", "750", ""]) + " |")
        print("| " + " | ".join([f"{title}, 30% absent", *cells(faulty), *there, f"{lost:.2f}"]) + " |")
    recipe_page.picture(Path(out), runs, figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
