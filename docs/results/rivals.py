"""All methods between neighbours on one task, with rates tuned on training images that no node holds; and their table.

    python docs/results/rivals.py DATA_DIR PARTITION.npz OUT.jsonl [VARIANT...]
    python docs/results/rivals.py OUT.jsonl

The first 60 nodes of the papers' partition 0 (Fashion-MNIST, alpha 0.1), 784-100-10, a random regular graph of degree 5
that is redrawn every round (for RelaySGD a binary tree), 21 rounds of 2 local epochs in batches of 25 where a method
trains in epochs. A line of OUT is a variant: the aggregated model's accuracy after rounds 6, 11 and 21 on the
validation images, by which rates are chosen, and on the test set, which is what the table shows; and all bytes sent.
The second form prints the table.
"""

import sys
from pathlib import Path
from typing import Any

from validation import accuracy, append, lines, missing, played, problem

from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.experiments.experiment import experiment

NODES, ROUNDS = 60, (6, 11, 21)
EPOCHS: dict[str, Any] = {"epochs": 2, "batch": 25}
OWN: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {  # name: settings, rates; the usual rate first
    "DFedAvg": ({"method": "dfedavg", **EPOCHS}, (0.1, 0.03, 0.3)),
    "DFedAvgM": ({"method": "dfedavg", **EPOCHS, "momentum": 0.9}, (0.01, 0.03, 0.003, 0.1)),
    "D-PSGD": ({"method": "dpsgd", "batch": 25}, (0.3, 0.1, 1.0, 0.03)),
    "D-PSGD of an epoch": ({"method": "dpsgd", "epochs": 1, "adapt_first": True}, (0.1, 0.03, 0.3)),
    "DFedSAM": ({"method": "dfedsam", **EPOCHS}, (0.01, 0.03, 0.1)),
    "DFedSAM-MGS": ({"method": "dfedsam", **EPOCHS, "gossip_steps": 4}, (0.01, 0.03, 0.003)),
    "QG-DSGDm": ({"method": "qgdsgdm", **EPOCHS}, (0.03, 0.1, 0.01, 0.3)),
    "Gradient tracking": ({"method": "gradient_tracking", **EPOCHS}, (0.03, 0.1, 0.01)),
    "Momentum tracking": ({"method": "gradient_tracking", "batch": 25, "momentum": 0.9}, (0.03, 0.1, 0.01, 0.3)),
    "OledFL, beta 0.1": ({"method": "oledfl", **EPOCHS}, (0.1, 0.03, 0.3)),
    "OledFL, beta 0.5": ({"method": "oledfl", **EPOCHS, "beta": 0.5}, (0.1, 0.03, 0.01)),
    "Epidemic, s 5": ({"method": "epidemic", **EPOCHS, "sample": 5}, (0.1, 0.03, 0.3)),
    "RelaySGD": ({"method": "relaysgd", **EPOCHS, "topology": "tree"}, (0.1, 0.03, 0.3)),
    "DisPFL": ({"method": "dispfl", **EPOCHS, "horizon": 21}, (0.1, 0.03, 0.3)),
    "FedPart around DFedAvg": (
        {"method": "fedpart", "host": "dfedavg", "warm_up": 1, "rounds_per_group": 1, **EPOCHS},
        (0.1, 0.03, 0.3),
    ),
    "Pooled rows": ({"method": "pooled", **EPOCHS}, (0.1, 0.03, 0.3)),
    "NTK-DFL": ({"method": "ntkdfl", "exchange": "factors"}, (0.01,)),
    "NTK-DFL, momentum 0.8": ({"method": "ntkdfl", "exchange": "factors", "momentum": 0.8}, (0.01,)),
    "DFedKFAC": ({"method": "dfedkfac"}, ()),
    "SPARK, not projected": ({"method": "spark", "columns": None}, (0.01,)),
}
VARIANTS = {
    f"{name}, lr {rates[place]:g}" if rates else name: own | ({"lr": rates[place]} if rates else {})
    for place in range(4)
    for name, (own, rates) in OWN.items()
    if place < max(len(rates), 1)
}


def run(data_dir: str, file: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The accuracies after some rounds, on both kinds of images, and the bytes."""
    data, partition = problem(data_dir, file, NODES)
    test = fashion_mnist(data_dir)
    graph = {} if {"topology", "sample"} & settings.keys() else {"degree": 5}
    asked = experiment(
        **settings,
        **graph,
        dataset=data,
        partition=partition,
        rounds=ROUNDS[-1],
        evaluate_nodes_every=0,
        engine="sequential" if settings["method"] in ("ntkdfl", "dfedkfac", "spark") else "vectorized",
    )
    found: dict[str, Any] = {"validation": {}, "test": {}}
    for k, entry, outputs in played(asked, ROUNDS):
        found["test"][k] = accuracy(outputs(test.x_test), test.y_test)
        found["validation"][k] = round(entry["accuracy"], 4)
        found["sent_bytes"] = entry["sent_bytes"]
    return found


def table(out: str) -> None:
    """Prints the best variant of each method, by the mean of its validation accuracies, and its test accuracies."""
    best: dict[str, dict[str, Any]] = {}
    for line in lines(Path(out)):
        name = line["variant"].split(", lr ")[0]
        score = sum(line["validation"].values())
        if name not in best or score > sum(best[name]["validation"].values()):
            best[name] = line
    print("| | lr | 6 | 11 | 21 | validation, 21 | MB a node |\n|---|---|---|---|---|---|---|")
    for name, line in sorted(best.items(), key=lambda item: -item[1]["test"]["21"]):
        rate = line["variant"].split(", lr ")[1] if ", lr " in line["variant"] else ""
        shown = " | ".join(f"{line['test'][str(k)]:.4f}"[1:] for k in ROUNDS)
        validation, megabytes = f"{line['validation']['21']:.4f}"[1:], line["sent_bytes"] / NODES / 1e6
        print(f"| {name} | {rate} | {shown} | {validation} | {megabytes:,.1f} |")


def main(data_dir: str, file: str = "", out: str = "", *names: str) -> None:
    """Runs the variants that OUT does not have yet; or prints the table of one."""
    if not file:
        return table(data_dir)
    for name in missing(Path(out), names or VARIANTS):
        append(Path(out), {"variant": name, **run(data_dir, file, VARIANTS[name])})


if __name__ == "__main__":
    main(*sys.argv[1:])
