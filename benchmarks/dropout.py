"""A round of FedAvg with dropout beside one without, and torch's own steps on the same rows, in seconds of one core.

ResNet-8 on images of 32 x 32, with dropout before its classifier or after every stage, and a dense network of 100.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch
from torch import nn

from fedtangent.catalog import load
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup
from fedtangent.federation import Ledger
from fedtangent.shard import Dataset

CLIENTS, BATCH = 4, 20
SHAPES = {"resnet8": (3, 32, 32), "mlp": (20,)}


def network(name: str, where: str) -> nn.Module:
    """The model, with dropout nowhere, before the classifier (`head`), or after all layers but that (`every`)."""
    *parts, last = load("models", name)(SHAPES[name], 10, np.random.default_rng(0))
    found: list[nn.Module] = []
    for part in parts:
        after = where == "every" and type(part) in (nn.ReLU, nn.Sequential, nn.MaxPool2d)
        found += [part, nn.Dropout(0.1)] if after else [part]
    return nn.Sequential(*found, *([nn.Dropout(0.1)] if where == "head" else []), last)


def ours(name: str, where: str, data: Dataset, engine: str) -> Callable[[], Any]:
    """A round of FedAvg."""
    how: dict[str, Any] = {"partition": "iid", "nodes": CLIENTS, "rounds": 1, "batch": BATCH, "lr": 0.01}
    built = setup(experiment("fedavg", dataset=data, model=network(name, where), engine=engine, **how))
    start = built.fleet(0, Ledger())
    data_k = start.each(list(built.data))
    state = built.method.init(start, data_k)
    return lambda: built.play(built.fleet(1, Ledger()), state, data_k, 1)


def theirs(name: str, where: str, data: Dataset) -> Callable[[], Any]:
    """As many steps of torch's own on one model."""
    model = network(name, where)
    by = torch.optim.SGD(model.parameters(), 0.01)

    def work() -> None:
        for x, y in zip(data.x_train.split(BATCH), data.y_train.split(BATCH), strict=True):
            by.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            by.step()

    return work


def main() -> None:
    """Prints a table; ways take turns, so that a machine's moods touch all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=320, help="all clients'")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        x = torch.randn(given.rows, *shape, generator=torch.Generator().manual_seed(0))
        y = torch.arange(given.rows) % 10
        data = Dataset("noise", x, y, x[:20], y[:20], 10)
        ways: dict[tuple[str, str], Callable[[], Any]] = {}
        for where in ("nowhere", "head", "every"):
            ways |= {(where, engine): ours(name, where, data, engine) for engine in ("sequential", "vectorized")}
            ways[where, "torch"] = theirs(name, where, data)
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(given.repeats + 1):  # the first warms up
            for way, work in ways.items():
                begin = time.process_time()
                work()
                best[way] = min(best[way], time.process_time() - begin)
        rows += [[name, *way, taken, taken / best["nowhere", way[1]]] for way, taken in best.items()]
    print(measure.table(rows, ["model", "dropout", "by", "s a round", "times none"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
