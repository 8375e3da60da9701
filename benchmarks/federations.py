"""A round of FedAvg with 300 clients, side by side: our engines, Flower's and pfl-research's, and a loop by hand.

    python benchmarks/federations.py [--threads 1,2] [--repeats 5] [--flower PYTHON] [--pfl-research PYTHON]

300 clients of 200 samples each, 784-100-10, one epoch of SGD at 0.1 in batches of 20, every client in every round. All
ways get the same samples, first weights and batches, and must end at the same weights but for rounding. The loop by
hand stacks clients as `vectorized` does and has nothing else to do: what it takes is PyTorch's. Every way runs alone in
a process, one after the other, again and again; a run counts with the median of its rounds but the first, which warms
up, and evaluation is not timed. A number of threads is the number of cores for all: threads of ours, actors of
Flower's, processes of pfl-research's. The peers live in environments of their own, which `uv run` makes where uv is
installed, or whose interpreters are given; they need PyTorch too. Without either the table has our own ways only.
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import torch
from peers import problem
from peers.problem import BATCH, CLASSES, INPUTS, LR, Found, Problem

ENGINES = ["vectorized", "sequential"]
OURS = [*ENGINES, "by_hand"]  # in our environment
PEERS = {"flower": ["flwr[simulation]==1.41.0"], "pfl_research": ["pfl[pytorch]==0.6.0"]}
FIRST = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
TEST_ROWS, LIMIT_S = 10_000, 1800
SIGNAL = 0.2  # of a class's centre, to the noise of every sample
ROUNDING = 1e-3  # that ends may lie apart, of the way from the first weights
CHANCE = 0.005  # that accuracies may


def drawn(clients: int, rows: int, rounds: int) -> Problem:
    """Noisy classes in equal shares, and the batches that our runs with seed 0 draw."""
    from fedtangent.federation import generator
    from fedtangent.models.mlp import mlp
    from fedtangent.shard import Shard
    from fedtangent.training.solvers import shuffled

    rng = np.random.default_rng(0)
    centres = SIGNAL * rng.standard_normal((CLASSES, INPUTS))

    def samples(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = rng.integers(CLASSES, size=shape)
        x = centres[y] + rng.standard_normal((*shape, INPUTS))
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)

    x, y = samples(clients, rows)
    draw, whole = shuffled(1, BATCH), Shard(x[0], y[0], torch.ones(rows, dtype=torch.bool))
    batches = [
        [draw(generator(0, round, "batches", k), whole).rows for k in range(clients)] for round in range(1, rounds + 1)
    ]
    order = torch.stack([torch.stack([rows[rows > 0] - 1 for rows in its]) for its in batches])
    first = mlp((INPUTS,), CLASSES, rng).state_dict()
    return Problem(x, y, *samples(TEST_ROWS), order, dict(first))


def ours(engine: str, given: Problem) -> Found:
    """Our own run, whose batches it draws itself."""
    import fedtangent
    from fedtangent.shard import Dataset, Partition

    rounds, clients, rows = given.order.shape
    model = problem.network()
    model.load_state_dict(given.w_0)
    run = fedtangent.run(
        "fedavg",
        dataset=Dataset("noisy classes", given.x.flatten(0, 1), given.y.flatten(), given.x_test, given.y_test, CLASSES),
        model=model,
        partition=Partition(list(np.arange(clients * rows).reshape(clients, rows))),
        engine=engine,
        rounds=rounds,
        batch=BATCH,
        lr=LR,
    )
    return Found([entry["seconds"] for entry in run.rounds], run.weights)


def alone(way: str, folder: str, threads: int) -> dict[str, float]:
    """The seconds of a round; the last weights go to the folder."""
    given = problem.load(folder)
    found = ours(way, given) if way in ENGINES else importlib.import_module(f"peers.{way}").found(folder, threads)
    if FIRST:
        torch.save({name: found.w[name] for name in given.w_0}, Path(folder) / f"{way}.pt")
    return {"s": statistics.median(found.seconds[1:])}


def interpreter(way: str, chosen: str | None, threads: int) -> list[str] | None:
    """The words that run a file in the way's own environment; None where there is none."""
    if way in OURS:
        return [sys.executable]
    if chosen is None and shutil.which("uv") is None:
        return None
    packages = [*PEERS[way], f"torch=={torch.__version__.split('+')[0]}", "numpy"]
    made = [
        "uv",
        "run",
        "--isolated",
        "--no-project",
        "--python",
        sys.executable,
        *(word for one in packages for word in ("--with", one)),
        "python",
    ]
    start = made if chosen is None else [chosen]
    if way == "pfl_research" and threads > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={threads}"]
    return start


def apart(way: str, folder: str) -> tuple[float, float]:
    """The accuracy that a way ends at, and how far from the first of ours, of the way that it went."""
    given = problem.load(folder)
    w, base = (torch.load(Path(folder) / f"{name}.pt", weights_only=True) for name in (way, OURS[0]))

    def norm(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return float(torch.cat([(a[name] - b[name]).flatten() for name in a]).norm())

    found, expected = problem.accuracy(w, given), problem.accuracy(base, given)
    far = norm(w, base) / norm(base, given.w_0)
    if far > ROUNDING or abs(found - expected) > CHANCE:
        raise SystemExit(f"{way} ends elsewhere: {far:.1e} of the way apart, accuracy {found:.4f}, ours {expected:.4f}")
    return found, far


def measured(folder: str, chosen: dict[str, str | None], threads: int, repeats: int) -> list[list[object]]:
    """The rows of the table: all ways in turn, `repeats` times."""
    by = {way: interpreter(way, chosen.get(way), threads) for way in (*OURS, *PEERS)}
    ways = [way for way, words in by.items() if words]
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            words = ("--only", way, folder, str(threads))
            own = threads if way in OURS else 1  # a peer's actors and processes have a thread each
            taken[way].append(measure.alone(__file__, *words, threads=own, limit_s=LIMIT_S, by=by[way] or ())["s"])
            print(way, threads, taken[way][-1], *apart(way, folder), file=sys.stderr, flush=True)
    rows: list[list[object]] = []
    for way in ways:
        ratios = [its / ours for its, ours in zip(taken[way], taken[OURS[0]], strict=True)]
        middle, spread = statistics.median(ratios), f"{min(ratios):.3g} to {max(ratios):.3g}"
        rows.append([way, threads, 1 / statistics.median(taken[way]), middle, spread, *apart(way, folder)])
    return rows + [[way, threads, "no uv, and no interpreter given", *4 * "-"] for way in by if way not in ways]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--rows", type=int, default=200, help="a client's")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--flower", metavar="PYTHON")
    parser.add_argument("--pfl-research", metavar="PYTHON")
    parser.add_argument("--only", nargs=3, metavar=("WAY", "FOLDER", "THREADS"), help="measure this alone, print JSON")
    given = parser.parse_args()
    if given.only:
        way, folder, threads = given.only
        found = alone(way, folder, int(threads))
        if FIRST:
            print(json.dumps(found), flush=True)
        return
    rows = []
    print("load average before:", *(f"{load:.1f}" for load in os.getloadavg()))
    with tempfile.TemporaryDirectory() as folder:
        problem.save(folder, drawn(given.clients, given.rows, given.rounds))
        for threads in map(int, given.threads.split(",")):
            rows += measured(folder, {way: getattr(given, way) for way in PEERS}, threads, given.repeats)
    heads = ["way", "threads", "rounds a second", "times ours, a round", "spread", "accuracy", "apart"]
    print(measure.table(rows, heads))


if __name__ == "__main__":
    main()
