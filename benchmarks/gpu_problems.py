"""Data, networks and sizes of the GPU record; everything at the size that is measured, and in miniature."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent.datasets.cifar10 import cifar10
from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.shard import Dataset

CLASSES = 10
SIGNAL = 0.2  # of a class's centre in synthetic images, to the noise of every pixel
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Settings(NamedTuple):
    """What the record is made of.

    Attributes:
        device: cuda or cpu.
        miniature: Whether every size is tiny, to try the benchmark itself.
        data_dir: Where the images lie; None or an empty folder makes them synthetic.
    """

    device: str = "cuda"
    miniature: bool = False
    data_dir: str | None = None


class Sizes(NamedTuple):
    """How large everything is; `fashion` and `cifar` are training and test images."""

    fashion: tuple[int, int] = (60_000, 10_000)
    side: int = 28  # of Fashion-MNIST's images
    cifar: tuple[int, int] = (15_000, 4_000)
    hidden: int = 100
    nodes: int = 300
    rows: int = 200
    degree: int = 5
    clients: int = 20
    few_clients: int = 5
    rounds: int = 4
    seeds: int = 3
    shorten: int = 10**6  # rounds of the comparisons at most
    samples: tuple[int, int] = (200, 1200)
    vision: tuple[int, int, int] = (6, 192, 16)  # layers, width, samples
    residual: int = 64  # samples of a residual network
    partial_clients: int = 40
    partial_rows: int = 500
    guard: bool = True


MINIATURE = Sizes(
    fashion=(400, 30),
    side=8,
    cifar=(60, 20),
    hidden=6,
    nodes=6,
    rows=20,
    degree=3,
    clients=4,
    few_clients=3,
    rounds=2,
    seeds=1,
    shorten=1,
    samples=(6, 9),
    vision=(1, 12, 3),
    residual=2,
    partial_clients=2,
    partial_rows=6,
    guard=False,  # which refuses rounds of so few rows
)


def sizes(settings: Settings) -> Sizes:
    """The sizes that are asked for."""
    return MINIATURE if settings.miniature else Sizes()


@cache
def fashion(settings: Settings) -> tuple[Dataset, str]:
    """Fashion-MNIST, or synthetic images of its shape; and which of the two."""
    raw = None if settings.data_dir is None else Path(settings.data_dir).expanduser() / "FashionMNIST" / "raw"
    there = raw is not None and all((raw / name).is_file() or (raw / f"{name}.gz").is_file() for name in IDX)
    own = sizes(settings)
    train, test = own.fashion
    if settings.miniature or not there:  # nothing is downloaded here
        return synthetic((1, own.side, own.side), train, test), "synthetic"
    return cut(fashion_mnist(settings.data_dir), train, test), "read"


@cache
def cifar(settings: Settings) -> tuple[Dataset, str]:
    """The first images of CIFAR-10, or synthetic ones of their shape; and which of the two."""
    train, test = sizes(settings).cifar
    folder = None if settings.data_dir is None else Path(settings.data_dir).expanduser()
    if (
        settings.miniature
        or folder is None
        or not any((folder / name).exists() for name in ("cifar10.npz", "cifar-10-batches-py"))
    ):
        return synthetic((3, 32, 32), train, test), "synthetic"
    return cut(cifar10(settings.data_dir), train, test), "read"


def cut(data: Dataset, train: int, test: int) -> Dataset:
    """The first rows of a data set."""
    return data._replace(
        x_train=data.x_train[:train].clone(),
        y_train=data.y_train[:train].clone(),
        x_test=data.x_test[:test].clone(),
        y_test=data.y_test[:test].clone(),
    )


def synthetic(shape: tuple[int, ...], train: int, test: int) -> Dataset:
    """Noisy classes: no accuracy on them says anything about images."""
    rng = np.random.default_rng(0)
    centres = SIGNAL * rng.standard_normal((CLASSES, *shape), dtype=np.float32)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        y = rng.integers(CLASSES, size=count)
        x = centres[y] + rng.standard_normal((count, *shape), dtype=np.float32)
        return torch.from_numpy(x), torch.from_numpy(y)

    return Dataset("noisy classes", *drawn(train), *drawn(test), CLASSES)


class Vision(nn.Module):
    """A small vision transformer on 3 x 32 x 32: patches of 4 x 4, pre-norm layers, the mean over positions.

    Args:
        layers: Their number.
        width: A multiple of 3, the number of heads.
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(64, width) / 50)
        layer = nn.TransformerEncoderLayer(
            width, 3, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) -> (n, 10)."""
        rows = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        found: Tensor = self.head(self.encoder(rows).mean(1))
        return found


class BatchMean(nn.Module):
    """Subtracts a part of the batch's mean: rows depend on each other, and no layer's name tells it.

    Args:
        share: Of the mean.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Of the input's shape."""
        return x - self.share * x.mean(0)


def normalised(norm: nn.Module) -> nn.Module:
    """A small convolutional network around a normalisation of 8 channels."""
    torch.manual_seed(0)
    rest = [nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), norm, *rest)


def network(settings: Settings, name: str) -> str | nn.Module:
    """The model of this name; in miniature a small network with GroupNorm in its place."""
    return normalised(nn.GroupNorm(4, 8)) if settings.miniature else name
