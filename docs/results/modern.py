"""Few rounds on a network that bends: LeNet on 15,000 images of CIFAR-10, 20 clients, alpha 0.1.

    python docs/results/modern.py DATA_DIR OUT_DIR validation|test ROUNDS SEED VARIANT...

Clients hold the first 15,000 training images. `validation` measures on the next 5,000, which nobody holds: all that was
chosen was chosen there. `test` measures on the 10,000 test images. OUT_DIR gets a record a variant and seed.
"""

import sys
from typing import Any

from validation import beginning, recorded

from fedtangent.datasets.cifar10 import cifar10

TRAIN, VALIDATION = 15_000, 5_000
LOCAL: dict[str, Any] = {"batch": 32, "lr": 0.01}
ROOT: dict[str, Any] = {"method": "fedkfac", "engine": "sequential"}
ONE: dict[str, Any] = {**ROOT, "nodes": 1, "guard": False}  # a client that has all images
MOMENTUM: dict[str, Any] = {"method": "fedopt", "optimizer": "momentum", "beta1": 0.7, "epochs": 5, "batch": 32}
FIRST: dict[str, Any] = {**ROOT, **LOCAL, "epochs": 4, "local_rounds": 3, "weight_decay": 0.0}
BETWEEN: dict[str, Any] = {
    "method": "dfedkfac",
    "topology": "regular",
    "degree": 5,
    "hops": 2,
    "inputs": "shared",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "fedkfac": ROOT,
    "fedkfac-epochs4": {**ROOT, **LOCAL, "epochs": 4},
    "fedkfac-epochs4-decay": {**ROOT, **LOCAL, "epochs": 4, "weight_decay": 0.01},
    "fedkfac-epochs4-decay0.03": {**ROOT, **LOCAL, "epochs": 4, "weight_decay": 0.03},
    "fedkfac-epochs1-decay0.03": {**ROOT, **LOCAL, "epochs": 1, "weight_decay": 0.03},
    "fedkfac-decay0.03": {**ROOT, "weight_decay": 0.03},
    "fedkfac-decay0.1": {**ROOT, "weight_decay": 0.1},
    "fedkfac-first3-shrinkage0.1": {**FIRST, "shrinkage": 0.1},
    "fedkfac-first3-shrinkage0.05": {**FIRST, "shrinkage": 0.05},
    "fedkfac-first3-shrinkage0.15-dampings": {**FIRST, "shrinkage": 0.15, "dampings": (0.1, 10.0)},
    "fedkfac-first2-shrinkage0.1": {**FIRST, "shrinkage": 0.1, "local_rounds": 2},
    "fedkfac-first3-shrinkage0.1-dampings": {**FIRST, "shrinkage": 0.1, "dampings": (0.1, 10.0)},
    "fedkfac-epochs4-shrinkage0.1": {**FIRST, "shrinkage": 0.1, "local_rounds": None},
    "dfedkfac-first3-shrinkage0.1": {**FIRST, **BETWEEN, "shrinkage": 0.1},
    "fedkfac-one-shrinkage0.1": {**ONE, "weight_decay": 0.0, "shrinkage": 0.1},
    "fedkfac-one-shrinkage0.05": {**ONE, "weight_decay": 0.0, "shrinkage": 0.05},
    "fedkfac-one-decay0.01": {**ONE, "weight_decay": 0.01},
    "fedavg-0.02": {"method": "fedavg", "epochs": 5, "batch": 32, "lr": 0.02},
    "fedavg-0.05": {"method": "fedavg", "epochs": 5, "batch": 32, "lr": 0.05},
    "fedavg-momentum": {"method": "fedavg", "epochs": 5, "momentum": 0.9, **LOCAL},
    "fedavg-momentum-0.003": {"method": "fedavg", "epochs": 5, "momentum": 0.9, "batch": 32, "lr": 0.003},
    "fedavg-momentum-0.03": {"method": "fedavg", "epochs": 5, "momentum": 0.9, "batch": 32, "lr": 0.03},
    "scaffold-0.02": {"method": "scaffold", "epochs": 5, "batch": 32, "lr": 0.02},
    "scaffold-0.05": {"method": "scaffold", "epochs": 5, "batch": 32, "lr": 0.05},
    "fedavgm-0.02": {**MOMENTUM, "lr": 0.02},
    "fedavgm-0.05": {**MOMENTUM, "lr": 0.05},
    "fedavgm-0.1": {**MOMENTUM, "lr": 0.1},
    "fedavgm-0.05-decay": {**MOMENTUM, "lr": 0.05, "local_weight_decay": 0.01},
}
# Central training: momentum 0.9, batch, rate and decay.
VARIANTS |= {
    f"central-{batch}-{lr}-{decay}": {
        "method": "central",
        "momentum": 0.9,
        "batch": batch,
        "lr": lr,
        "weight_decay": decay,
    }
    for batch, lr, decay in (
        (50, 0.003, 0.0),
        (50, 0.01, 0.0),
        (50, 0.01, 0.005),
        (50, 0.02, 0.005),
        (50, 0.005, 0.01),
        (25, 0.003, 0.005),
    )
}


def main(data_dir: str, out: str, split: str, rounds: str, seed: str, *names: str) -> None:
    """Runs the variants, each into a folder of its own."""
    data = beginning(cifar10(data_dir), TRAIN, VALIDATION, split)
    recorded(data, out, split, int(rounds), int(seed), {name: {"model": "lenet", **VARIANTS[name]} for name in names})


if __name__ == "__main__":
    main(*sys.argv[1:])
