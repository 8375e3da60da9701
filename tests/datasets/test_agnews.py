"""AG News: padding, truncation and the vocabulary's limit, row by row; and every way in which a file can be wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.datasets.agnews import agnews
from tests.datasets.shared import NEEDS_SHARED, SHARED

TEXTS = {"train": [[3, 1, 8], [], [2, 9, 4, 1, 1, 7, 5], [6]], "test": [[5, 5, 5, 12, 2], [1, 2]]}
LABELS = {"train": [2, 0, 3, 1], "test": [0, 1]}


def arrays() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split, texts in TEXTS.items():
        found[f"{split}_tokens"] = np.array([token for text in texts for token in text], np.uint32)
        found[f"{split}_offsets"] = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
        found[f"{split}_labels"] = np.array(LABELS[split], np.uint8)
    return found


def saved(folder: Path, name: str = "agnews.npz", **change: Any) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{key: value for key, value in (arrays() | change).items() if value is not None})
    return folder


@pytest.mark.parametrize(("length", "words"), [(5, 6), (1, 99), (9, 2)])
def test_rows_are_padded_cut_and_limited(length: int, words: int, tmp_path: Path) -> None:
    data = agnews(saved(tmp_path), length=length, words=words)
    for x, y, split in ((data.x_train, data.y_train, "train"), (data.x_test, data.y_test, "test")):
        literal = []
        for text in TEXTS[split]:
            row = [token if token <= words else words + 1 for token in text[:length]]
            literal.append(row + [0] * (length - len(row)))
        assert x.tolist() == literal and x.dtype == torch.float32
        assert y.tolist() == LABELS[split] and y.dtype == torch.int64
    assert data.name == "agnews" and data.classes == 4


def test_narrow_tokens_bear_more_words_than_they_can_count(tmp_path: Path) -> None:
    narrow = {f"{split}_tokens": arrays()[f"{split}_tokens"].astype(np.uint8) for split in TEXTS}
    assert agnews(saved(tmp_path, **narrow), words=70_000).x_train[0, :3].tolist() == TEXTS["train"][0]


@pytest.mark.parametrize("name", ["agnews_tokens.npz", "agnews/agnews_tokens.npz"])
def test_where_the_file_may_lie(name: str, tmp_path: Path) -> None:
    assert agnews(saved(tmp_path, name)).x_train.shape == (4, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, r"^`data_dir` must be a .npz file with train_tokens, .*without test_labels"),
        ({"train_tokens": np.ones(11)}, r"^`train_tokens` must be a list of integers; got float64 \(11,\)"),
        ({"test_labels": np.zeros((2, 1), int)}, r"^`test_labels` must be a list of integers; got int64 \(2, 1"),
        ({"train_offsets": np.array([0, 3, 3, 10])}, r"^`train_offsets` must rise from 0 to the .*got 4 offsets and 4"),
        ({"train_offsets": np.array([1, 3, 3, 10, 11])}, r"^`train_offsets` must rise from 0 to .* tokens, 11"),
        ({"train_offsets": np.array([0, 3, 2, 10, 11])}, r"^`train_offsets` must rise from 0"),
        ({"train_offsets": np.array([0, 3, 3, 10, 12])}, r"^`train_offsets` must rise from 0"),
        ({"test_tokens": np.array([5, 5, 0, 12, 2, 1, 2])}, r"^`test_tokens` must be ids from 1, since 0 is .*; got 0"),
        ({"test_labels": np.array([0, 4])}, r"^`y_test` must hold labels from 0 to 3; got 4"),
    ],
)  # fmt: skip
def test_one_sentence_names_what_is_wrong(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        agnews(saved(tmp_path, **change))


def test_no_such_file_or_a_torn_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`data_dir` must hold agnews_tokens.npz or agnews.npz or .*without it\. N"):
        agnews(tmp_path)
    saved(tmp_path)
    (tmp_path / "agnews.npz").write_bytes((tmp_path / "agnews.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"^`data_dir` must be a whole .npz file of plain numbers; got"):
        agnews(tmp_path)


@pytest.mark.parametrize("option", ["length", "words"])
@pytest.mark.parametrize("value", [0, -3, 2**24])
def test_options_that_cannot_be(option: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^`{option}` must be at least 1 and below 2\*\*24; got {value}"):
        agnews(saved(tmp_path), **{option: value})


@NEEDS_SHARED
def test_the_real_set() -> None:
    data = agnews(SHARED / "agnews")
    assert data.x_train.shape == (120_000, 64) and data.x_test.shape == (7_600, 64)
    assert np.bincount(data.y_train).tolist() == [30_000] * 4 and np.bincount(data.y_test).tolist() == [1_900] * 4
    assert data.x_train.max() == 30_332  # the unknown word: with the padding FedPart's 30,333 ids
    assert (data.x_train > 0).sum(1).min() == 12
