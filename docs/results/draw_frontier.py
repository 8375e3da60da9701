"""The frontier's picture and tables from the records beside this file.

    python docs/results/draw_frontier.py frontier.png

Rows of `fedtangent recipe frontier` lie in `recipes/frontier*/`, run by run; those of longer runs in `fashion_mnist/`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from validation import lines

from fedtangent.recipes import frontier
from fedtangent.reports import recipe_page

HERE = Path(__file__).parent
FIRST = "fashion_mnist_300_alpha0.1_0.npz"
SKEWS = ("alpha0.1", "alpha0.5", "iid")
# Runs that were recorded by themselves, as variants of the recipe; NTK-DFL is billed as the paper's Jacobians.
RUNS = {
    "DFedAvg": "dfedavg-0",
    "DFedAvgM": "dfedavgm-0",
    "DFedSAM": "dfedsam-0",
    "DisPFL": "dispfl-0",
    "D-PSGD of an epoch": "dpsgd-0",
    "QG-DSGDm": "qgdsgdm-0",
    "Gradient tracking": "gradient_tracking-0",
    "Epidemic": "epidemic-0",
    "OledFL": "oledfl-0",
    "RelaySGD": "relaysgd-0",
    "FedPart around DFedAvg": "fedpart-dfedavg-0",
    "NTK-DFL": "ntkdfl-0",
    "NTK-DFL momentum": "ntkdfl-momentum-0",
}
RUNS_OF = {("FedKFAC", p, s): f"fedkfac-{p}-{s}" for p in range(3) for s in range(3)}


def recorded(name: str, folder: str, partition: str = FIRST, seed: int = 0) -> list[dict[str, Any]]:
    """A run's record as rows of the recipe, 20 rounds at most."""
    exposure = json.loads((HERE / "fashion_mnist" / folder / "manifest.json").read_text())["exposure"]
    own = {"variant": name, "partition": partition, "seed": seed, "exposure": exposure, "nodes": 300, "target": 0.85}
    entries = lines(HERE / "fashion_mnist" / folder / "rounds.jsonl")[:20]
    return [own | {key: entry[key] for key in ("round", "accuracy", "sent_bytes")} for entry in entries]


def spread(rows: list[dict[str, Any]], name: str, skew: str) -> str:
    """A line of a table: mean and deviation over a variant's runs, and the rounds to 85 and 87%."""
    found: dict[Any, dict[int, float]] = {}
    for row in rows:
        if row["variant"] == name and f"_{skew}_" in row["partition"]:
            found.setdefault((row["partition"], row["seed"]), {})[row["round"]] = row["accuracy"]
    runs = {key: [run[k] for k in sorted(run)] for key, run in found.items()}
    cells = [f"{name}, {skew}", str(len(runs))]
    for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20):
        there = [run[k - 1] for run in runs.values() if len(run) >= k]
        cells.append(f"{np.mean(there):.4f}"[1:] if there else "")
        cells[-1] += f" ± {np.std(there, ddof=1):.4f}".replace("0.", ".") if len(there) > 1 else ""
    for target in (0.85, 0.87):
        first = [next((str(k) for k, a in enumerate(run, 1) if a >= target), "-") for run in runs.values()]
        cells.append(" ".join(first))
    return "| " + " | ".join(cells) + " |"


def by_skew(rows: list[dict[str, Any]], name: str) -> str:
    """A line of a table: rounds to 85% and the accuracy in round 20, of partition 0 at seed 0, by skew."""
    cells = [name]
    for skew in SKEWS:
        run = {
            row["round"]: row["accuracy"] for row in rows if row["variant"] == name and f"_{skew}_" in row["partition"]
        }
        cells += (
            [next((str(k) for k in sorted(run) if run[k] >= 0.85), "-"), f"{run[20]:.4f}"[1:]]
            if 20 in run
            else ["", ""]
        )
    return "| " + " | ".join(cells) + " |"


def main(out: str) -> None:
    """Writes the picture and prints the tables."""
    measured = [row for path in sorted(HERE.glob("recipes/frontier*/rows.jsonl")) for row in lines(path)]
    one = [row for row in measured if row["partition"] == FIRST and row["seed"] == 0]
    one += [row for name, folder in RUNS.items() for row in recorded(name, folder)]
    recipe_page.picture(Path(out), one, frontier.figure)
    for line in frontier.table(one):
        print("| " + " | ".join(str(value) for value in line.values()) + " |")
    first = {FIRST.replace("alpha0.1", skew) for skew in SKEWS} - {FIRST}
    zero = one + [row for row in measured if row["partition"] in first and row["seed"] == 0]
    for name in frontier.VARIANTS:
        if any(row["variant"] == name and "_iid_" in row["partition"] for row in zero):
            print(by_skew(zero, name))
    measured = [row for row in measured if row["variant"] != "FedKFAC" or "alpha0.1" not in row["partition"]]
    for (name, partition, seed), folder in RUNS_OF.items():
        measured += recorded(name, folder, FIRST.replace("0.npz", f"{partition}.npz"), seed)
    for skew in SKEWS:
        for name in frontier.VARIANTS:
            if any(row["variant"] == name and f"_{skew}_" in row["partition"] for row in measured):
                print(spread(measured, name, skew))


if __name__ == "__main__":
    main(*sys.argv[1:])
