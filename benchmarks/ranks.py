"""Two ranks of one thread against one, and four: rounds a second at 300 nodes, evaluation aside.

    python benchmarks/ranks.py [--methods fedavg,ntkdfl] [--nodes 300] [--rounds 3] [--repeats 3] [--ranks 1,2,4]
        [--engines sequential,vectorized] [--rows 200] [--dataset fashion_mnist --data-dir DIR]

One rank runs under its fastest engine of the two, found here; more under the engine named for them. The seconds are the
record's own of a round, the median over rounds but the first; the ratios are of medians over repeats, which alternate.
The ceiling is what two processes that share nothing but the machine do at once, over what one of them does alone: cores
share memory and caches, so it may be less than 2, and ranks, which split one run, cannot pass it. On a machine that has
other work the clock tells little: the CPU seconds are those of the rank that has most of them, what a round takes where
every rank has a core of its own and none waits for another.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

METHODS = ("ntkdfl", "dfedkfac", "fedkfac", "fedavg", "dfedavg")
SET = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}  # as the command line does before torch is loaded
OPTIONS = {"ntkdfl": ["--exchange", "factors"], "dfedavg": ["--epochs", "1"]}


class Taken(NamedTuple):
    """Seconds of a round, the medians but for the first: by the clock, and of the CPU on the rank that has most."""

    clock: float
    cpu: float


def seconds(method: str, nodes: int, rounds: int, ranks: int, engine: str, data: list[str]) -> Taken:
    """Of a run on so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", method, "--nodes", str(nodes), "--rounds", str(rounds + 1), "--engine", engine]
        words += ["--evaluate-nodes-every", "0", "--quiet"]
        words += [*data, *OPTIONS.get(method, []), "--out", str(Path(folder) / "run")]
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        environment = {**os.environ, **SET, "OMP_NUM_THREADS": "1"}
        file = str(Path(__file__).with_name("on_rank.py"))
        subprocess.run(
            [sys.executable, *several, file, folder, *words], check=True, env=environment, capture_output=True
        )
        lines = (Path(folder) / "run" / "rounds.jsonl").read_text().splitlines()
        cpu = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    clock = statistics.median(json.loads(line)["seconds"] for line in lines[1:])
    return Taken(clock, max(statistics.median(its[1:]) for its in cpu))


def ceiling(method: str, nodes: int, rounds: int, engine: str, data: list[str]) -> float:
    """Seconds of a round of two runs at once, in a process each, over two: as if they were one run on two cores."""
    with ThreadPoolExecutor(2) as pool:
        taken = pool.map(lambda _: seconds(method, nodes, rounds, 1, engine, data), range(2))
        return sum(its.clock for its in taken) / 4


def dealt(rows: int | None, nodes: int, folder: str) -> list[str]:
    """The words for so many rows a node, of the first ones, or for all in equal parts."""
    if rows is None:
        return ["--partition", "iid"]
    path = Path(folder) / "dealt.json"
    path.write_text(json.dumps([[*range(node * rows, (node + 1) * rows)] for node in range(nodes)]))
    return ["--partition", str(path)]


def main() -> None:
    """Reads what is asked, and measures it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--engines", default="sequential,vectorized", help="of which the fastest on one rank is taken")
    parser.add_argument("--rows", type=int, help="of a node; without it all rows are dealt out")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(asked, dealt(asked.rows, asked.nodes, folder))


def measure(asked: argparse.Namespace, data: list[str]) -> None:
    """Prints a line a method."""
    data += ["--dataset", asked.dataset, *(["--data-dir", asked.data_dir] if asked.data_dir else [])]
    counts = [int(count) for count in asked.ranks.split(",")]
    heads = "".join(f"{f'{count} ranks':>12}" for count in counts)
    print(f"{'method':10}{'engine':12}{'seconds':8}{heads}  times faster than one")
    for method in asked.methods.split(","):
        engines = asked.engines.split(",")
        one = {name: seconds(method, asked.nodes, asked.rounds, 1, name, data) for name in engines if len(engines) > 1}
        fastest = min(engines, key=lambda name: one.get(name, (0, 0)))
        taken: dict[int, list[Taken]] = {count: [] for count in counts}
        bounds = []
        for _ in range(asked.repeats):
            bounds.append(ceiling(method, asked.nodes, asked.rounds, fastest, data))
            for count in counts:
                taken[count].append(seconds(method, asked.nodes, asked.rounds, count, fastest, data))
        for place, kind in enumerate(Taken._fields):
            medians = {count: statistics.median(each[place] for each in its) for count, its in taken.items()}
            times = "  ".join(f"{count}: {medians[counts[0]] / medians[count]:.2f}" for count in counts[1:])
            bound = f"  ceiling of two: {medians[counts[0]] / statistics.median(bounds):.2f}" if kind == "clock" else ""
            figures = "".join(f"{medians[count]:12.3f}" for count in counts)
            print(f"{method:10}{fastest:12}{kind:8}{figures}  {times}{bound}", flush=True)


if __name__ == "__main__":
    main()
