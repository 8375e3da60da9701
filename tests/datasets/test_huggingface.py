"""Hugging Face's Dataset: images, texts, arrays and columns, from Python and from disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedtangent
from fedtangent import cli
from fedtangent.datasets.huggingface import huggingface
from fedtangent.datasets.table import table
from tests.datasets import test_text
from tests.datasets.test_image_folder import standardised
from tests.datasets.test_table import rows_of, saved

datasets = pytest.importorskip("datasets", reason="needs fedtangent[huggingface]")
RNG = np.random.default_rng(6)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def images(count: int) -> tuple[Any, list[np.ndarray]]:
    pixels = [RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in range(count)]
    label = datasets.ClassLabel(names=["cat", "dog", "fox"])
    features = datasets.Features({"img": datasets.Image(), "what": label, "who": datasets.Value("string")})
    rows = {"img": pixels, "what": [row % 2 for row in range(count)], "who": [f"u{row % 3}" for row in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features), pixels


def test_images_keep_the_classes_of_their_label(tmp_path: Path) -> None:
    (train, seen), (test, unseen) = images(7), images(3)
    both = datasets.DatasetDict({"train": train, "test": test})
    both.save_to_disk(tmp_path / "my set")
    for given in (both, tmp_path / "my set"):
        found = huggingface(given, label="what", site="who")
        torch.testing.assert_close(found.x_train, standardised(seen, seen), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.x_test, standardised(seen, unseen), atol=1e-5, rtol=1e-5)
        assert found.classes == 3 and found.y_test.tolist() == [0, 1, 0]
        assert found.site_train is not None and found.site_train.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_share_of_one_dataset_that_was_shuffled(tmp_path: Path) -> None:
    held, pixels = images(10)
    order = [3, 1, 4, 0, 5, 9, 2, 6]
    found = huggingface(held.select(order), label="what", inputs=("img",), test_share=0.25)
    assert len(found.y_train) == 6 and len(found.y_test) == 2
    from fedtangent.datasets._labels import kept

    at = np.array(order)[~kept(np.zeros(8), 0.25)]
    train = [pixels[row] for row in at]
    torch.testing.assert_close(found.x_train, standardised(train, train), atol=1e-5, rtol=1e-5)
    assert found.y_train.tolist() == [row % 2 for row in at]


def test_columns_are_encoded_as_a_tables(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.parquet", rows_of(61))
    expected = table(path, label="kind", site="clinic", categorical=["code"])
    held = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path))
    found = huggingface(held, label="kind", site="clinic", categorical=["code"])
    for name in ("x_train", "y_train", "x_test", "y_test", "site_train"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert huggingface(held, label="kind", inputs=("always", "town")).x_train.shape == (49, 5)


@pytest.mark.parametrize("kind", ["list", "array"])
def test_arrays_stay_as_they_are(kind: str) -> None:
    values = RNG.normal(size=(9, 2, 3)).astype(np.float32)
    feature = {
        "list": datasets.List(datasets.List(datasets.Value("float32"))),
        "array": datasets.Array2D((2, 3), "float32"),
    }
    features = datasets.Features({"x": feature[kind], "y": datasets.Value("float64")})
    held = datasets.Dataset.from_dict({"x": values.tolist(), "y": values[:, 0, 0].tolist()}, features=features)
    found = huggingface(
        datasets.DatasetDict({"a": held, "b": held.select([3])}), label="y", regression=True, train="a", test="b"
    )
    torch.testing.assert_close(found.x_train, torch.from_numpy(values))
    assert found.x_test.shape == (1, 2, 3) and found.y_test.item() == pytest.approx(float(values[3, 0, 0]))


def test_texts_through_a_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs fedtangent[text]")
    given = test_text.written(tmp_path)
    held = datasets.Dataset.from_dict({"said": ["bad night", "day", "good", None], "topic": ["a", "b", "b", "a"]})
    found = huggingface(held, label="topic", tokenizer=given["tokenizer"], length=3, test_share=0.25)
    assert {tuple(row) for row in [*found.x_train.tolist(), *found.x_test.tolist()]} == {
        (2, 5, 0), (3, 0, 0), (4, 0, 0), (0, 0, 0)}  # fmt: skip
    with pytest.raises(ValueError, match=r"^`inputs` must be the one column of texts; got said, more. Name it"):
        huggingface(held.add_column("more", ["x"] * 4), label="topic", tokenizer=given["tokenizer"])


def test_a_run_from_python_and_from_the_command_line(tmp_path: Path) -> None:
    held, _ = images(12)
    found = huggingface(held, label="what", site="who")
    assert len(fedtangent.run("fedavg", dataset=found, partition="natural", rounds=1).manifest["rows"]) == 3
    held.save_to_disk(tmp_path / "my set")
    words = ["run", "fedavg", "--dataset", "huggingface", "--data-dir", str(tmp_path / "my set"), "--label", "what"]
    assert cli.main([*words, "--site", "who", "--partition", "natural", "--rounds", "1"]) == 0


def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, _ = images(4)
    ragged = datasets.Dataset.from_dict({"x": [[1.0], [2.0, 3.0]], "y": [0, 1]})
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (None, {}, r"^`data_dir` must be a folder that save_to_disk has written; got 'None'"),
        (tmp_path, {}, r"^`data_dir` must be a folder that save_to_disk has written; got '.*' \(Directory"),
        ([1, 2], {}, r"^`data_dir` must be a Dataset or a DatasetDict; got list"),
        (held.select([]), {}, r"^`data_dir` must have at least one row in every split"),
        (
            held,
            {"label": "that"},
            r"^`data_dir` must have the columns that are named, .*got img, what, who, not 'that'",
        ),
        (held, {"inputs": ("pic",)}, r"^`data_dir` must have the columns that are named, .*not 'pic'"),
        (held.select_columns(["what"]), {}, r"^`inputs` must be a column beside label and site; got none. Name it"),
        (
            datasets.DatasetDict({"train": held, "test": held.remove_columns("img")}),
            {},
            r"^`data_dir` must have the columns that are named, in every split; got what, who, not 'img'",
        ),
        (datasets.DatasetDict({"a": held}), {}, r"^`train` must be one of its splits, a; got 'train'"),
        (held, {"label": "who", "inputs": ("img", "what")}, r"^`img` must be a column of numbers or texts; got struct"),
        (ragged, {"label": "y", "test_share": 0.5}, r"^`x` must hold arrays|^`x_test` must have rows of the shape"),
    ]
    for given, options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            huggingface(given, **({"label": "what"} | options))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"^`datasets` must be installed to read a Dataset of Hugging Face's; got none"
    ):
        huggingface(held, label="what")
