"""Two ranks of one thread against one, and four: rounds a second at 300 nodes, evaluation aside.

    python benchmarks/ranks.py [--methods fedavg,ntkdfl] [--nodes 300] [--rounds 3] [--repeats 3] [--ranks 1,2,4]
        [--engines sequential,vectorized] [--dataset fashion_mnist --data-dir DIR]

One rank runs under its fastest engine of the two, found here; more under the engine named for them. The seconds are the
record's own of a round, the median over rounds but the first; the ratios are of medians over repeats, which alternate.
The ceiling is what two processes that share nothing but the machine do at once, over what one of them does alone: cores
share memory and caches, so it may be less than 2, and ranks, which split one run, cannot pass it.
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

METHODS = ("ntkdfl", "dfedkfac", "fedkfac", "fedavg", "dfedavg")
OPTIONS = {"ntkdfl": ["--exchange", "factors"], "dfedavg": ["--epochs", "1"]}


def seconds(method: str, nodes: int, rounds: int, ranks: int, engine: str, data: list[str]) -> float:
    """Of a round, the median but the first."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", method, "--nodes", str(nodes), "--rounds", str(rounds + 1), "--engine", engine]
        words += ["--partition", "iid", *data, *OPTIONS.get(method, []), "--out", str(Path(folder) / "run")]
        words += ["--ranks", str(ranks)] if ranks > 1 else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "fedtangent", *words], check=True, env=environment, capture_output=True)
        lines = (Path(folder) / "run" / "rounds.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["seconds"] for line in lines[1:])


def ceiling(method: str, nodes: int, rounds: int, engine: str, data: list[str]) -> float:
    """Seconds of a round of two runs at once, in a process each, over two: as if they were one run on two cores."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda _: seconds(method, nodes, rounds, 1, engine, data), range(2))) / 4


def main() -> None:
    """Prints a line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--engines", default="sequential,vectorized", help="of which the fastest on one rank is taken")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir")
    asked = parser.parse_args()
    data = ["--dataset", asked.dataset, *(["--data-dir", asked.data_dir] if asked.data_dir else [])]
    counts = [int(count) for count in asked.ranks.split(",")]
    print(
        f"{'method':10}{'engine':12}"
        + "".join(f"{f'{count} ranks':>12}" for count in counts)
        + "  times faster than one"
    )
    for method in asked.methods.split(","):
        one = {name: seconds(method, asked.nodes, asked.rounds, 1, name, data) for name in asked.engines.split(",")}
        fastest = min(one, key=lambda name: one[name])
        taken: dict[int, list[float]] = {count: [] for count in counts}
        bounds = []
        for _ in range(asked.repeats):
            bounds.append(ceiling(method, asked.nodes, asked.rounds, fastest, data))
            for count in counts:
                taken[count].append(seconds(method, asked.nodes, asked.rounds, count, fastest, data))
        medians = {count: statistics.median(its) for count, its in taken.items()}
        times = "  ".join(f"{count}: {medians[counts[0]] / medians[count]:.2f}" for count in counts[1:])
        bound = medians[counts[0]] / statistics.median(bounds)
        figures = "".join(f"{medians[count]:12.3f}" for count in counts)
        print(f"{method:10}{fastest:12}{figures}  {times}  ceiling of two: {bound:.2f}", flush=True)


if __name__ == "__main__":
    main()
