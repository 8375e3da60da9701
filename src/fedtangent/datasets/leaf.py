"""leaf: any data set of numbers in LEAF's JSON, such as its synthetic one; its users are the natural partition.

Caldas, Duddu, Wu, Li, Konečný, McMahan, Smith, Talwalkar. LEAF: A Benchmark for Federated Settings. 2018.
arXiv 1812.01097.
"""

from pathlib import Path

from fedtangent.datasets._leaf import leaf_files
from fedtangent.shard import Dataset


def leaf(
    data_dir: str | Path | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    classes: int = 0,
    users: int | None = None,
) -> Dataset:
    """The rows of LEAF's folders train and test as they stand, in float32; `site_train` is the user.

    Args:
        data_dir: The folder that holds train and test, or it in a folder `data`, as LEAF's preprocess.sh leaves it.
        shape: Of a row, such as 1,28,28; none is as they stand.
        classes: Their number; 0 is read off the training labels.
        users: Only the first so many users in the order of their names; none is all.

    Raises:
        ValueError: No such folder, a file of another form, or rows of other shapes.
    """
    return leaf_files("leaf", data_dir, shape, classes, users)
