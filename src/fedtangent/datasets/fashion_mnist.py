"""fashion_mnist: 60,000 + 10,000 grey images of clothes, 28 x 28, ten classes.

Xiao, Rasul, Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms. 2017.
arXiv 1708.07747.
"""

from pathlib import Path

from fedtangent.datasets._idx_images import idx_images
from fedtangent.shard import Dataset


def fashion_mnist(data_dir: str | Path | None = None) -> Dataset:
    """Fashion-MNIST, (x / 255 - .2860) / .3530 as (rows, 1, 28, 28); downloaded when absent.

    Args:
        data_dir: The folder that holds torchvision's `FashionMNIST/raw`; the user's cache when left out.
    """
    return idx_images("fashion_mnist", "FashionMNIST", data_dir, mean=0.2860, std=0.3530)
