"""A round of 24 nodes of Fashion-MNIST on either engine, with several memory budgets: the median of three.

python benchmarks/engines.py [--data-dir DIR]
"""

import argparse
import json
import statistics
from typing import Any

import measure

import fedtangent

NODES, ROUNDS = 24, 4
GRAPH: dict[str, Any] = {"topology": "regular", "degree": 5}
METHODS: dict[str, dict[str, Any]] = {
    "dfedavg": {**GRAPH, "epochs": 5},
    "fedavg": {"epochs": 5},
    "ntkdfl": GRAPH,
}
ENGINES: list[tuple[str, int | None]] = [
    ("sequential", None),
    ("vectorized", 2**26),
    ("vectorized", 2**28),
    ("vectorized", 2**30),
]


def rounds(method: str, engine: str, memory: int | None, data_dir: str) -> list[float]:
    """Seconds of every round but the first, which warms up."""
    found = fedtangent.run(
        method,
        dataset="fashion_mnist",
        data_dir=data_dir,
        partition="papers_dirichlet",
        nodes=NODES,
        rounds=ROUNDS,
        engine=engine,
        memory=memory,
        evaluate_nodes_every=0,
        **METHODS[method],
    ).rounds
    return [entry["seconds"] for entry in found[1:]]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs=3, metavar=("METHOD", "ENGINE", "MEMORY"), help="measure this, print JSON")
    given = parser.parse_args()
    if given.only:
        method, engine, memory = given.only
        taken = rounds(method, engine, None if memory == "None" else int(memory), given.data_dir)
        print(json.dumps({"s": statistics.median(taken)}))
        return
    found = []
    for method in METHODS:
        for threads in (1, 2):
            base = None
            for engine, memory in ENGINES:
                words = ("--data-dir", given.data_dir, "--only", method, engine, str(memory))
                taken = measure.alone(__file__, *words, threads=threads)["s"]
                base = base or taken
                budget = "" if memory is None else f"{memory // 2**20} MiB"
                found.append([method, threads, engine, budget, taken, base / taken])
    print(measure.table(found, ["method", "threads", "engine", "budget", "s a round", "times sequential's speed"]))


if __name__ == "__main__":
    main()
