"""A client's answers and a step's directions in FedKFAC and DFedKFAC, and whole rounds: CPU seconds beside a floor.

    python benchmarks/kfac_step.py [--data-dir DIR] [--repeats 5] [--nodes 40] [--engine sequential]

Fashion-MNIST, the papers' partition at alpha 0.1 over 300 nodes, 784-100-10, one thread. The floor is what the products
and factorisations alone would take at the speed of x W^T, the product of a client's rows and the first weights. A round
of FedKFAC has all 300 clients, one of DFedKFAC the first `--nodes` with degree 5; the first round, in which
multiply-adds are counted, warms up, and evaluation is left out. Medians of CPU time, which other work on the machine
raises through the caches alone.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does

import measure
import numpy as np
import torch

from fedtangent import trees
from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup
from fedtangent.models.mlp import mlp
from fedtangent.partitions.papers_dirichlet import papers_dirichlet
from fedtangent.shard import Partition, Shard, shards
from fedtangent.tangent_steps.answers import Answers
from fedtangent.tangent_steps.span import Span
from fedtangent.tangent_steps.step import held_out
from fedtangent.task import Task

NODES, DEGREE = 300, 5
I, O, C = 784, 100, 10  # noqa: E741  # inputs, hidden units and outputs
SERVER = Span((1.0, 100.0), (1e-4, 1e-3, 1e-2, 1e-1, 1.0), (0.25, 0.5, 0.75, 1.0))
NODE = Span((1.0, 100.0), (1e-4, 1e-2), (0.5, 1.0, 2.0, 3.0))
K = 3  # directions: one a damping, and the last displacement


def operations(rows: float, scored: float, tries: int, same: bool) -> dict[str, float]:
    """Of one client or neighbour: of its moments, curvature and losses, on rows of which some, or the `same`, score."""
    last = 2 * O * C
    forward = 2 * I * O
    score = tries * (last + 2 * K * O) + (0 if same else (1 + K) * forward)
    return {
        "moments": rows * (2 * forward + 2 * last + (1 + C) * last + 2 * C * O**2 + 2 * (O + 1) ** 2),
        "along": rows * K * (forward + 2 * last),
        "losses": scored * score,
    }


def directions() -> float:
    """Operations of a factorisation of A and B a damping, and of their solves."""
    i, o = I + 1, O + 1
    return 2 * sum(side**3 / 3 + 2 * side**2 * other for side, other in ((i, O), (O, i), (o, C), (C, o)))


def taken(work: Callable[[], Any], times: int) -> float:
    """CPU seconds of a call, of so many."""
    begin = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begin) / times


def answers(task: Task, fit: Sequence[Shard], held: Sequence[Shard], span: Span, together: int) -> dict[str, float]:
    """CPU seconds of a client's answers; so many clients after each other give one before any gives the next."""
    client, w = Answers(task, "refuse", 5e-4), {name: part.clone() for name, part in task.w_0.items()}
    near = fit[: DEGREE + 1]
    inputs, rows = reduce(trees.add, [client.inputs(data) for data in near])
    mean = {key: part / rows for key, part in inputs.items()}
    total = reduce(trees.add, [client.moments(task.w_0, data) for data in near])
    basis = span.basis(total, mean, w)
    c = span.combinations(total, basis, reduce(trees.add, [client.along(task.w_0, basis, data) for data in near]))
    asked: dict[str, tuple[Callable[[Shard], Any], Sequence[Shard]]] = {
        "moments": (partial(client.moments, w), fit),
        "along": (partial(client.along, w, basis), fit),
        "losses": (partial(client.losses, w, basis, c), held),
    }
    found = dict.fromkeys(asked, 0.0)
    for start in range(0, len(fit), together):
        for name, (answer, data) in asked.items():
            begin = time.process_time()
            for one in data[start : start + together]:
                answer(one)
            found[name] += (time.process_time() - begin) / len(fit)
    return {**found, "directions": taken(lambda: span.basis(total, mean, w), 3)}


def rounds(method: str, given: dict[str, Any], repeats: int) -> float:
    """CPU seconds of a round, the median."""
    built = setup(experiment(method=method, rounds=repeats + 1, evaluate_nodes_every=0, **given))
    wire = built.wire()
    start = built.fleet(0, wire)
    data_k = start.each(list(built.data))
    state, found = built.method.init(start, data_k), []
    for k in range(1, repeats + 2):
        begin = time.process_time()
        state, _ = built.play(built.fleet(k, wire), state, data_k, k)
        found.append(time.process_time() - begin)
    return statistics.median(found[1:])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=40)
    parser.add_argument("--engine", default="sequential")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion_mnist(given.data_dir)

    def cut(x: torch.Tensor, y: torch.Tensor, nodes: int, rng: np.random.Generator) -> Partition:
        return Partition(papers_dirichlet(x, y, NODES, rng, alpha=0.1).index[:nodes])

    whole = shards(data, cut(data.x_train, data.y_train, NODES, np.random.default_rng(0)))
    fit, held = zip(*[held_out(np.random.default_rng(i), part) for i, part in enumerate(whole)], strict=True)
    task = Task(mlp((1, 28, 28), C, np.random.default_rng(0)))
    x, w = whole[0].x.flatten(1), task.w_0["1.weight"]
    speed = 2 * len(x) * I * O / statistics.median(taken(lambda: x @ w.mT, 100) for _ in range(7))
    found = []
    for method, own, scored, span, together in (
        ("fedkfac", fit, held, SERVER, NODES),
        ("dfedkfac", whole, whole, NODE, DEGREE + 1),
    ):
        n, m = (statistics.fmean(len(part.y) for part in its) for its in (own, scored))
        needed = {**operations(n, m, span.tries, own is scored), "directions": directions()}
        runs = [answers(task, own, scored, span, together) for _ in range(given.repeats + 1)][1:]
        for name, count in needed.items():
            its = statistics.median(run[name] for run in runs)
            found.append([method, name, count / 1e6, count / speed * 1e3, its * 1e3])
    print(f"{speed / 1e9:.0f} GFLOP/s")
    print(measure.table(found, ["method", "of a client or node", "MFLOP", "floor, ms", "taken, ms"]))
    common = {"dataset": data, "partition": cut, "engine": given.engine}
    server = rounds("fedkfac", {**common, "nodes": NODES}, given.repeats)
    print(f"fedkfac, {NODES} clients: {server:.2f} s a round")
    graph = {"topology": "regular", "degree": DEGREE}
    between = rounds("dfedkfac", {**common, **graph, "nodes": given.nodes}, given.repeats)
    print(f"dfedkfac, {given.nodes} nodes: {between / given.nodes * 1e3:.1f} ms a node and round")


if __name__ == "__main__":
    main()
