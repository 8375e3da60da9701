"""How the choices of NTK-DFL were tuned: on training images that no client holds, never on the test set.

    python docs/results/tune_ntkdfl.py DATA_DIR PARTITION.npz OUT.jsonl [VARIANT...]

The first 30 clients of the papers' partition 0, ten rounds, a regular graph of degree 5 redrawn every round. A line of
OUT is a variant and the aggregated model's accuracy, after every round, on the 22,118 images.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from validation import append, missing, problem

import fedtangent

NODES, ROUNDS = 30, 10
LONGER = (200, 400, 600, 800, 1200, 1600, 2400, 3200)
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    **{f"momentum {m}": {"momentum": m} for m in (0.3, 0.5, 0.7, 0.8, 0.9)},
    "full": {"kernel": "full"},
    **{f"full, momentum {m}": {"kernel": "full", "momentum": m} for m in (0.5, 0.7)},
    "full, longer times": {"kernel": "full", "times": LONGER},
    "full, longer times, momentum 0.7": {"kernel": "full", "times": LONGER, "momentum": 0.7},
    "momentum 0.7, longer times": {"times": LONGER, "momentum": 0.7},
    "no decay": {"lr_decay": 0.0},
    "momentum 0.5, no decay": {"momentum": 0.5, "lr_decay": 0.0},
    "held-out": {"selection": "held-out"},
    "linearised": {"selection": "linearised"},
    "no averaging": {"averaging": False},
}


def main(data_dir: str, file: str, out: str, *names: str) -> None:
    """Runs the variants that OUT does not have yet."""
    data, partition = problem(data_dir, file, NODES)
    path = Path(out)
    for name in missing(path, names or VARIANTS):
        found = fedtangent.run(
            "ntkdfl",
            dataset=data,
            partition=partition,
            topology="regular",
            degree=5,
            rounds=ROUNDS,
            engine="sequential",
            evaluate_nodes_every=0,
            **VARIANTS[name],
        ).rounds
        chosen = [round(float(np.mean(entry["time"])), 1) for entry in found]
        line = {"variant": name, "accuracy": [round(entry["accuracy"], 4) for entry in found], "mean_time": chosen}
        append(path, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
