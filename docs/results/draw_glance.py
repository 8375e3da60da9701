"""The README's picture from the records beside this file: seven methods of the frontier, against rounds.

python docs/results/draw_glance.py docs/results/glance.png
"""

import sys
from pathlib import Path
from typing import Any

from draw_frontier import FIRST, HERE, RUNS, recorded
from matplotlib.figure import Figure
from validation import lines

from fedtangent.reports import recipe_page
from fedtangent.reports.figures import End, spaced

# Okabe and Ito's blue, vermilion and grey are told apart by every eye; so are the three kinds of lines.
SUMS, WEIGHTS, ROWS = ("#0072B2", "-", 3.0), ("#D55E00", "--", 2.0), ("#5f5f5f", ":", 2.4)
PANELS: dict[str, dict[str, tuple[str, tuple[str, str, float]]]] = {
    "With a server, which asks 21 of 300 sites": {
        "FedKFAC cohort": ("FedKFAC", SUMS),
        "NTK-FL cohort": ("NTK-FL", ROWS),
        "SCAFFOLD cohort": ("SCAFFOLD", WEIGHTS),
        "FedAvg cohort": ("FedAvg", WEIGHTS),
    },
    "Without one: each site asks five others": {
        "DFedKFAC sums": ("DFedKFAC", SUMS),
        "NTK-DFL": ("NTK-DFL", ROWS),
        "DFedAvg": ("DFedAvg", WEIGHTS),
    },
}
KINDS = {
    "sums over a site's images (ours)": SUMS,
    "trained weights": WEIGHTS,
    "data that give the images away": ROWS,
}
ROUNDS, LINE = 20, 15


def rows() -> list[dict[str, Any]]:
    """The rounds of the seven runs: partition 0, seed 0."""
    measured = [row for path in sorted(HERE.glob("recipes/frontier*/rows.jsonl")) for row in lines(path)]
    one = [row for row in measured if row["partition"] == FIRST and row["seed"] == 0]
    return one + [row for name, folder in RUNS.items() for row in recorded(name, folder)]


def figure(found: list[dict[str, Any]]) -> Figure:
    """Test accuracy against communication rounds, each line with its name at its end."""
    drawn = Figure(figsize=(11, 4.9))
    axes = drawn.subplots(1, 2, sharey=True)
    drawn.subplots_adjust(left=0.075, right=0.905, bottom=0.23, top=0.92, wspace=0.36)
    for panel, (title, methods) in zip(axes, PANELS.items(), strict=True):
        ends = []
        for variant, (name, (colour, style, width)) in methods.items():
            track = {row["round"]: row["accuracy"] for row in found if row["variant"] == variant}
            rounds = range(1, ROUNDS + 1)
            panel.plot(rounds, [track[k] for k in rounds], color=colour, linestyle=style, linewidth=width)
            ends.append((name, colour, track[ROUNDS]))
        panel.set_title(title, fontsize=12)
        panel.set(xlim=(0.5, ROUNDS + 0.2), ylim=(0.5, 0.9), xticks=range(2, ROUNDS + 1, 2))
        panel.set_xlabel("rounds of communication", fontsize=11)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        panel.tick_params(labelleft=True)
        placed = [End(name, colour, 0, panel.transData.transform((0, y))[1]) for name, colour, y in ends]
        box = panel.get_window_extent()
        for end in spaced(placed, box.y0, box.y1):
            y = panel.transData.inverted().transform((0, end.y))[1]
            panel.annotate(
                end.text, (ROUNDS, y), (8, 0), textcoords="offset points", color=end.colour, va="center", weight="bold",
                fontsize=11, annotation_clip=False,
            )  # fmt: skip
    axes[0].set_ylabel("accuracy on the test set", fontsize=11)
    keys = [axes[0].plot([], [], color=c, linestyle=s, linewidth=w)[0] for c, s, w in KINDS.values()]
    drawn.legend(
        keys,
        [f"sends {kind}" for kind in KINDS],
        loc="lower center",
        ncols=3,
        fontsize=11,
        handlelength=3.2,
        columnspacing=3,
    )
    return drawn


if __name__ == "__main__":
    recipe_page.picture(Path(sys.argv[1]), rows(), figure)
