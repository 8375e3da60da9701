"""What CP-NTK-FL's savings cost in accuracy: on training images that no client holds, never on the test set.

    python docs/results/tune_cpntkfl.py DATA_DIR PARTITION.npz OUT.jsonl [VARIANT...]

NTK-FL with 21 of the papers' 300 clients a round, six rounds, seed 0. A line of OUT is a variant, the server's accuracy
on the 22,118 images after every round, the times that it chose, and the bytes of a round, up from the clients and down.
"""

import sys
from pathlib import Path
from typing import Any

from validation import append, missing, problem

import fedtangent

ROUNDS, CLIENTS, CANDIDATES = 6, 21, 12


def coded(**given: float) -> dict[str, Any]:
    """The largest `share` of the factors, and so many `levels` of them, where given."""
    names = [name for name, option in {"topk": "share", "quantize": "levels"}.items() if option in given]
    return {"channel": ",".join(names), "messages": ("factors",), **given}


SMALL: dict[str, Any] = {"exchange": "jacobian", "project": 100, "subsample": 0.1}
VARIANTS: dict[str, dict[str, Any]] = {
    "Jacobians": {"exchange": "jacobian"},
    "factors": {},
    "levels 16": coded(levels=16),
    "levels 15": coded(levels=15),
    "levels 3": coded(levels=3),
    "sparsity 0.5": coded(share=0.5),
    "sparsity 0.25": coded(share=0.25),
    "sparsity 0.1": coded(share=0.1),
    "sparsity 0.5, levels 15": coded(share=0.5, levels=15),
    "subsample 0.3": {"subsample": 0.3},
    "subsample 0.3, levels 15": {"subsample": 0.3, **coded(levels=15)},
    "subsample 0.3, levels 15, linearised": {"subsample": 0.3, **coded(levels=15), "selection": "linearised"},
    "project 200": {"project": 200},
    "project 100": {"project": 100},
    "small Jacobians": SMALL,
    "small Jacobians, sparsity 0.1, levels 15": {**SMALL, **coded(share=0.1, levels=15)},
    "small Jacobians, sparsity 0.01, levels 15": {**SMALL, **coded(share=0.01, levels=15)},
    "all": {"project": 100, "subsample": 0.3, **coded(share=0.5, levels=15), "shuffle": True},
}


def main(data_dir: str, file: str, out: str, *names: str) -> None:
    """Runs the variants that OUT does not have yet."""
    data, partition = problem(data_dir, file)
    path = Path(out)
    for name in missing(path, names or VARIANTS):
        settings: dict[str, Any] = {"exchange": "factors", **VARIANTS[name]}
        found = fedtangent.run(
            "ntkfl",
            dataset=data,
            partition=partition,
            rounds=ROUNDS,
            engine="sequential",
            evaluate_nodes_every=0,
            **settings,
        )
        tries = 0 if settings.get("selection") == "linearised" else CANDIDATES
        down = CLIENTS * (1 + tries) * 4 * found.manifest["parameters"]
        line = {
            "variant": name,
            "accuracy": [round(entry["accuracy"], 4) for entry in found.rounds],
            "time": [entry["time"] for entry in found.rounds],
            "up_bytes": round(found.rounds[-1]["sent_bytes"] / ROUNDS) - down,
            "down_bytes": down,
        }
        append(path, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
