"""A gradient an exchange: RelaySGD's and Momentum Tracking's settings, at a size that two cores finish.

    python docs/results/every_step.py DATA_DIR OUT.jsonl [VARIANT...]
    python docs/results/every_step.py OUT.jsonl

LeNet on the first 15,000 training images of CIFAR-10, a graph that stays, batches of 32, 600 steps (20 epochs with 16
nodes). RelaySGD's setting has 16 nodes at alpha 0.1 or 0.01 on a ring, for RelaySGD a binary tree; Momentum Tracking's
has 8 nodes of 4 classes each on a ring. A line of OUT is a variant: the averaged model's accuracy after 200, 400 and
600 steps on the next 5,000 training images, by which rates are chosen, and on the test set; or that its weights were
not finite. The second form prints the table.
"""

import sys
from pathlib import Path
from typing import Any

from validation import accuracy, append, beginning, lines, missing, played

from fedtangent.datasets.cifar10 import cifar10
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import experiment

TRAIN, VALIDATION, SHOWN, STEPS = 15_000, 5_000, 200, (200, 400, 600)
RING, PLAIN, HEAVY = {"topology": "ring"}, (0.1, 0.03, 0.01), (0.03, 0.01, 0.1)
MIXED = {f"16 nodes, alpha {alpha:g}": {"nodes": 16, "partition": "dirichlet", "alpha": alpha} for alpha in (0.1, 0.01)}
FOUR = {"8 nodes of 4 classes": {"nodes": 8, "partition": "by_class", "classes": 4}}
# Of a name: settings, its own, and rates, the usual one first.
OWN: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[float, ...]]] = {
    "D-PSGD": (MIXED | FOUR, {"method": "dpsgd", **RING}, PLAIN),
    "QG-DSGDm": (MIXED | FOUR, {"method": "qgdsgdm", **RING}, HEAVY),
    "RelaySGD with momentum": (MIXED, {"method": "relaysgd", "momentum": 0.9, "topology": "tree"}, HEAVY),
    "Momentum tracking": (FOUR, {"method": "gradient_tracking", "momentum": 0.9, **RING}, HEAVY),
    "Everybody with everybody": (MIXED | FOUR, {"method": "dpsgd", "topology": "complete"}, PLAIN),
}
VARIANTS = {
    f"{name}, {setting}, lr {rates[place]:g}": {
        **own,
        **settings[setting],
        "lr": rates[place],
        "batch": 32,
        "static": True,
    }
    for place in range(3)
    for name, (settings, own, rates) in OWN.items()
    for setting in settings
}


def run(data_dir: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The accuracies after some steps, on both kinds of images, and the bytes."""
    whole = cifar10(data_dir)
    held = {split: beginning(whole, TRAIN, VALIDATION, split) for split in ("validation", "test")}
    small = held["validation"]._replace(
        x_test=held["validation"].x_test[:SHOWN], y_test=held["validation"].y_test[:SHOWN]
    )
    asked = experiment(
        **settings, dataset=small, model="lenet", rounds=STEPS[-1], evaluate_nodes_every=0, engine="sequential"
    )
    found: dict[str, Any] = {"validation": {}, "test": {}}
    for k, entry, outputs in played(asked, STEPS):
        for split, its in held.items():
            found[split][k] = accuracy(outputs(its.x_test), its.y_test)
        found["sent_bytes"] = entry["sent_bytes"]
    return found


def table(out: str) -> None:
    """Prints, of each method and setting, the rate that is best on the validation images and its test accuracies."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines(Path(out)):
        if "diverged" in line:
            continue
        key, score = tuple(line["variant"].split(", lr ")[0].split(", ", 1)), line["validation"][str(STEPS[-1])]
        if key not in best or score > best[key]["validation"][str(STEPS[-1])]:
            best[key] = line  # type: ignore[index]
    print("| | | lr | 200 | 400 | 600 | validation, 600 |\n|---|---|---|---|---|---|---|")
    for (name, setting), line in sorted(best.items(), key=lambda item: (item[0][1], item[1]["test"]["600"])):
        shown = " | ".join(f"{value:.4f}"[1:] for value in [*line["test"].values(), line["validation"]["600"]])
        print(f"| {setting} | {name} | {line['variant'].split(', lr ')[1]} | {shown} |")


def main(data_dir: str, out: str = "", *names: str) -> None:
    """Runs the variants that OUT does not have yet; or prints the table of one."""
    if not out:
        return table(data_dir)
    for name in missing(Path(out), names or VARIANTS):
        try:
            found = run(data_dir, VARIANTS[name])
        except SettingError as error:  # weights that are not finite
            found = {"diverged": str(error)}
        append(Path(out), {"variant": name, **found})


if __name__ == "__main__":
    main(*sys.argv[1:])
