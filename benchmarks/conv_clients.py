"""A round of FedAvg with convolutional clients: stacked, looped, and the same steps in a plain loop of PyTorch.

    python benchmarks/conv_clients.py [--clients 40] [--images 500] [--threads 1,2] [--repeats 3] [--memory MIB,...]

40 clients of 500 images of 3 x 32 x 32, ResNet-8 with GroupNorm, one epoch of SGD at 0.01 in batches of 32. `stacked`
is the engine vectorized, once for every budget given, `looped` the engine sequential; `plain` is one module with
autograd and torch.optim.SGD, set to the server's weights before every client. All take the same batches, and must end
at the same weights with a few images in float64: in float32 the kinks of ReLU and max-pool spread rounding to some
percent of the way within ten steps. Every way runs alone in a process, one after the other, again and again: the median
of the last round of two, without evaluation, and its ratios to the plain loop's in the same turn.
"""

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor, nn

import fedtangent
from fedtangent import trees
from fedtangent.federation import generator
from fedtangent.models.resnet8 import resnet8
from fedtangent.shard import Dataset, Partition, Shard
from fedtangent.training.solvers import shuffled

SHAPE, CLASSES, BATCH, LR, ROUNDS = (3, 32, 32), 10, 32, 0.01, 2
FEW = (3, 40)  # clients and images in float64
ROUNDING = 1e-9  # that marks may lie apart, relative to the plain loop's


def problem(clients: int, images: int) -> tuple[Dataset, Partition, nn.Module]:
    """Images of noise, with a patch of their class's own."""
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=clients * images)
    patch = rng.standard_normal((CLASSES, *SHAPE)).astype(np.float32)
    x = torch.from_numpy(patch[y] + rng.standard_normal((len(y), *SHAPE), dtype=np.float32))
    labels = torch.from_numpy(y)
    data = Dataset("noisy classes", x, labels, x[:100], labels[:100], CLASSES)
    index = list(np.arange(clients * images).reshape(clients, images))
    return data, Partition(index), resnet8(SHAPE, CLASSES, rng)


def ours(
    dtype: str, engine: str, memory: int | None, data: Dataset, part: Partition, model: nn.Module
) -> dict[str, float]:
    """Our run."""
    run = fedtangent.run(
        "fedavg",
        dataset=data,
        partition=part,
        model=model,
        engine=engine,
        memory=memory,
        dtype=dtype,
        rounds=ROUNDS,
        batch=BATCH,
        lr=LR,
    )
    return {
        "s": run.rounds[-1]["seconds"],
        "mark": mark(trees.subtract(run.weights, first(model.to(getattr(torch, dtype))))),
    }


def plain(dtype: str, data: Dataset, part: Partition, model: nn.Module) -> dict[str, float]:
    """The plain loop, over the batches that our runs with seed 0 draw."""
    model = model.to(getattr(torch, dtype))
    w, draw = first(model), shuffled(1, BATCH)
    x, y = data.x_train.to(getattr(torch, dtype)), data.y_train
    w_0 = w
    for k in range(1, ROUNDS + 1):
        begin = time.perf_counter()
        total = trees.zeros_like(w)
        for client, held in enumerate(part.index):
            rows = torch.from_numpy(held)
            shard = Shard(x[rows], y[rows], torch.ones(len(rows), dtype=torch.bool))
            model.load_state_dict(w)
            optimizer = torch.optim.SGD(model.parameters(), lr=LR)
            for drawn in draw(generator(0, k, "batches", client), shard).rows:
                batch = drawn[drawn > 0] - 1
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(shard.x[batch]), shard.y[batch]).backward()
                optimizer.step()
            total = trees.add_scaled(total, first(model), 1 / len(part.index))
        w = total
        taken = time.perf_counter() - begin
    return {"s": taken, "mark": mark(trees.subtract(w, w_0))}


def first(model: nn.Module) -> dict[str, Tensor]:
    """Its weights."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def mark(way: dict[str, Tensor]) -> float:
    """A fingerprint of how weights have moved."""
    return sum(float(way[name].square().sum() + way[name].sum()) for name in sorted(way))


def alone(way: str, budget: str, clients: int, images: int) -> dict[str, float]:
    """Seconds of a way's last round, and a fingerprint of how its weights move with a few images in float64."""
    memory = int(budget) * 2**20 if budget else None

    def done(dtype: str, *given: Any) -> dict[str, float]:
        engine = {"stacked": "vectorized", "looped": "sequential"}
        return plain(dtype, *given) if way == "plain" else ours(dtype, engine[way], memory, *given)

    return {"mark": done("float64", *problem(*FEW))["mark"], "s": done("float32", *problem(clients, images))["s"]}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--images", type=int, default=500, help="a client's")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", default="256", help="budgets of stacked, in MiB")
    parser.add_argument("--only", nargs=2, metavar=("WAY", "BUDGET"), help="measure this alone, print JSON")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(alone(*given.only, given.clients, given.images)))
        return
    print("load average before:", *(f"{load:.1f}" for load in os.getloadavg()))
    ways = [("plain", ""), ("looped", ""), *(("stacked", budget) for budget in given.memory.split(","))]
    sizes = ("--clients", str(given.clients), "--images", str(given.images))
    rows = []
    for threads in map(int, given.threads.split(",")):
        taken: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        marks = []
        for _ in range(given.repeats):
            for way in ways:
                its = measure.alone(__file__, *sizes, "--only", *way, threads=threads)
                taken[way].append(its["s"])
                marks.append(its["mark"])
                print(*way, threads, its["s"], its["mark"], file=sys.stderr, flush=True)
                if abs(marks[-1] - marks[0]) > ROUNDING * abs(marks[0]):
                    raise SystemExit(f"{way[0]} ends elsewhere: {marks[-1]}, the plain loop at {marks[0]}")
        for (way, budget), times in taken.items():
            ratios = [mine / base for mine, base in zip(times, taken["plain", ""], strict=True)]
            spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
            rows.append([way, budget, threads, statistics.median(times), statistics.median(ratios), spread])
    print(measure.table(rows, ["way", "MiB", "threads", "s a round", "times plain", "spread"]))


if __name__ == "__main__":
    main()
