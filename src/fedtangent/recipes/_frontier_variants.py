"""Frontier variants: the methods that the recipe compares, by name, each with its options.

The averaging methods' local steps and rates with a server are those that docs/results/tune_server.py found. Between
neighbours DFedAvgM, DFedSAM, DisPFL and D-PSGD have those of NTK-DFL's authors, who tuned them for their comparison;
the later ones have two epochs and the rates that docs/results/rivals.py found. The papers' methods send factors, which
give the same as their Jacobians. On a CPU the tangent methods are fastest node by node.
"""

from typing import Any

TANGENT = {"engine": "sequential"}
LOCAL = {"epochs": 20, "batch": 25, "lr": 0.1}
TWO_EPOCHS = {"epochs": 2, "batch": 25}
HALVED: dict[str, Any] = {"channel": "bfloat16", "messages": ("directions",)}
NTKDFL = {"method": "ntkdfl", "exchange": "factors", **TANGENT}
PARTIAL, CYCLE = "FedPart around DFedAvg", 3  # rounds: all weights, and either layer
SERVER: dict[str, dict[str, Any]] = {
    "FedKFAC": {"method": "fedkfac", **TANGENT},
    "FedAvg": {"method": "fedavg", **LOCAL},
    "Central": {"method": "central", "lr": 0.01},
}
# With a server that asks some clients a round.
COHORT: dict[str, dict[str, Any]] = {
    "FedKFAC cohort": {"method": "fedkfac", **TANGENT},
    "SumNTK cohort": {"method": "sumntk", **TANGENT},
    "FedAvg cohort": {"method": "fedavg", **LOCAL},
    "SCAFFOLD cohort": {"method": "scaffold", **LOCAL},
    "FedDyn cohort": {"method": "feddyn", "penalty": 0.01, **LOCAL},
    "FedAvgM cohort": {"method": "fedopt", "optimizer": "momentum", "beta1": 0.7, **LOCAL},
    "FedAdam cohort": {"method": "fedopt", "optimizer": "adam", "server_lr": 0.01, **LOCAL},
    "NTK-FL cohort": {"method": "ntkfl", "exchange": "factors", **TANGENT},
    "CP-NTK-FL cohort": {
        "method": "ntkfl",
        "exchange": "factors",
        "subsample": 0.3,
        "channel": "quantize",
        "levels": 15,
        "messages": ("factors",),
        "shuffle": True,
        **TANGENT,
    },
}
NEIGHBOURS: dict[str, dict[str, Any]] = {
    "DFedKFAC": {"method": "dfedkfac", **TANGENT},
    "DFedKFAC sums": {"method": "dfedkfac", "inputs": "shared", "guard": True, **HALVED, **TANGENT},
    "DFedAvg": {"method": "dfedavg"},
    "DFedAvgM": {"method": "dfedavg", "batch": 50, "lr": 0.01, "momentum": 0.9},
    "DFedSAM": {
        "method": "dfedsam",
        "batch": 32,
        "lr": 0.01,
        "momentum": 0.99,
        "adaptive": True,
        "lr_schedule": "step",
        "lr_every": 1,
        "lr_gamma": 0.95,
    },
    "DisPFL": {
        "method": "dispfl",
        "epochs": 10,
        "batch": 10,
        "clip": 10.0,
        "lr_schedule": "step",
        "lr_every": 1,
        "lr_gamma": 0.998,
    },
    "D-PSGD of an epoch": {"method": "dpsgd", "epochs": 1, "adapt_first": True},
    "QG-DSGDm": {"method": "qgdsgdm", **TWO_EPOCHS, "lr": 0.1},
    "Gradient tracking": {"method": "gradient_tracking", **TWO_EPOCHS, "lr": 0.03},
    "Epidemic": {"method": "epidemic", **TWO_EPOCHS, "lr": 0.1, "sample": 5},
    "OledFL": {"method": "oledfl", **TWO_EPOCHS, "lr": 0.1},
    "RelaySGD": {"method": "relaysgd", **TWO_EPOCHS, "lr": 0.1, "topology": "tree"},
    PARTIAL: {
        "method": "fedpart",
        "host": "dfedavg",
        "warm_up": 1,
        "rounds_per_group": 1,
        **TWO_EPOCHS,
        "lr": 0.1,
    },
    "SPARK": {"method": "spark", "columns": None, "lr": 0.01, **TANGENT},
    "NTK-DFL": NTKDFL,
    "NTK-DFL momentum": {**NTKDFL, "momentum": 0.8},
    "Pooled rows": {"method": "pooled", "epochs": 5},
}
VARIANTS = SERVER | COHORT | NEIGHBOURS
# Whose results are averages of weights, however they came about.
AVERAGING = [
    name
    for name, own in VARIANTS.items()
    if own["method"] not in ("fedkfac", "sumntk", "ntkfl", "dfedkfac", "ntkdfl", "spark", "central", "pooled")
]
