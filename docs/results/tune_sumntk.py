"""Sum-only NTK against NTK-FL: on training images that no client holds, never on the test set.

    python docs/results/tune_sumntk.py DATA_DIR PARTITION.npz OUT.jsonl [SEED...]

21 of the 300 clients of the papers' partition 0 a round, ten rounds. A line of OUT is a variant, a seed, the model's
accuracy after every round on the 22,118 images, and the bytes that all sent, server and clients, by then.
"""

import sys
from pathlib import Path
from typing import Any

from validation import append, lines, problem

import fedtangent

ROUNDS, PARTICIPATION = 10, 0.07
TWO = (500, 2000)
TWELVE = (100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1500, 2000)
VARIANTS: dict[str, dict[str, Any]] = {
    "ntkfl": {"times": TWO},
    **{f"{k} columns": {"columns": k} for k in (8, 16, 32, 64, 128)},
    **{f"{sums} sums": {"columns": 32, "sums": sums} for sums in (6, 24)},
    "times 200, 800": {"columns": 32, "times": (200, 800)},
    "time 500": {"columns": 32, "times": (500,)},
    "time 1000": {"columns": 32, "times": (1000,)},
    "twelve times": {"columns": 32, "times": TWELVE},
}
# Those that every seed has; seed 0 has all.
COMPARED = ["ntkfl", *(f"{k} columns" for k in (8, 16, 32, 64, 128))]


def main(data_dir: str, file: str, out: str, *seeds: str) -> None:
    """Runs what OUT does not have yet."""
    data, partition = problem(data_dir, file)
    path = Path(out)
    done = [(line["variant"], line["seed"]) for line in lines(path)]
    for seed in [int(text) for text in seeds] or [0]:
        for name in VARIANTS if seed == 0 else COMPARED:
            if (name, seed) in done:
                continue
            rounds = fedtangent.run(
                "ntkfl" if name == "ntkfl" else "sumntk",
                dataset=data,
                partition=partition,
                participation=PARTICIPATION,
                rounds=ROUNDS,
                seed=seed,
                engine="sequential",
                evaluate_nodes_every=0,
                **VARIANTS[name],
            ).rounds
            accuracy = [round(entry["accuracy"], 4) for entry in rounds]
            line = {"variant": name, "seed": seed, "accuracy": accuracy, "sent_bytes": rounds[-1]["sent_bytes"]}
            append(path, line)
            print(name, seed, *accuracy, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
