"""What liars cost, and what rules against them cost and save: a line a method, an attack and a rule.

    python docs/results/byzantine.py DATA_DIR PARTITION.npz NODES ROUNDS SCORED OUT.jsonl [VARIANT...]

The first NODES clients of a partition of Fashion-MNIST (alpha 0.1), a regular graph of degree 5 that is redrawn every
round. SCORED is `validation`, the training images that no client of the partition holds, by which everything was
chosen, or `test`. A variant is METHOD/ATTACK/RULE, such as dfedkfac/sign_flip/cs_plus; a line of OUT has the aggregated
model's accuracy over the honest nodes, after every round, and the mean accuracy of the honest nodes' own models at the
end.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Any

from validation import append, missing, problem

import fedtangent
from fedtangent.datasets.fashion_mnist import fashion_mnist

METHODS: dict[str, dict[str, Any]] = {
    "dfedavg": {"method": "dfedavg"},
    "ntkdfl": {"method": "ntkdfl", "exchange": "factors"},
    "dfedkfac": {"method": "dfedkfac"},
    "fedavg": {"method": "fedavg", "epochs": 20, "batch": 25, "lr": 0.1},
    "fedkfac": {"method": "fedkfac", "guard": False},
}
ATTACKS: dict[str, dict[str, Any]] = {
    "none": {},
    "sign_flip": {"attack": "sign_flip"},
    "sign_flip4": {"attack": "sign_flip", "attack_options": {"factor": 4.0}},
    "scaling": {"attack": "scaling"},
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
    "median": {"rule": "median"},
    "krum": {"rule": "krum"},
    "multi_krum": {"rule": "krum", "rule_options": {"chosen": 4}},
    "geometric_median": {"rule": "geometric_median"},
    "clipping": {"rule": "clipping"},
    "clipping.8": {"rule": "clipping", "rule_options": {"quantile": 0.8}},
    "cs_plus": {"rule": "cs_plus"},
    "norm_clipping": {"rule": "norm_clipping"},
}
VARIANTS = ["/".join(names) for names in product(METHODS, ATTACKS, RULES)]


def main(data_dir: str, file: str, nodes: str, rounds: str, scored: str, out: str, *names: str) -> None:
    """Runs the variants that OUT does not have yet."""
    data, partition = problem(data_dir, file, int(nodes))
    if scored == "test":
        whole = fashion_mnist(data_dir)
        data = data._replace(x_test=whole.x_test, y_test=whole.y_test)
    path = Path(out)
    for name in missing(path, names or VARIANTS):
        method, attack, rule = name.split("/")
        options = {**METHODS[method], **ATTACKS[attack], **RULES[rule]}
        if not method.startswith("fed"):
            options |= {"topology": "regular", "degree": 5}
        try:
            result = fedtangent.run(
                dataset=data,
                partition=partition,
                engine="sequential",
                rounds=int(rounds),
                evaluate_nodes_every=int(rounds),
                **options,
            )
        except ValueError as error:  # a rule that does not suit the method, or weights that are no longer finite
            append(path, {"variant": name, "refused": str(error)})
            continue
        found = result.rounds
        line = {
            "variant": name,
            "nodes": int(nodes),
            "accuracy": [round(entry["accuracy"], 4) for entry in found],
            "mean_node_accuracy": round(found[-1]["mean_node_accuracy"], 4),
            "sent_bytes": found[-1]["sent_bytes"],
            "seconds": round(sum(entry["seconds"] for entry in found), 1),
        }
        append(path, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
