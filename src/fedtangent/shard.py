"""One node's data, and the data sets and partitions that it is cut from."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError


class Shard(NamedTuple):
    """One node's rows; an engine may append padding, which `real` marks with False.

    Attributes:
        x: Inputs, (rows, *inputs), a tensor or a dict or tuple of such.
        y: Labels (rows,) as int64, or targets (rows, outputs) as floats.
        real: Which rows are real, (rows,) as bool.
    """

    x: Any
    y: Tensor
    real: Tensor


class Dataset(NamedTuple):
    """A data set with its canonical train and test rows, inputs normalised.

    Attributes:
        name: Its name, for the record.
        x_train: Inputs, (rows, *inputs) as float32; or a dict of what the model takes by name, or a tuple of what it
            takes one after the other, where integers stay such.
        y_train: Labels (rows,) as int64 or targets (rows, outputs) as float32.
        x_test: As `x_train`.
        y_test: As `y_train`.
        classes: Number of classes; 0 for regression.
        site_train: Where each training row comes from, (rows,) as int64, for the partition `natural`; None if unknown.
        schema: A digest of what the numbers mean, such as the columns' names, which sites must have in common; None
            where nothing tells.
    """

    name: str
    x_train: Any
    y_train: Tensor
    x_test: Any
    y_test: Tensor
    classes: int
    site_train: Tensor | None = None
    schema: str | None = None


class Partition(NamedTuple):
    """Who holds which training rows.

    Attributes:
        index: One int64 array of row numbers a node.
        x: The inputs that replace `x_train` where a partition shifts features, else None.
        test_index: As `index` of test rows, where every node is to be measured on its own; None where all are measured
            on all of them.
    """

    index: list[np.ndarray]  # type: ignore[assignment]  # hides tuple.index, which nobody misses
    x: Any = None
    test_index: list[np.ndarray] | None = None


def count(x: Any) -> int:
    """How many rows there are of inputs."""
    return len(x if isinstance(x, Tensor) else trees.leaves(x)[0])


def at(x: Any, rows: Any) -> Any:
    """These rows of inputs."""
    return x[rows] if isinstance(x, Tensor) else trees.map(lambda leaf: leaf[rows], x)


def channels_last(inputs: Sequence[int]) -> bool:
    """Whether the shape of a sample is (height, width, channels) where images have (channels, height, width)."""
    return len(inputs) == 3 and inputs[2] in (1, 3, 4) and inputs[0] not in (1, 3, 4)


def shards(dataset: Dataset, partition: Partition) -> list[Shard]:
    """One shard a node, cut from the training rows; all lie in one memory, node after node."""
    x = dataset.x_train if partition.x is None else partition.x
    for node, index in enumerate(partition.index):
        if len(index) == 0:
            raise SettingError(
                f"`partition` must give every node at least one row; got none for node {node}. Use fewer nodes."
            )
    counts = [len(index) for index in partition.index]
    rows = torch.from_numpy(np.concatenate(partition.index).astype(np.int64))
    whole = Shard(at(x, rows), dataset.y_train[rows], torch.ones(len(rows), dtype=torch.bool))
    leaves: list[Tensor]
    leaves, structure = optree.tree_flatten(whole)  # type: ignore[arg-type]
    pieces = zip(*(torch.split(leaf, counts) for leaf in leaves), strict=True)
    return [optree.tree_unflatten(structure, piece) for piece in pieces]  # type: ignore[misc]


def tests(x: Any, y: Tensor, partition: Partition) -> list[Shard] | None:
    """Every node's own test rows out of all of them; None where the partition gives none.

    Args:
        x: All test inputs.
        y: Their labels or targets.
        partition: Which may have a `test_index`.
    """
    if partition.test_index is None:
        return None
    found = [torch.from_numpy(np.asarray(index).astype(np.int64)).to(y.device) for index in partition.test_index]
    return [Shard(at(x, rows), y[rows], torch.ones(len(rows), dtype=torch.bool, device=y.device)) for rows in found]


def join(parts: Sequence[Any]) -> Any:
    """One tree of many: tuples that carry a `real` mask are put end to end, row after row, all else is stacked."""

    def one(*found: Any) -> Any:
        return trees.map(lambda *leaves: torch.cat(leaves), *found) if masked(found[0]) else trees.stack(found)

    return optree.tree_map(one, *parts, is_leaf=masked)


def filled(x: Any) -> Any:
    """Rows of none as one row of padding, since many models have no results of no rows; all else is as it was."""
    if not masked(x) or len(x.real):
        return x
    return trees.map(lambda leaf: leaf.new_zeros((1, *leaf.shape[1:])), x)


def masks(tree: Any) -> Iterator[Tensor]:
    """The `real` of every tuple that carries one, of those inside of others too."""
    for part in optree.tree_leaves(tree, is_leaf=masked):
        if masked(part):
            yield part.real
            yield from masks(tuple(part))


def trim(tree: Any, real: Tensor | None = None) -> Any:
    """The tree without padding: every tuple that carries a `real` mask keeps its real rows only.

    Args:
        tree: Any tree; a masked tuple inside another goes by its own mask.
        real: The mask of the tuple around it, None where all its rows are real.
    """
    if isinstance(tree, Tensor):
        return tree if real is None else tree[real]
    if tree is None:
        return None
    kind = type(tree)
    if masked(tree):
        own = None if tree.real.all() else tree.real
        return kind(*[trim(part, own) for part in tree])
    if kind is dict:
        return {key: trim(part, real) for key, part in tree.items()}
    if kind in (tuple, list):
        return kind([trim(part, real) for part in tree])
    if hasattr(tree, "_fields"):
        return kind(*[trim(part, real) for part in tree])
    if not optree.tree_is_leaf(tree):
        parts, structure = optree.tree_flatten(tree, is_leaf=masked)
        return optree.tree_unflatten(structure, [trim(part, real) for part in parts])
    return tree if real is None else tree[real]


def cleared(tree: Any, real: Tensor) -> Any:
    """The tree with zeros in place of padded rows, whatever they hold: a product must not spread it."""
    if real.device.type == "cpu" and torch._C._functorch.peek_interpreter_stack() is None and bool(real.all()):
        return tree

    def clear(leaf: Tensor) -> Tensor:
        return torch.where(real.reshape(-1, *[1] * (leaf.dim() - 1)), leaf, leaf.new_zeros(()))

    return trees.map(clear, tree)


def repeated(tree: Any, real: Tensor) -> Any:
    """The tree with the first real row in place of padded rows: for functions that have no value, or slope, at zero."""
    if real.device.type == "cpu" and torch._C._functorch.peek_interpreter_stack() is None and bool(real.all()):
        return tree
    first = real.to(torch.uint8).argmax()[None]

    def repeat(leaf: Tensor) -> Tensor:
        return torch.where(real.reshape(-1, *[1] * (leaf.dim() - 1)), leaf, leaf.index_select(0, first))

    return trees.map(repeat, tree)


def masked(tree: Any) -> bool:
    """Whether a tuple carries a `real` mask, and so consists of rows."""
    return "real" in getattr(tree, "_fields", ())


def form(tree: Any, whole: bool = False) -> Any:
    """What trees of one kind have in common: structure, types and shapes; None where there is no tensor.

    Args:
        tree: Of tensors and plain values.
        whole: Whether the number of rows counts, where a part of the tree consists of rows.
    """

    def sizes(part: Any) -> Any:
        if not masked(part):
            return isinstance(part, Tensor) and (part.dtype, part.shape)
        leaves, structure = optree.tree_flatten(part)
        return structure, tuple((leaf.dtype, leaf.shape[not whole :]) for leaf in leaves)

    parts, structure = optree.tree_flatten(tree, is_leaf=masked, none_is_leaf=True)
    found = tuple(map(sizes, parts))
    return (structure, found) if any(found) else None
