"""LEAF's files: JSON with one entry a user, in the folders train and test, or all of them in one.

Caldas, Duddu, Wu, Li, Konečný, McMahan, Smith, Talwalkar. LEAF: A Benchmark for Federated Settings. 2018.
arXiv 1812.01097.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtangent import home
from fedtangent.datasets._check import checked
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

Users = dict[str, tuple[np.ndarray, np.ndarray]]


def leaf_files(
    name: str,
    data_dir: str | Path | None,
    shape: tuple[int, ...] | None,
    classes: int,
    users: int | None,
    most: int | None = None,
) -> Dataset:
    """The rows of LEAF's folders train and test, in the order of users; `site_train` is the user.

    Args:
        name: Of the data set.
        data_dir: The folder that holds train and test, or it in a folder `data`.
        shape: Of a row's inputs; none is as they stand.
        classes: Their number; 0 is read off the labels.
        users: Only the first so many users in the order of their names; none is all.
        most: Only rows whose label is below this; none is all.

    Raises:
        ValueError: No such folder, a file of another form, or rows of other shapes.
    """
    if users is not None and users < 1:
        raise SettingError(f"`users` must be at least 1; got {users}. Leave it out for all.")
    root = home.path("." if data_dir is None else data_dir)
    root = root / "data" if (root / "data" / "train").is_dir() else root
    if data_dir is None or not all((root / part).is_dir() for part in ("train", "test")):
        got = "none" if data_dir is None else repr(str(data_dir))
        raise SettingError(
            f"`data_dir` must be a folder of LEAF's with the folders train and test; got {got}. Run LEAF's "
            "preprocess.sh, or check the path."
        )
    trained, held = (_users(root / part, most) for part in ("train", "test"))
    names = sorted(trained)[:users]
    # the users of the test part may be others, of whom nobody trains
    tested = [user for user in names if user in held] or sorted(held)[:users]
    (x_train, y_train), (x_test, y_test) = (_rows(trained, names, shape, "train"), _rows(held, tested, shape, "test"))
    site = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(trained[user][1]) for user in names]))
    return checked(Dataset(name, x_train, y_train, x_test, y_test, classes, site))


def _users(folder: Path, most: int | None) -> Users:
    """Inputs in float32 and labels of every user of a folder's files, of those with a label below `most`."""
    found: Users = {}
    for path in sorted(folder.glob("*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            own = {str(user): _arrays(told["user_data"][user]) for user in told["users"]}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SettingError(
                f"`data_dir` must hold LEAF's JSON, users and their user_data of x and y in numbers; got {path.name!r} "
                f"({type(error).__name__}: {str(error)[:60]}). Make it anew, and numbers of texts and images."
            ) from error
        if twice := sorted(own.keys() & found.keys()):
            raise SettingError(
                f"`data_dir` must have each user in one file of {folder.name}; got {twice[0]!r} in two. Make it anew."
            )
        found |= own
    if most is not None:
        found = {user: (x[y < most], y[y < most]) for user, (x, y) in found.items()}
    found = {user: (x, y) for user, (x, y) in found.items() if len(y)}
    if not found:
        raise SettingError(f"`data_dir` must hold .json files of users in {folder.name}; got none. Check the path.")
    return found


def _arrays(told: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(told["x"], dtype=np.float32), np.asarray(told["y"])
    if len(x) != len(y) or (len(y) and (y.ndim != 1 or y.dtype.kind not in "iu")):
        raise ValueError(f"{len(x)} x and {len(y)} y of {y.dtype}")
    return x, y.astype(np.int64)


def _rows(held: Users, users: Sequence[str], shape: tuple[int, ...] | None, part: str) -> tuple[Tensor, Tensor]:
    first = held[users[0]][0]
    odd = next((user for user in users if held[user][0].shape[1:] != first.shape[1:]), None)
    if odd is not None:
        raise SettingError(
            f"`data_dir` must hold rows of one shape, {first.shape[1:]}; got {held[odd][0].shape[1:]} of user {odd!r} "
            f"in {part}. Make it anew."
        )
    x, y = (np.concatenate([held[user][place] for user in users]) for place in (0, 1))
    if shape is not None:
        if math.prod(shape) != x[0].size or min(shape, default=1) < 1:
            raise SettingError(
                f"`shape` must be that of a row's {x[0].size} inputs; got {shape}. Give sizes whose product it is."
            )
        x = x.reshape(len(x), *shape)
    return torch.from_numpy(x), torch.from_numpy(y)
