"""mnist: 60,000 + 10,000 grey images of handwritten digits, 28 x 28, ten classes.

LeCun, Bottou, Bengio, Haffner. Gradient-Based Learning Applied to Document Recognition. Proceedings of the IEEE, 1998.
"""

from pathlib import Path

from fedtangent.datasets._idx_images import idx_images
from fedtangent.shard import Dataset


def mnist(data_dir: str | Path | None = None) -> Dataset:
    """MNIST, (x / 255 - .1307) / .3081 as (rows, 1, 28, 28); downloaded when absent.

    Args:
        data_dir: The folder that holds torchvision's `MNIST/raw`; the user's cache when left out.
    """
    return idx_images("mnist", "MNIST", data_dir, mean=0.1307, std=0.3081)
