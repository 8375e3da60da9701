"""cifar100: 50,000 + 10,000 colour images, 32 x 32, a hundred classes.

Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, University of Toronto, 2009.
"""

from pathlib import Path

from fedtangent.datasets._cifar import Layout, cifar
from fedtangent.shard import Dataset

LAYOUT = Layout(
    folder="cifar-100-python",
    train=("train",),
    test="test",
    labels="fine_labels",
    archives=("cifar100", "cifar100_subset"),
    classes=100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


def cifar100(data_dir: str | Path | None = None) -> Dataset:
    """CIFAR-100, (x / 255 - mean) / std of each channel over the training images, as (rows, 3, 32, 32).

    A part of the set is recorded under the name of its file, so that it is never taken for the whole.

    Args:
        data_dir: The folder that holds torchvision's `cifar-100-python`; or `cifar100.npz` or `cifar100_subset.npz`
            with x_train, y_train, x_test, y_test (8-bit images, channels first).

    Raises:
        ValueError: Files are missing or damaged.
    """
    return cifar("cifar100", data_dir, LAYOUT)
