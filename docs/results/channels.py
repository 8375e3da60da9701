"""What channels cost and spare: every line a method and its channels, on the digits, three seeds.

    python docs/results/channels.py OUT.jsonl [VARIANT...]

20 nodes of the digits by a Dirichlet draw of labels (alpha 0.1), 20 rounds, a graph of degree 5 that is redrawn every
round. Nothing is tuned. A line of OUT is a variant: the aggregated model's test accuracies after the last round, and
the bytes that all have sent.
"""

import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from validation import append, missing

import fedtangent

FEDAVG: dict[str, Any] = {"method": "fedavg", "epochs": 5, "lr": 0.1}
DFEDAVG: dict[str, Any] = {"method": "dfedavg", "epochs": 5, "lr": 0.1}
TANGENT: dict[str, Any] = {"engine": "sequential"}
TENTH: dict[str, Any] = {"channel": "topk", "share": 0.1, "direction": "up"}
FOUR_BITS: dict[str, Any] = {"channel": "quantize", "levels": 15}
VARIANTS: dict[str, dict[str, Any]] = {
    "FedAvg": FEDAVG,
    "FedAvg, bfloat16": {**FEDAVG, "channel": "bfloat16"},
    "FedAvg, 255 levels": {**FEDAVG, "channel": "quantize", "levels": 255},
    "FedAvg, 15 levels": {**FEDAVG, **FOUR_BITS},
    "FedAvg, 15 levels, stochastic": {**FEDAVG, **FOUR_BITS, "rounding": "stochastic"},
    "FedAvg, 15 levels up": {**FEDAVG, **FOUR_BITS, "direction": "up"},
    "FedAvg, a tenth up": {**FEDAVG, **TENTH},
    "FedAvg, a tenth up, error": {**FEDAVG, **TENTH, "feedback": "error"},
    "FedAvg, a random tenth up": {**FEDAVG, **TENTH, "entries": "random"},
    "FedAvg, a tenth in 15 levels up, error": {
        **FEDAVG,
        **TENTH,
        **FOUR_BITS,
        "channel": "topk,quantize",
        "feedback": "error",
    },
    "DFedAvg": DFEDAVG,
    "DFedAvg, 255 levels": {**DFEDAVG, "channel": "quantize", "levels": 255},
    "DFedAvg, 15 levels": {**DFEDAVG, **FOUR_BITS},
    "DFedAvg, 15 levels, stochastic": {**DFEDAVG, **FOUR_BITS, "rounding": "stochastic"},
    "DFedAvg, 15 levels, error": {**DFEDAVG, **FOUR_BITS, "feedback": "error"},
    "DFedAvg, half of the entries": {**DFEDAVG, "channel": "topk", "share": 0.5},
    "FedKFAC": {"method": "fedkfac", **TANGENT},
    "FedKFAC, bfloat16": {"method": "fedkfac", "channel": "bfloat16", **TANGENT},
    "FedKFAC, 255 levels": {"method": "fedkfac", "channel": "quantize", "levels": 255, **TANGENT},
    "DFedKFAC": {"method": "dfedkfac", **TANGENT},
    "DFedKFAC, bfloat16": {"method": "dfedkfac", "channel": "bfloat16", **TANGENT},
    "DFedKFAC, 255 levels": {"method": "dfedkfac", "channel": "quantize", "levels": 255, **TANGENT},
}


def main(out: str, *names: str) -> None:
    """Runs the variants that OUT does not have yet."""
    path = Path(out)
    for name in missing(path, names or VARIANTS):
        runs = [
            fedtangent.run(nodes=20, rounds=20, seed=seed, alpha=0.1, evaluate_nodes_every=0, **VARIANTS[name]).rounds
            for seed in range(3)
        ]
        found = [rounds[-1]["accuracy"] for rounds in runs]
        line = {
            "variant": name,
            "accuracy": [round(one, 4) for one in found],
            "mean": round(fmean(found), 4),
            "deviation": round(stdev(found), 4),
            "sent_bytes": round(fmean(rounds[-1]["sent_bytes"] for rounds in runs)),
        }
        append(path, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
