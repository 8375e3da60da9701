"""Test rows: every node's own, dealt out as the training rows of their class are.

The rule is that of the local test of LG-FedAvg (Liang et al. 2020, arXiv 2001.01523) and FedRep (Collins et al. ICML
2021), carried over from shards of classes to any partition. DisPFL (Dai et al. ICML 2022) measures personal models on
the distribution of their training rows, too, but draws rows that nodes may have in common.
"""

import numpy as np

from fedtangent.errors import SettingError
from fedtangent.experiments.build import built_partition, generator
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.share import Share
from fedtangent.shard import Dataset, Partition


def partitioned(experiment: Experiment, dataset: Dataset, share: Share | None) -> Partition:
    """The partition, with the test rows that the experiment asks for: every node's own, or none, for all nodes on all.

    Raises:
        ValueError: A partition that cannot be, or nodes that cannot have test rows of their own.
    """
    asked = experiment.evaluate_on
    if share is not None:
        if asked == "all":
            raise SettingError("`evaluate_on` must be own between sites, whose test rows stay there; got all. Drop it.")
        return share.partition
    partition = built_partition(experiment, dataset)
    if asked == "all":
        return partition._replace(test_index=None)
    if asked is None or partition.test_index is not None:
        return partition
    if not dataset.classes:
        raise SettingError(
            "`evaluate_on` must be all in a regression, whose rows have no classes to split the test set by; got own. "
            "Drop it, or give a partition with a test_index."
        )
    y = dataset.y_train.numpy()
    labels = np.stack([np.bincount(y[index], minlength=dataset.classes) for index in partition.index])
    rng = generator(experiment, "test rows")
    return partition._replace(test_index=split(labels, dataset.y_test.numpy(), rng))


def split(labels: np.ndarray, y_test: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Every node's own test rows, none of two nodes.

    The test rows of a class are dealt out in proportion to the nodes' training rows of it, in whole rows by largest
    remainders, the lower node first among equals; which rows a node is dealt is drawn. Those of a class that nobody
    trains on are nobody's. A node that would have none takes a row of the class that it has most rows of, from the
    node with most test rows of that class.

    Args:
        labels: Training rows by node and class, (nodes, classes).
        y_test: The test rows' classes.
        rng: Draws the order in which rows are dealt out.

    Raises:
        ValueError: A node would have no test row.
    """
    nodes, classes = labels.shape
    counts, dealt = np.zeros((nodes, classes), dtype=np.int64), []
    for c in range(classes):
        rows = rng.permutation(np.flatnonzero(y_test == c))
        dealt.append(rows if labels[:, c].any() else rows[:0])
        if len(dealt[c]):
            share = labels[:, c] * len(rows)  # over the class's training rows: whole numbers keep remainders exact
            counts[:, c], left = np.divmod(share, labels[:, c].sum())
            counts[np.argsort(-left, kind="stable")[: len(rows) - counts[:, c].sum()], c] += 1
    for node in np.flatnonzero(counts.sum(1) == 0).tolist():
        _take_one(counts, labels, node)
    parts: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for c in range(classes):
        for own, piece in zip(parts, np.split(dealt[c], np.cumsum(counts[:-1, c])), strict=True):
            own.append(piece)
    return [np.sort(np.concatenate(own)) for own in parts]


def _take_one(counts: np.ndarray, labels: np.ndarray, node: int) -> None:
    """Moves a test row, of the class that a node has most training rows of, to this node from where most are."""
    for c in np.argsort(-labels[node], kind="stable"):
        several = np.where(counts.sum(1) > 1, counts[:, c], 0)  # who has but one row keeps it
        if labels[node, c] and several.any():
            counts[several.argmax(), c] -= 1
            counts[node, c] += 1
            return
    raise SettingError(
        f"`evaluate_on` must leave every node a test row of a class that it trains on; got none for node {node}, of "
        f"{len(labels)} nodes. Use fewer nodes, a larger test set, or --evaluate-on all."
    )
