"""Texts through a tokenizer's file: ids by hand, masks, and what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedtangent
from fedtangent import cli
from fedtangent.datasets.text import text
from fedtangent.extras import imported

pytest.importorskip("pyarrow", reason="needs fedtangent[table]")
tokenizers = pytest.importorskip("tokenizers", reason="needs fedtangent[text]")

ROWS = 'said,topic,town\n"good, good day",0,a\nbad night,1,b\n,1,a\nday good strange day bad,0,a\n'
WORDS = {"[UNK]": 0, "bad": 1, "day": 2, "good": 3, "night": 4}


def written(folder: Path, words: dict[str, int] | None = None, rows: str = ROWS) -> dict[str, Any]:
    """The options of a few texts with a tokenizer of words."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words or WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = imported("tokenizers.pre_tokenizers", "text", "to test").Whitespace()
    made.enable_padding(length=9)  # as many files have it: the data set's own length counts
    made.save(str(folder / "tokenizer.json"))
    (folder / "texts.csv").write_text(rows)
    (folder / "test.csv").write_text(ROWS.splitlines()[0] + "\nnight,1,b\n")
    given: dict[str, Any] = {"data_dir": folder / "texts.csv", "test_file": folder / "test.csv", "text": "said"}
    return given | {"label": "topic", "tokenizer": folder / "tokenizer.json", "length": 4}


def test_ids_by_hand(tmp_path: Path) -> None:
    found = text(**written(tmp_path), site="town")
    expected = [
        [4, 1, 4, 3],
        [2, 5, 0, 0],
        [0, 0, 0, 0],
        [3, 4, 1, 3],
    ]  # one more than the tokenizer's; a comma is unknown
    assert found.x_train.tolist() == expected and found.x_test.tolist() == [[5, 0, 0, 0]]
    assert found.y_train.tolist() == [0, 1, 1, 0] and found.classes == 2
    assert found.site_train is not None and found.site_train.tolist() == [0, 1, 0, 0]


def test_a_padding_of_id_0_keeps_the_tokenizers_ids(tmp_path: Path) -> None:
    words = {"[PAD]": 0, "[UNK]": 5, "bad": 1, "day": 2, "good": 3, "night": 4}
    assert text(**written(tmp_path, words)).x_train[1].tolist() == [1, 4, 0, 0]


def test_masks_are_for_a_model_of_ones_own(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "<pad>": 5, "bad": 1, "day": 2, "good": 3, "night": 4}
    found = text(**written(tmp_path, words), masks=True)
    assert found.x_train["input_ids"][1].tolist() == [1, 4, 5, 5]
    assert found.x_train["attention_mask"].sum(1).tolist() == [4, 2, 0, 4]

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.last = nn.Embedding(6, 3), nn.Linear(3, 2)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            mask = attention_mask[..., None]
            read: Tensor = self.last((self.words(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1))
            return read

    torch.manual_seed(0)
    result = fedtangent.run("fedavg", dataset=found, model=Mean(), nodes=2, partition="iid", rounds=1)
    assert np.isfinite(result.rounds[0]["loss"])


def test_other_tokenizers_are_another_schema(tmp_path: Path) -> None:
    first = text(**written(tmp_path))
    other = text(**written(tmp_path, WORDS | {"day": 3, "good": 2}))
    assert first.schema != other.schema and first.schema == text(**written(tmp_path)).schema


def test_classes_that_are_agreed_on(tmp_path: Path) -> None:
    given = written(tmp_path)
    (tmp_path / "columns.json").write_text(json.dumps({"classes": ["0", "1", "2"]}))
    assert text(**given, columns=tmp_path / "columns.json").classes == 3


def test_from_the_command_line(tmp_path: Path) -> None:
    given = written(tmp_path, rows=ROWS + "good night,1,b\nbad bad,0,b\n")
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    small = ["--model", "transformer", "--ids", "6", "--width", "4", "--layers", "1", "--rounds", "1", "--partition"]
    assert cli.main(["run", "fedavg", "--dataset", "text", *words, *small, "natural", "--site", "town"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "absent.json"}, r"^`tokenizer` must be the path of a tokenizer.json; got 'absent.json'. Check"),
        ({"tokenizer": __file__}, r"^`tokenizer` must be a file of the tokenizers library, .*got 'test_text.py' \("),
        ({"length": 0}, r"^`length` must be at least 1 and below"),
        ({"text": "body"}, r"^`text` must name a column of the table; got 'body'. Choose one of said, topic, town"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        text(**(written(tmp_path) | change))


def test_without_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = written(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(
        ValueError, match=r"^`tokenizers` must be installed to read texts; got none. Use pip install 'fed"
    ):
        text(**given)
