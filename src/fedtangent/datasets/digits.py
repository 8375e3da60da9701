"""digits: scikit-learn's 1,797 embedded images of handwritten digits, 8 x 8, ten classes; needs no network.

Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998 (its test part).
"""

from pathlib import Path

import torch

from fedtangent.datasets._check import checked
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

SPLIT_SEED = 0  # of the stratified split into 1,437 training and 360 test images
MEAN, STD = 0.3054, 0.3761  # of x / 16 over the training images


def digits(data_dir: str | Path | None = None) -> Dataset:
    """The digits, (x / 16 - .3054) / .3761 as (rows, 1, 8, 8); 1,437 to train on, 360 to test, stratified by class.

    Args:
        data_dir: Has no use here, and is refused.
    """
    if data_dir is not None:
        raise SettingError(
            f"`data_dir` must be left out for digits, which is built in; got {str(data_dir)!r}. Drop it."
        )
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).reshape(-1, 1, 8, 8).div(16).sub(MEAN).div(STD)
    train, test = train_test_split(range(len(x)), test_size=0.2, random_state=SPLIT_SEED, stratify=labels)
    y = torch.from_numpy(labels)
    return checked(Dataset("digits", x[train], y[train], x[test], y[test], classes=10))
