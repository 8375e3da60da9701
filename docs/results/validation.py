"""What the scripts beside this file share: clients, and test rows that none of them holds."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import fedtangent
from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.run import step
from fedtangent.experiments.setup import setup
from fedtangent.shard import Dataset, Partition


def problem(data_dir: str, file: str, nodes: int | None = None) -> tuple[Dataset, Partition]:
    """The data set whose test rows are the unused training rows, and the first clients' partition."""
    data, listed = fashion_mnist(data_dir), np.load(file)
    index = np.split(listed["indices"], listed["offsets"][1:-1])
    unused = np.setdiff1d(np.arange(len(data.x_train)), np.concatenate(index))
    return data._replace(x_test=data.x_train[unused], y_test=data.y_train[unused]), Partition(index[:nodes])


def beginning(data: Dataset, train: int, validation: int, split: str) -> Dataset:
    """The first training rows, measured on the next ones (`validation`) or on the test rows (`test`)."""
    x, y, end = data.x_train, data.y_train, train + validation
    held = {"validation": (x[train:end], y[train:end]), "test": (data.x_test, data.y_test)}[split]
    return data._replace(x_train=x[:train].clone(), y_train=y[:train].clone(), x_test=held[0], y_test=held[1])


def recorded(data: Dataset, out: str, ending: str, rounds: int, seed: int, variants: Mapping[str, Any]) -> None:
    """Runs variants, with 20 clients at alpha 0.1 unless they say otherwise, each into a folder NAME-ENDING-SEED."""
    for name, settings in variants.items():
        folder = Path(out) / f"{name}-{ending}-{seed}"
        everywhere = {"partition": "dirichlet", "alpha": 0.1, "nodes": 20, "evaluate_nodes_every": 0}
        asked = {**everywhere, "rounds": rounds, "seed": seed, **settings}
        fedtangent.run(dataset=data, out=folder, resume=folder.exists(), **asked)


def played(asked: Experiment, ends: Collection[int]) -> Iterator[tuple[int, dict[str, Any], Callable[[Any], Tensor]]]:
    """Plays an experiment: of the rounds in `ends` the number, the entry, and the aggregated model's outputs."""
    built = setup(asked)
    wire = built.wire()
    start = built.fleet(0, wire)
    data_k = start.each(list(built.data))
    state = built.method.init(start, data_k)
    for k in range(1, max(ends) + 1):
        state, entry, weights, _ = step(built, built.fleet(k, wire), state, data_k, k)
        if k in ends:
            yield k, entry, partial(built.predict, weights.value)


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Of (n, C) outputs, to four digits."""
    return round(float((outputs.argmax(1) == labels).double().mean()), 4)


def lines(path: Path) -> list[dict[str, Any]]:
    """What is recorded already."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def missing(path: Path, variants: Iterable[str]) -> list[str]:
    """Those variants of which no line is recorded yet."""
    done = [line["variant"] for line in lines(path)]
    return [name for name in variants if name not in done]


def append(path: Path, line: dict[str, Any]) -> None:
    """Records a line."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
