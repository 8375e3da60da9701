"""A round of many small nodes, method by method: seconds and memory, on one core.

    python benchmarks/many_nodes.py [--nodes 1000,10000] [--methods fedavg,...] [--rounds 3] [--record]

40,000 rows of 20 features in two classes, cut as the default partition cuts them, a linear model, degree 4, and the
defaults of everything but one local epoch and `--exchange factors`. Every method runs alone in a process of one thread,
side by side with the others of its size; a run counts with the median of its rounds but the first, which warms up, and
evaluation is not timed. Memory is the process's highest, all imports and data included. With `--record` the run is
recorded, and the time that its `report` takes is in the table too.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch

ROWS, FEATURES, CLASSES, DEGREE = 40_000, 20, 2, 4
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"epochs": 1},
    "dfedavg": {"epochs": 1, "degree": DEGREE},
    "ntkdfl": {"exchange": "factors", "degree": DEGREE},
    "dfedkfac": {"degree": DEGREE},
}


def problem() -> Any:
    """Two classes of noisy rows."""
    from fedtangent.shard import Dataset

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, FEATURES)) / 2
    y = rng.integers(CLASSES, size=ROWS + 1000)
    x = torch.from_numpy((centres[y] + rng.standard_normal((len(y), FEATURES))).astype(np.float32))
    labels = torch.from_numpy(y)
    return Dataset("noisy classes", x[:ROWS], labels[:ROWS], x[ROWS:], labels[ROWS:], CLASSES)


def alone(method: str, nodes: int, rounds: int, folder: str | None) -> dict[str, Any]:
    """What one run takes: seconds a round, seconds of its report, and GiB."""
    import fedtangent
    from fedtangent.cli import main as command

    run = fedtangent.run(
        method,
        dataset=problem(),
        model="linear",
        nodes=nodes,
        rounds=rounds,
        evaluate_nodes_every=0,
        out=folder,
        **METHODS[method],
    )
    begin = time.perf_counter()
    if folder is not None:
        command(["report", folder, "--out", str(Path(folder) / "page.html")])
    return {
        "s": statistics.median(entry["seconds"] for entry in run.rounds[1:]),
        "report_s": time.perf_counter() - begin,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "engine": run.manifest["experiment"]["engine"],
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", default="1000,10000")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="record the run, and time its report")
    parser.add_argument("--only", nargs=2, metavar=("METHOD", "NODES"), help="measure this alone, print JSON")
    given = parser.parse_args()
    if given.only:
        method, nodes = given.only
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(alone(method, int(nodes), given.rounds, f"{folder}/run" if given.record else None)))
        return
    print("load average before:", *(f"{load:.1f}" for load in os.getloadavg()))
    found: list[list[object]] = []
    for nodes in given.nodes.split(","):
        for method in given.methods.split(","):
            words = ["--rounds", str(given.rounds), *(["--record"] if given.record else []), "--only", method, nodes]
            its = measure.alone(__file__, *words, threads=1)
            found.append(
                [method, int(nodes), its["engine"], its["s"], its["gib"], its["report_s"] if given.record else "-"]
            )
    print(measure.table(found, ["method", "nodes", "engine", "s a round", "GiB", "s of the report"]))


if __name__ == "__main__":
    main()
