"""Texts as the numbers of a tokenizer's file, all of one length; by the tokenizers library."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedtangent import home
from fedtangent.datasets._arrow import column
from fedtangent.datasets._columns import as_texts
from fedtangent.errors import SettingError
from fedtangent.extras import imported

_PADS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")


def in_tokens(
    text: str, path: str | Path | None, length: int, masks: bool
) -> Callable[[Any, Any, Sequence[str]], tuple[Any, Any, str]]:
    """A function of training and test rows and the classes that gives their token ids and a digest of the tokenizer.

    Args:
        text: The column of the texts.
        path: The tokenizer's file, tokenizer.json.
        length: Tokens of a row: longer ones are cut, shorter ones padded at the end.
        masks: Whether rows are a dict of input_ids, with the tokenizer's own ids, and attention_mask.

    Raises:
        ValueError: A length below 1, or a file that is none.
    """
    if not 1 <= length < 2**20:
        raise SettingError(f"`length` must be at least 1 and below 2**20; got {length}. Use a value such as 128.")
    reader = _tokenizer(path)
    reader.no_padding()
    reader.enable_truncation(length)
    vocabulary = reader.get_vocab()
    pad = next((vocabulary[name] for name in _PADS if name in vocabulary), None)
    shift = 0 if pad == 0 else 1

    def rows(part: Any) -> Any:
        texts = [told or "" for told in as_texts(column(part, text, "text"), text)]
        ids, there = np.zeros((len(texts), length), dtype=np.int64), np.zeros((len(texts), length), dtype=np.int64)
        for row, one in enumerate(reader.encode_batch(texts)):
            ids[row, : len(one.ids)], there[row, : len(one.ids)] = one.ids, 1
        if masks:
            own = np.where(there == 1, ids, pad or 0)
            return {"input_ids": torch.from_numpy(own), "attention_mask": torch.from_numpy(there)}
        return torch.from_numpy(np.where(there == 1, ids + shift, 0).astype(np.float32))

    def inputs(train: Any, test: Any, classes: Sequence[str]) -> tuple[Any, Any, str]:
        told = f"{reader.to_str()}{length}{masks}{list(classes)}"
        return rows(train), rows(test), hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    return inputs


def _tokenizer(path: str | Path | None) -> Any:
    library = imported("tokenizers", "text", "to read texts")
    if path is None or not home.path(path).is_file():
        got = "none" if path is None else repr(str(path))
        raise SettingError(f"`tokenizer` must be the path of a tokenizer.json; got {got}. Check the path.")
    try:
        return library.Tokenizer.from_file(str(home.path(path)))
    except Exception as error:  # the library raises a plain Exception
        told = " ".join(str(error).split())[:100].rstrip(".")
        raise SettingError(
            f"`tokenizer` must be a file of the tokenizers library, tokenizer.json; got {Path(path).name!r} ({told}). "
            "Save one with Tokenizer.save."
        ) from error
