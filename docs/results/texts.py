"""Few rounds on a transformer: 10,000 news items of AG News, 20 clients, alpha 0.1.

    python docs/results/texts.py DATA_DIR OUT_DIR validation|test ROUNDS SEED VARIANT...

Clients hold the first 10,000 training items. `validation` measures on the next 4,000, which nobody holds: all that was
chosen was chosen there. `test` measures on the 7,600 test items. OUT_DIR gets a record a variant and seed. The
transformer is smaller than FedPart's, so that two cores finish: two layers of width 64, 10,002 ids, 40 tokens.
"""

import sys
from typing import Any

from validation import beginning, recorded

from fedtangent.datasets.agnews import agnews

TRAIN, VALIDATION = 10_000, 4_000
MODEL = {"model": "transformer", "width": 64, "feedforward": 64, "layers": 2, "ids": 10_002}
LOCAL: dict[str, Any] = {"method": "fedavg", "epochs": 5, "batch": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "fedkfac": {"method": "fedkfac", "guard": False},
    "fedkfac-dampings4": {"method": "fedkfac", "guard": False, "dampings": (0.1, 1.0, 10.0, 100.0)},
    "fedkfac-epochs2": {"method": "fedkfac", "guard": False, "epochs": 2, "batch": 32, "lr": 0.1},
    "fedavg-0.1": {**LOCAL, "lr": 0.1},
    "fedavg-momentum-0.03": {**LOCAL, "lr": 0.03, "momentum": 0.9},
    "fedavg-adam-0.001": {**LOCAL, "lr": 0.001, "optimizer": "adam"},
    "fedavg-adam-0.003": {**LOCAL, "lr": 0.003, "optimizer": "adam"},
    # the ceiling: a round is an epoch of all clients' items in one place; Adam begins anew in each
    "central-0.03": {"method": "central", "batch": 32, "lr": 0.03, "momentum": 0.9},
    "central-adam-0.001": {**LOCAL, "nodes": 1, "epochs": 1, "lr": 0.001, "optimizer": "adam"},
}


def main(data_dir: str, out: str, split: str, rounds: str, seed: str, *names: str) -> None:
    """Runs the variants, each into a folder of its own."""
    data = beginning(agnews(data_dir, length=40, words=10_000), TRAIN, VALIDATION, split)
    recorded(data, out, split, int(rounds), int(seed), {name: {**MODEL, **VARIANTS[name]} for name in names})


if __name__ == "__main__":
    main(*sys.argv[1:])
