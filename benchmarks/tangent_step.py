"""One node's round of NTK-DFL, in the paper's setting: from factors, and literally, with explicit Jacobians.

    python benchmarks/tangent_step.py [--data-dir DIR]

Fashion-MNIST (downloaded into DIR where it is absent), the papers' partition procedure at alpha 0.1 over 300 nodes, the
rows of one node and five neighbours, 784-100-10, eight candidate times. The literal way needs some 11 GiB.
"""

import argparse
import functools
import json
import sys

import measure
import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from fedtangent import shard, trees
from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.models.mlp import mlp
from fedtangent.partitions.papers_dirichlet import papers_dirichlet
from fedtangent.shard import Shard
from fedtangent.tangent_steps.step import Step, choose, countable, linearised_rows, score, whole_loss
from fedtangent.training.task import Task

NODES, DEGREE, LR = 300, 5, 0.01
TIMES = (100, 200, 300, 400, 500, 600, 700, 800)


def problem(data_dir: str) -> tuple[Task, list[Shard]]:
    """The network, and the rows of a node and its neighbours."""
    data = fashion_mnist(data_dir)
    part = papers_dirichlet(data.x_train, data.y_train, NODES, np.random.default_rng(0), alpha=0.1)
    return Task(mlp((1, 28, 28), 10, np.random.default_rng(0))), shard.shards(data, part)[: DEGREE + 1]


def fast(task: Task, data: list[Shard], kernel: str) -> None:
    """What `ntkdfl` does for a node, its neighbours' answers to it included."""
    w, step = task.w_0, Step(kernel, lr=LR)  # type: ignore[arg-type]
    rows = shard.join([linearised_rows(task, w, part) for part in data])
    tries, _ = step.candidates(task, w, rows, LR)
    loss = whole_loss(functools.reduce(trees.add, (countable(score(task, tries, part)) for part in data)))
    choose(w, tries, loss, TIMES)


def literal(task: Task, data: list[Shard]) -> None:
    """The paper's text: J (N, C, P), H = 1/C J J^T, an adaptive solver, every candidate from J, and its true loss."""
    w, (x, y, _) = task.w_0, (torch.cat(parts) for parts in zip(*data, strict=True))
    one = torch.func.jacrev(lambda w, row: task.predict(w, row[None])[0])
    by_weight = [torch.func.vmap(one, (None, 0))(w, part) for part in x.split(100)]
    j = torch.cat([torch.cat([part.flatten(2) for part in parts.values()], 2) for parts in by_weight])
    n, c, _ = j.shape
    kernel = j.flatten(1) @ j.flatten(1).T / c
    f_0, one_hot = task.predict(w, x), nn.functional.one_hot(y, c)

    def rate(_: Tensor, alpha: Tensor) -> Tensor:
        return ((f_0 - kernel @ alpha).softmax(1) - one_hot) / n

    s = LR * torch.tensor([0, *TIMES])
    alphas = odeint(rate, torch.zeros_like(f_0), s, rtol=1e-7, atol=1e-9)[1:]
    losses = []
    for alpha in alphas:
        parts = (j.flatten(0, 1).T @ alpha.flatten()).split([part.numel() for part in w.values()])
        moved = {name: part - d.view_as(part) for (name, part), d in zip(w.items(), parts, strict=True)}
        losses.append(nn.functional.cross_entropy(task.predict(moved, x), y))
    torch.stack(losses).argmin()


def floor(rows: int, kernel: str) -> dict[str, float]:
    """GFLOP that cannot be saved: kernel, dynamics, eight updates, eight evaluations.

    The trace kernel is five eighths of its entries, the others are mirrored; its flow takes some 29 products, 150 with
    a part of it of rank 48, and one to find that. The full kernel's takes some 35, and 180 where the inputs' products
    are of rank 128.
    """
    i, o, c, t, rank, inputs_rank = 784, 100, 10, len(TIMES), 48, 128
    if kernel == "trace":
        gram, dynamics = 5 / 4 * rows**2 * (i + 2 * o), 29 * 2 * rows**2 * c + 150 * 4 * rows * rank * c
        dynamics += 2 * rows**2 * rank
    else:
        gram, others = 2 * rows**2 * i, 4 * rows * o * c + 4 * rows * o * c  # to the hidden layer and back; the second
        dynamics = 35 * (2 * rows**2 * o + others) + 180 * (4 * rows * inputs_rank * o + others)
        dynamics += 2 * rows**2 * inputs_rank
    update = 2 * t * rows * (i * o + o * c)
    return {"kernel": gram / 1e9, "products": dynamics / 1e9, "updates and losses": 2 * update / 1e9}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", choices=["trace", "full", "literal"], help="measure this alone, and print JSON")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    task, data = problem(given.data_dir)
    if given.only:
        work = (lambda: literal(task, data)) if given.only == "literal" else (lambda: fast(task, data, given.only))
        peak = measure.peak(work)
        print(json.dumps({"GiB": peak, "s": measure.seconds(work, 1 if given.only == "literal" else 7)}))
        return
    rows = sum(len(part.x) for part in data)
    for kind in ("trace", "full"):
        print(f"{kind}: floor {', '.join(f'{part} {work:.2g}' for part, work in floor(rows, kind).items())} GFLOP")
    print(f"{rows} rows, {task.size:,} parameters, medians")
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        speed = measure.matrix_speed()
        print(f"{threads} threads: matrix products at {speed / 1e9:.0f} GFLOP/s", file=sys.stderr)
        words = ("--data-dir", given.data_dir, "--only")
        ours = {kind: measure.alone(__file__, *words, kind, threads=threads) for kind in ("trace", "full", "literal")}
        for kind, its in ours.items():
            work = sum(floor(rows, kind).values()) if kind != "literal" else 0
            ratio = ours["literal"]["s"] / its["s"]
            found.append([kind, threads, its["s"], its["GiB"], ratio, its["s"] / (work * 1e9 / speed) if work else "-"])
    print(measure.table(found, ["kernel", "threads", "s", "GiB", "times faster than literal", "times the floor"]))


if __name__ == "__main__":
    main()
