"""npz: your own arrays x_train, y_train, x_test, y_test in one .npz file, and site_train if rows come from sites."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedtangent import home
from fedtangent.datasets._check import checked
from fedtangent.datasets._files import stored
from fedtangent.datasets._scale import scaled
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
SITES = "site_train"


def npz(data_dir: str | Path | None = None, *, classes: int = 0) -> Dataset:
    """The data set in a .npz file, named like the file.

    Integer `y` (rows,) are labels from 0, floating-point `y` (rows,) or (rows, outputs) targets of a regression. 8-bit
    `x` are images, channels first, standardised with each channel's mean and deviation over `x_train`; any other `x` is
    taken as it is, in float32. Integers `site_train` (rows,) say which site each training row comes from, for the
    partition `natural`. Pickled objects are refused.

    Args:
        data_dir: The path of the .npz file itself.
        classes: How many classes the labels number from 0; 0 takes as many as the training labels show. Give it where
            the training rows lack some, as a site's may.
    """
    if classes < 0:
        raise SettingError(f"`classes` must not be negative; got {classes}. Leave it out to count the training labels.")
    if data_dir is None or not home.path(data_dir).is_file():
        got = "none" if data_dir is None else repr(str(data_dir))
        raise SettingError(
            f"`data_dir` must be the path of a .npz file for this data set; got {got}. Check --data-dir."
        )
    path = home.path(data_dir)
    arrays = {array: _tensor(array, value) for array, value in stored(path, ARRAYS, (SITES,)).items()}
    x_train, y_train, x_test, y_test = (arrays[array] for array in ARRAYS)
    x_train, x_test = scaled(x_train, x_test)
    return checked(Dataset(path.stem, x_train, y_train, x_test, y_test, classes, site_train=arrays.get(SITES)))


def _tensor(array: str, value: np.ndarray) -> Tensor:
    if value.dtype.kind not in "biuf":
        raise SettingError(f"`{array}` must hold numbers; got dtype {value.dtype}. Encode them as integers or floats.")
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    # torch has no arithmetic for the wider unsigned and floating-point types
    wide = {"u2": np.int64, "u4": np.int64, "u8": np.int64, "f16": np.float64}.get(native.dtype.str[1:])
    return torch.from_numpy(np.ascontiguousarray(native if wide is None else native.astype(wide)))
