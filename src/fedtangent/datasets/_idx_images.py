"""Image sets in MNIST's idx format, found in or downloaded to torchvision's layout."""

import contextlib
import gzip
import io
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedtangent import home
from fedtangent.datasets._check import checked
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PATIENCE_S = 10.0


def idx_images(name: str, folder: str, data_dir: str | Path | None, mean: float, std: float) -> Dataset:
    """Ten classes of grey images, (x / 255 - mean) / std, as (rows, 1, height, width).

    Reads `data_dir/folder/raw`, unpacked or gzipped; nothing is written there unless files are missing.

    Args:
        name: The data set's name, for the record.
        folder: Name of torchvision's class and of its folder.
        data_dir: The folder that holds `folder`; None for the user's cache.
        mean: The mean of x / 255 to subtract.
        std: The deviation of x / 255 to divide by.

    Raises:
        ValueError: Files are missing and cannot be downloaded, or a file is damaged.
    """
    raw = (_cache() if data_dir is None else home.path(data_dir)) / folder / "raw"
    if any(_path(raw, file) is None for file in FILES):
        _download(folder, raw)
    x_train, y_train, x_test, y_test = (_array(raw, file) for file in FILES)
    x_train, x_test = (x[:, None].to(torch.float32).div_(255).sub_(mean).div_(std) for x in (x_train, x_test))
    return checked(Dataset(name, x_train, y_train, x_test, y_test, classes=10))


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fedtangent"


def _path(raw: Path, file: str) -> Path | None:
    """The unpacked file, else the gzipped one, else None."""
    return next((path for path in (raw / file, raw / f"{file}.gz") if path.is_file()), None)


def _array(raw: Path, file: str) -> Tensor:
    """The bytes of an idx file: 0, 0, type 8, number of axes, their big-endian lengths, the values."""
    path = _path(raw, file)
    assert path is not None
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SettingError(_damaged(path, str(error))) from error
    axes = int(file.split("-idx")[1][0])
    if data[:4] != bytes((0, 0, 8, axes)) or len(data) < 4 + 4 * axes:
        raise SettingError(_damaged(path, f"the header {data[:4].hex()!r}"))
    shape = np.frombuffer(data, ">u4", axes, offset=4).astype(np.int64)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if len(values) != shape.prod():
        raise SettingError(_damaged(path, f"{len(values)} bytes of the {shape.prod()} announced"))
    return torch.from_numpy(values.reshape(shape).copy())


def _damaged(path: Path, got: str) -> str:
    return f"`{path}` must be a whole idx file; got {got}. Delete it, and it is downloaded again."


def _download(folder: str, raw: Path) -> None:
    """Brings torchvision's files to `raw`; a download that breaks off leaves nothing there."""
    import torchvision  # slow to import

    try:
        with tempfile.TemporaryDirectory() as scratch, _quiet(), _timeout(PATIENCE_S):
            getattr(torchvision.datasets, folder)(root=scratch, download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for path in sorted((Path(scratch) / folder / "raw").iterdir()):
                part = raw / f"{path.name}.part"
                shutil.copyfile(path, part)
                part.replace(raw / path.name)
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".:")
        raise SettingError(
            f"`data_dir` must hold {folder}/raw/ with the four idx files where they cannot be downloaded; "
            f"got {str(raw.parent.parent)!r} without them ({reason}). "
            "Name the folder that has them with --data-dir (`data_dir`), or connect to the network."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallows torchvision's progress bars and messages."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Gives up on a silent connection after so many seconds; torchvision would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
