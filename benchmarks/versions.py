"""CPU seconds of a round of two checkouts that take turns round by round: medians, and the median of pairs' ratios.

    python benchmarks/versions.py OTHER [--methods fedavg,...] [--rounds 21] [--engine sequential]

OTHER is a checkout of another commit (`git worktree add --detach OTHER COMMIT`). The digits, dealt out IID, on one
thread each, without evaluation; the first two rounds of either warm up.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

METHODS = {
    "fedavg": "nodes=100, epochs=1",
    "dfedavg": "nodes=100, epochs=1, topology='regular', degree=4",
    "fedkfac": "nodes=50",
    "ntkdfl": "nodes=40, topology='regular', degree=4, exchange='factors'",
    "dfedkfac": "nodes=40, topology='regular', degree=4",
}
CHILD = """
import sys, time
import fedtangent
assert fedtangent.__file__.startswith(sys.path[1]), fedtangent.__file__
begin = time.process_time()
def told(*_):
    global begin
    print("seconds", time.process_time() - begin, flush=True)
    input()
    begin = time.process_time()
fedtangent.run({method!r}, {options}, dataset="digits", partition="iid", rounds={rounds}, engine={engine!r},
               evaluate_nodes_every=0, on_round=told)
"""


def started(checkout: Path, code: str) -> subprocess.Popen[str]:
    """A process that runs this code with a checkout's package."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout / "src")}
    words = [sys.executable, "-c", code]
    return subprocess.Popen(words, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def seconds(process: subprocess.Popen[str], first: bool) -> float:
    """Of the next round, which begins now; the first one has begun with the process."""
    assert process.stdin is not None and process.stdout is not None
    if not first:
        process.stdin.write("\n")
        process.stdin.flush()
    for line in process.stdout:
        if line.startswith("seconds "):
            return float(line.split()[1])
    raise RuntimeError("A process has ended; its error is above.")


def main() -> None:
    """Prints a line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--engine", default="sequential")
    asked = parser.parse_args()
    checkouts = (asked.other.resolve(), Path(__file__).resolve().parents[1])
    print(f"{'method':10}{'the other':>12}{'this':>12}  this over the other")
    for method in asked.methods.split(","):
        code = CHILD.format(method=method, options=METHODS[method], rounds=asked.rounds + 3, engine=asked.engine)
        both = [started(checkout, code) for checkout in checkouts]
        taken = [[seconds(process, number == 0) for process in both] for number in range(asked.rounds + 2)][2:]
        for process in both:
            process.kill()
            process.wait()
        other, this = map(statistics.median, zip(*taken, strict=True))
        pairs = statistics.median(after / before for before, after in taken)
        print(f"{method:10}{other:12.4f}{this:12.4f}  {this / other:.3f}, in pairs {pairs:.3f}", flush=True)


if __name__ == "__main__":
    main()
