"""How the averaging methods of the frontier were tuned: on training images that no client holds, never on the test set.

    python docs/results/tune_server.py DATA_DIR PARTITION.npz OUT.jsonl [VARIANT...]

The papers' partition 0, 21 of its 300 clients a round, the same in every variant, batches of 25, 20 rounds; and SGD on
all rows in one place. A line of OUT is a variant and the server's accuracy, after every round, on the 22,118 images.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Any

from validation import append, missing, problem

import fedtangent

LOCAL = [{"epochs": epochs, "lr": lr} for epochs, lr in product((5, 20), (0.03, 0.1))]
OWN: dict[str, list[dict[str, Any]]] = {
    "fedavg": [{}],
    "scaffold": [{}],
    "feddyn": [{"penalty": 0.01}, {"penalty": 0.1}],
    "fedopt": [
        {"optimizer": "momentum", "beta1": 0.7},
        {"optimizer": "adam", "server_lr": 0.003},
        {"optimizer": "adam", "server_lr": 0.01},
        {"optimizer": "adam", "server_lr": 0.03},
    ],
}


def named(method: str, options: dict[str, Any]) -> str:
    """A variant's name."""
    return " ".join([method, *(f"{name}={value}" for name, value in options.items())])


VARIANTS = {
    named(method, own | local): {"method": method, "participation": 0.07, "batch": 25, **own, **local}
    for method, several in OWN.items()
    for own, local in product(several, LOCAL)
}
VARIANTS |= {named("central", {"lr": lr}): {"method": "central", "lr": lr} for lr in (0.01, 0.03, 0.1)}


def main(data_dir: str, file: str, out: str, *names: str) -> None:
    """Runs the variants that OUT does not have yet."""
    data, partition = problem(data_dir, file)
    path = Path(out)
    for name in missing(path, names or VARIANTS):
        found = fedtangent.run(
            dataset=data,
            partition=partition,
            rounds=20,
            evaluate_nodes_every=0,
            **VARIANTS[name],
        ).rounds
        append(path, {"variant": name, "accuracy": [round(entry["accuracy"], 4) for entry in found]})


if __name__ == "__main__":
    main(*sys.argv[1:])
