"""cifar10: 50,000 + 10,000 colour images of animals and vehicles, 32 x 32, ten classes.

Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, University of Toronto, 2009.
"""

from pathlib import Path

from fedtangent.datasets._cifar import Layout, cifar
from fedtangent.shard import Dataset

LAYOUT = Layout(
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    labels="labels",
    archives=("cifar10",),
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)


def cifar10(data_dir: str | Path | None = None) -> Dataset:
    """CIFAR-10, (x / 255 - mean) / std of each channel over the training images, as (rows, 3, 32, 32).

    Args:
        data_dir: The folder that holds torchvision's `cifar-10-batches-py`, or `cifar10.npz` with x_train, y_train,
            x_test, y_test (8-bit images, channels first).

    Raises:
        ValueError: Files are missing or damaged.
    """
    return cifar("cifar10", data_dir, LAYOUT)
