"""What the tuning scripts beside this file share: the papers' clients, and test rows that none of them holds."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.shard import Dataset, Partition


def problem(data_dir: str, file: str, nodes: int | None = None) -> tuple[Dataset, Partition]:
    """The data set whose test rows are the unused training rows, and the first clients' partition."""
    data, listed = fashion_mnist(data_dir), np.load(file)
    index = np.split(listed["indices"], listed["offsets"][1:-1])
    unused = np.setdiff1d(np.arange(len(data.x_train)), np.concatenate(index))
    return data._replace(x_test=data.x_train[unused], y_test=data.y_train[unused]), Partition(index[:nodes])


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
