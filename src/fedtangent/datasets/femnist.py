"""femnist: handwritten digits and letters, 28 x 28, 62 classes, in LEAF's JSON; its writers are the natural partition.

Caldas, Duddu, Wu, Li, Konečný, McMahan, Smith, Talwalkar. LEAF: A Benchmark for Federated Settings. 2018.
arXiv 1812.01097. The third data set of NTK-FL and of NTK-DFL.
"""

from pathlib import Path

from fedtangent.datasets._leaf import leaf_files
from fedtangent.shard import Dataset


def femnist(data_dir: str | Path | None = None, *, digits: bool = False, users: int | None = None) -> Dataset:
    """The images as LEAF leaves them, 1 for paper and 0 for ink, as (rows, 1, 28, 28); `site_train` is the writer.

    Args:
        data_dir: LEAF's folder data/femnist, or its folder data, which holds train and test.
        digits: Only the digits, ten classes, as NTK-FL and NTK-DFL take them.
        users: Only the first so many writers in the order of their names; none is all.

    Raises:
        ValueError: No such folder, or a file of another form.
    """
    return leaf_files("femnist", data_dir, (1, 28, 28), 10 if digits else 62, users, 10 if digits else None)
