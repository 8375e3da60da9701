"""agnews: 120,000 + 7,600 news items as token ids, four classes (world, sports, business, science and technology).

Zhang, Zhao, LeCun. Character-level Convolutional Networks for Text Classification. NeurIPS 2015. arXiv 1509.01626.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedtangent.datasets._check import checked
from fedtangent.datasets._files import existing, stored
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

FILES = ("agnews_tokens.npz", "agnews.npz", "agnews/agnews_tokens.npz")
PARTS = ("tokens", "offsets", "labels")


def agnews(data_dir: str | Path | None = None, *, length: int = 64, words: int = 30_331) -> Dataset:
    """AG News as (rows, length) token ids, 0 for padding at the end, 1 for the most frequent word, in float32.

    By default ids go to 30,332, which with padding and unknown are FedPart's 30,333: a word must occur five times. One
    item in twenty is longer than 64 tokens. The file holds flat arrays `{split}_tokens` (ids from 1), `{split}_offsets`
    (item i is tokens[offsets[i] : offsets[i + 1]]) and `{split}_labels` for the splits train and test.

    Args:
        data_dir: The folder that holds `agnews_tokens.npz` or `agnews.npz`.
        length: Tokens of an item: shorter ones are padded, of longer ones the first are kept.
        words: How many of the most frequent words keep their ids; all others become the unknown one, words + 1.

    Raises:
        ValueError: The file is missing, damaged or of another form; a length or number of words below 1.
    """
    for name, value in (("length", length), ("words", words)):
        if not 1 <= value < 2**24:  # up to where float32 counts
            raise SettingError(f"`{name}` must be at least 1 and below 2**24; got {value}. Use a value such as 64.")
    path = existing(data_dir, FILES)
    arrays = stored(path, [f"{split}_{part}" for split in ("train", "test") for part in PARTS])
    (x_train, y_train), (x_test, y_test) = (_rows(path, arrays, split, length, words) for split in ("train", "test"))
    return checked(Dataset("agnews", x_train, y_train, x_test, y_test, classes=4))


def _rows(path: Path, arrays: dict[str, np.ndarray], split: str, length: int, words: int) -> tuple[Tensor, Tensor]:
    """Ids (rows, length) and labels of a split."""
    tokens, offsets, labels = (arrays[f"{split}_{part}"] for part in PARTS)
    for part, array in zip(PARTS, (tokens, offsets, labels), strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise SettingError(
                f"`{split}_{part}` must be a list of integers; got {array.dtype} {array.shape} in {path.name}. "
                "Write the file anew."
            )
    cuts = offsets.astype(np.int64)
    if len(cuts) != len(labels) + 1 or cuts[0] != 0 or cuts[-1] != len(tokens) or np.any(np.diff(cuts) < 0):
        raise SettingError(
            f"`{split}_offsets` must rise from 0 to the number of tokens, {len(tokens)}, one more than labels; got "
            f"{len(cuts)} offsets and {len(labels)} labels in {path.name}. Write the file anew."
        )
    if len(tokens) and tokens.min() < 1:
        raise SettingError(
            f"`{split}_tokens` must be ids from 1, since 0 is the padding; got {tokens.min()} in {path.name}. Add 1."
        )
    at = np.arange(length)
    there = at < np.diff(cuts)[:, None]
    ids = np.zeros(there.shape, np.float32)
    ids[there] = np.minimum(tokens[(cuts[:-1, None] + at)[there]].astype(np.int64), words + 1)
    return torch.from_numpy(ids), torch.from_numpy(labels.astype(np.int64))
