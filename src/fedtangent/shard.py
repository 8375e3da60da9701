"""One node's data, and the data sets and partitions that it is cut from."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Shard(NamedTuple):
    """One node's rows; an engine may append padding, which `real` marks with False.

    Attributes:
        x: Inputs, (rows, *inputs).
        y: Labels (rows,) as int64, or targets (rows, outputs) as floats.
        real: Which rows are real, (rows,) as bool.
    """

    x: Tensor
    y: Tensor
    real: Tensor


class Dataset(NamedTuple):
    """A data set with its canonical train and test rows, inputs normalised.

    Attributes:
        name: Its name, for the record.
        x_train: Inputs, (rows, *inputs) as float32.
        y_train: Labels (rows,) as int64 or targets (rows, outputs) as float32.
        x_test: As `x_train`.
        y_test: As `y_train`.
        classes: Number of classes; 0 for regression.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int


class Partition(NamedTuple):
    """Who holds which training rows.

    Attributes:
        index: One int64 array of row numbers a node.
        x: The inputs that replace `x_train` where a partition shifts features, else None.
    """

    index: list[np.ndarray]  # type: ignore[assignment]  # hides tuple.index, which nobody misses
    x: Tensor | None = None


def shards(dataset: Dataset, partition: Partition) -> list[Shard]:
    """One shard a node, cut from the training rows."""
    x = dataset.x_train if partition.x is None else partition.x
    cut = []
    for node, index in enumerate(partition.index):
        if len(index) == 0:
            raise ValueError(
                f"`partition` must give every node at least one row; got none for node {node}. Use fewer nodes."
            )
        rows = torch.as_tensor(np.asarray(index, dtype=np.int64))
        cut.append(Shard(x[rows], dataset.y_train[rows], torch.ones(len(rows), dtype=torch.bool)))
    return cut


def trim(tree: Any) -> Any:
    """The tree without padding: every tuple that carries a `real` mask is cut to its real rows, which come first."""
    if hasattr(tree, "_fields"):
        if "real" in tree._fields:
            rows = int(tree.real.sum())
            return tree if rows == len(tree.real) else _cut(tree, rows)
        return type(tree)(*(trim(part) for part in tree))
    if isinstance(tree, dict):
        return {key: trim(part) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(trim(part) for part in tree)
    return tree


def _cut(tree: Any, rows: int) -> Any:
    if isinstance(tree, Tensor):
        return tree[:rows]
    if isinstance(tree, dict):
        return {key: _cut(part, rows) for key, part in tree.items()}
    if hasattr(tree, "_fields"):
        return type(tree)(*(_cut(part, rows) for part in tree))
    return type(tree)(_cut(part, rows) for part in tree)
