"""What liars cost, and what rules against them cost and save: a line a method, an attack and a rule.

    python docs/results/byzantine.py OUT.jsonl VARIANT...                                     the digits, 20 nodes
    python docs/results/byzantine.py OUT.jsonl --data DIR --partition P0.npz VARIANT...       Fashion-MNIST

A variant is METHOD/ATTACK/RULE, such as dfedkfac/sign_flip/cs_plus, or METHOD/ATTACK/RULE+SUMS, with what becomes of
sums; a tenth of the nodes lie. Labels by a Dirichlet draw with alpha 0.1; on Fashion-MNIST the first clients of the
papers' partition. The graph is regular, of degree 5, and redrawn every round. With `--scored validation`, by which
everything was chosen, accuracies are on training images that no client holds. A line of OUT has the accuracy of the
honest nodes' mean model after every round, and the mean accuracy of their own models at the end.
"""

import argparse
from pathlib import Path
from typing import Any

from validation import append, missing, problem

import fedtangent
from fedtangent.datasets.digits import digits
from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.shard import Dataset

METHODS: dict[str, dict[str, Any]] = {
    "dfedavg": {"method": "dfedavg"},
    "dfedavg5": {"method": "dfedavg", "epochs": 5},
    "ntkdfl": {"method": "ntkdfl", "exchange": "factors"},
    "dfedkfac": {"method": "dfedkfac"},
    "fedavg": {"method": "fedavg", "epochs": 5, "lr": 0.1},
    "fedkfac": {"method": "fedkfac", "guard": False},
}
ATTACKS: dict[str, dict[str, Any]] = {
    "none": {},
    "sign_flip": {"attack": "sign_flip"},
    "sign_flip4": {"attack": "sign_flip", "attack_options": {"factor": 4.0}},
    "flipped_weights": {"attack": str(Path(__file__).parent / "flipped_weights.py")},
    "scaling": {"attack": "scaling"},
    "scaling1e6": {"attack": "scaling", "attack_options": {"factor": 1e6}},
    "noise": {"attack": "noise"},
    "alie": {"attack": "alie", "attack_options": {"z": 1.5}},
    "inner_product": {"attack": "inner_product"},
    "label_flip": {"attack": "label_flip"},
    "nan": {"attack": "nan"},
    "dissensus": {"attack": "dissensus"},
}
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "trimmed_mean": {"rule": "trimmed_mean"},
    "trimmed_mean_2": {"rule": "trimmed_mean", "rule_options": {"liars": 2}},
    "median": {"rule": "median"},
    "krum": {"rule": "krum"},
    "multi_krum": {"rule": "krum", "rule_options": {"chosen": 4}},
    "geometric_median": {"rule": "geometric_median"},
    "clipping": {"rule": "clipping"},
    "cs_plus": {"rule": "cs_plus"},
    "norm_clipping": {"rule": "norm_clipping"},
    "groups": {"rule": "geometric_median", "rule_options": {"groups": 3}},
}


def options(variant: str) -> dict[str, Any]:
    """The experiment's settings."""
    method, attack, rule = variant.split("/")
    rule, _, sums = rule.partition("+")
    found = {**METHODS[method], **ATTACKS[attack], **RULES[rule], "engine": "sequential"}
    if not method.startswith("fed"):
        found |= {"topology": "regular", "degree": 5}
    if sums:
        found["rule_options"] = {**found.get("rule_options", {}), "sums": sums}
    return found


def held_out(data: Dataset) -> Dataset:
    """The data set whose test rows are the last quarter of its training rows."""
    cut = 3 * len(data.y_train) // 4
    x, y = data.x_train, data.y_train
    return data._replace(x_train=x[:cut], y_train=y[:cut], x_test=x[cut:], y_test=y[cut:])


def main() -> None:
    """Runs the variants that OUT does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--data")
    parser.add_argument("--partition")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scored", choices=["validation", "test"], default="test")
    asked = parser.parse_args()
    given: dict[str, Any]
    if asked.data is None:
        data = digits()
        given = {
            "dataset": held_out(data) if asked.scored == "validation" else data,
            "alpha": 0.1,
            "nodes": asked.nodes,
        }
    else:
        data, partition = problem(asked.data, asked.partition, asked.nodes)
        if asked.scored == "test":
            whole = fashion_mnist(asked.data)
            data = data._replace(x_test=whole.x_test, y_test=whole.y_test)
        given = {"dataset": data, "partition": partition}
    given |= {"rounds": asked.rounds, "evaluate_nodes_every": asked.rounds}
    for name in missing(asked.out, asked.variants):
        line: dict[str, Any] = {"variant": name, "data": data.name, "nodes": asked.nodes, "scored": asked.scored}
        try:
            runs = [fedtangent.run(seed=seed, **given, **options(name)).rounds for seed in range(asked.seeds)]
        except ValueError as error:  # such as weights that are no longer finite
            append(asked.out, {**line, "ended": str(error)})
            continue
        line["accuracy"] = [[round(entry["accuracy"], 4) for entry in rounds] for rounds in runs]
        line["mean_node_accuracy"] = [round(rounds[-1]["mean_node_accuracy"], 4) for rounds in runs]
        append(asked.out, {**line, "sent_bytes": runs[0][-1]["sent_bytes"]})


if __name__ == "__main__":
    main()
