"""The picture and the tables of byzantine.md from the record beside this file.

python docs/results/draw_byzantine.py byzantine.png
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from validation import lines

HERE = Path(__file__).parent
NAMES = {"dfedkfac": "DFedKFAC", "ntkdfl": "NTK-DFL", "dfedavg5": "DFedAvg"}
CURVES = {
    "none/plain": ("nobody lies", "#444444", "-"),
    "sign_flip/plain": ("sign flips, plain", "#c1272d", "-"),
    "sign_flip/cs_plus": ("sign flips, CS+", "#0b6fa4", "-"),
    "none/cs_plus": ("CS+, nobody lies", "#0b6fa4", ":"),
}


def found(file: str) -> dict[str, list[float]]:
    """The accuracies of a record's first seed, by variant."""
    return {line["variant"]: line["accuracy"][0] for line in lines(HERE / file) if "accuracy" in line}


def draw(out: str) -> None:
    """A panel a method: accuracy against rounds."""
    record = found("byzantine.jsonl")
    methods = [name for name in NAMES if f"{name}/sign_flip/cs_plus" in record]
    figure = Figure(figsize=(4.2 * len(methods), 3.4), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(methods), squeeze=False, sharey=True)[0], methods, strict=True):
        for curve, (label, colour, style) in CURVES.items():
            if (accuracy := record.get(f"{name}/{curve}")) is not None:
                panel.plot(range(1, len(accuracy) + 1), accuracy, style, color=colour, label=label, marker="o", ms=3)
        panel.set(title=NAMES[name], xlabel="round", ylim=(0, 1))
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy, honest nodes' mean model")
    figure.axes[0].legend(loc="lower right", fontsize=8)
    figure.savefig(out, dpi=150)


def table(file: str) -> None:
    """A line a variant: the accuracy after every round."""
    for name, accuracy in found(file).items():
        print(f"| {name} | " + " | ".join(f"{a:.4f}"[1:] for a in accuracy) + " |")


if __name__ == "__main__":
    draw(sys.argv[1])
    for record in ("byzantine.jsonl", "byzantine_chosen.jsonl"):
        table(record)
