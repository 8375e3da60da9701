"""CIFAR's colour images, 32 x 32, in torchvision's layout or as arrays in one .npz file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent.datasets._check import checked
from fedtangent.datasets._files import existing, stored
from fedtangent.datasets._pickled import ADVICE, unpickled
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

SHAPE = (3, 32, 32)


class Layout(NamedTuple):
    """Where torchvision keeps a set, and how it is scaled.

    Attributes:
        folder: Its folder.
        train: The files of the training images, in order.
        test: The file of the test images.
        labels: What a file calls them.
        archives: The .npz files that may stand in the folder's place, the first that exists.
        classes: Their number.
        mean: Of each channel of x / 255, to subtract.
        std: Of each channel of x / 255, to divide by.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    labels: str
    archives: tuple[str, ...]
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def cifar(name: str, data_dir: str | Path | None, layout: Layout) -> Dataset:
    """The images as (x / 255 - mean) / std, (rows, 3, 32, 32); the folder is read where it is there, else the archive.

    Raises:
        ValueError: Neither is there, or a file is damaged.
    """
    path = existing(data_dir, (layout.folder, *(f"{archive}.npz" for archive in layout.archives)))
    if path.suffix == ".npz":
        arrays = stored(path, ("x_train", "y_train", "x_test", "y_test"))
        train, test = (_checked(path, arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test"))
        name = path.stem
    else:
        batches = [_batch(path / file, layout.labels) for file in layout.train]
        train = (np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches]))
        test = _batch(path / layout.test, layout.labels)
    x_train, x_test = (_scaled(x, layout) for x in (train[0], test[0]))
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in (train[1], test[1]))
    return checked(Dataset(name, x_train, y_train, x_test, y_test, layout.classes))


def _batch(path: Path, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (rows, 3, 32, 32) and labels of one file."""
    if not path.is_file():
        raise SettingError(f"`data_dir` must hold {path.parent.name}/{path.name}; got none. {ADVICE}")
    batch = unpickled(path)
    if not isinstance(batch, dict) or not {"data", labels} <= set(batch):
        raise SettingError(f"`{path}` must hold the entries data and {labels}; got another form. {ADVICE}")
    x, y = np.asarray(batch["data"]), np.asarray(batch[labels])
    pixels = int(np.prod(SHAPE))
    if x.ndim != 2 or x.shape[1] != pixels:
        raise SettingError(f"`{path}` must hold images as rows of {pixels} values; got shape {x.shape}. {ADVICE}")
    return _checked(path, x.reshape(-1, *SHAPE), y)


def _checked(path: Path, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.dtype != np.uint8 or x.shape[1:] != SHAPE:
        raise SettingError(
            f"`{path}` must hold 8-bit images of shape (rows, 3, 32, 32); got {x.dtype} of shape {x.shape}. {ADVICE}"
        )
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise SettingError(
            f"`{path}` must hold one integer label for each of its {len(x)} images; got {y.dtype} of shape {y.shape}. "
            f"{ADVICE}"
        )
    return x, y


def _scaled(x: np.ndarray, layout: Layout) -> Tensor:
    mean, std = (torch.tensor(part)[:, None, None] for part in (layout.mean, layout.std))
    return torch.from_numpy(x).to(torch.float32).div_(255).sub_(mean).div_(std)
