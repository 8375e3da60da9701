"""How FedKFAC and DFedKFAC were tuned: on training images that no client holds, never on the test set.

    python docs/results/tune_kfac.py DATA_DIR PARTITION.npz OUT.jsonl [VARIANT...]

All 300 clients of the papers' partition 0; DFedKFAC on a regular graph of degree 5 that is redrawn every round. A line
of OUT is a variant and the aggregated model's accuracy, after every round, on the 22,118 images.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from validation import append, missing, problem

import fedtangent

HALVED = {"channel": "bfloat16", "messages": ("directions",)}
STEPS = {"epochs": 2, "batch": 25, "lr": 0.1, "local_momentum": 0.0}
SERVER: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no decay": {"weight_decay": 0.0},
    "by the loss on the step's own rows": {"selection": "loss"},
    "dampings .1, 10": {"dampings": (0.1, 10.0)},
    "dampings 10, 1000": {"dampings": (10.0, 1000.0)},
    "one damping, 10": {"dampings": (10.0,)},
    "four dampings, 1 to 1000": {"dampings": (1.0, 10.0, 100.0, 1000.0)},
    "no momentum": {"momentum": False},
    "directions in bfloat16": HALVED,
    "dampings .1, 10, 2 local epochs": {"dampings": (0.1, 10.0), **STEPS},
    "2 local epochs": STEPS,
    "one try, ridge .01": {"ridges": (0.01,), "scales": (1.0,)},
}
COHORT: dict[str, dict[str, Any]] = {
    f"21 of 300, balance {balance:g}, seed {seed}": {"balance": balance, "seed": seed}
    for balance, seed in product((1.0, 3.0, 10.0, 100.0), range(3))
} | {
    "21 of 300, dampings 10, 1000": {"dampings": (10.0, 1000.0)},
    "21 of 300, no momentum": {"momentum": False},
    "21 of 300, by the loss on the step's own rows": {"selection": "loss"},
}
NEIGHBOURS: dict[str, dict[str, Any]] = {
    "neighbours, defaults": {},
    "neighbours, ridges 1e-4 1e-3 .01 .1, scales .5 1 1.5 2": {
        "ridges": (1e-4, 1e-3, 1e-2, 1e-1),
        "scales": (0.5, 1.0, 1.5, 2.0),
    },
    "neighbours, ridges 1e-4 .01 .1, scales 1 2 3": {"ridges": (1e-4, 1e-2, 1e-1), "scales": (1.0, 2.0, 3.0)},
    "neighbours, dampings .1, 10": {"dampings": (0.1, 10.0), "rounds": 4},
    "neighbours, 2 local epochs": {**STEPS, "rounds": 4},
    "neighbours, dampings .1, 10, 5 local epochs": {"dampings": (0.1, 10.0), **STEPS, "epochs": 5, "rounds": 4},
    "neighbours, dampings .1, 10, 2 local epochs": {"dampings": (0.1, 10.0), **STEPS, "rounds": 4},
    "neighbours, shared inputs": {"inputs": "shared"},
    "neighbours, shared inputs, 2 hops": {"inputs": "shared", "hops": 2, "rounds": 4},
    "neighbours, shared inputs, guard, bfloat16": {"inputs": "shared", "guard": True, **HALVED},
}
HOPS: dict[str, dict[str, Any]] = {
    f"neighbours, dampings .1, 10, 2 local epochs, shared inputs{f', {hops} hops' * (hops > 1)}": {
        "dampings": (0.1, 10.0),
        **STEPS,
        "inputs": "shared",
        "hops": hops,
        "rounds": 4,
    }
    for hops in (1, 2, 3)
}
VARIANTS = (
    {name: {"method": "fedkfac", "rounds": 10, **own} for name, own in SERVER.items()}
    | {name: {"method": "fedkfac", "rounds": 12, "participation": 0.07, **own} for name, own in COHORT.items()}
    | {
        name: {"method": "dfedkfac", "rounds": 8, "topology": "regular", "degree": 5, **own}
        for name, own in (NEIGHBOURS | HOPS).items()
    }
)


def main(data_dir: str, file: str, out: str, *names: str) -> None:
    """Runs the variants that OUT does not have yet."""
    data, partition = problem(data_dir, file)
    path = Path(out)
    for name in missing(path, names or VARIANTS):
        found = fedtangent.run(
            dataset=data, partition=partition, engine="sequential", evaluate_nodes_every=0, **VARIANTS[name]
        ).rounds
        choices = [np.bincount(np.atleast_1d(entry["choice"])).tolist() for entry in found]
        line = {
            "variant": name,
            "accuracy": [round(entry["accuracy"], 4) for entry in found],
            "choices": choices,
            "sent_bytes": found[-1]["sent_bytes"],
        }
        append(path, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
