"""Every new data set with a model that suits it, from the command line to a record."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedtangent import cli
from tests.datasets import test_agnews, test_cifar, test_heart_disease, test_idx_images


def recorded(words: list[str], out: Path) -> dict[str, object]:
    assert cli.main(["run", *words, "--rounds", "1", "--out", str(out)]) == 0
    (entry,) = map(json.loads, (out / "rounds.jsonl").read_text().splitlines())
    assert np.isfinite(entry["loss"])
    manifest: dict[str, object] = json.loads((out / "manifest.json").read_text())
    return manifest


@pytest.mark.parametrize("method", ["fedavg", "fedkfac", "ntkdfl"])
def test_hospitals_as_nodes(method: str, tmp_path: Path) -> None:
    folder = test_heart_disease.written(tmp_path / "heart_disease")
    for path in folder.iterdir():
        path.write_text(path.read_text() * 4)
    words = [method, "--dataset", "heart_disease", "--data-dir", str(folder), "--partition", "natural"]
    graph = ["--topology", "complete"] if method == "ntkdfl" else []
    assert recorded([*words, "--model", "linear", *graph], tmp_path / "run")["rows"] == [13, 13, 13, 13]


def test_texts(tmp_path: Path) -> None:
    words = ["fedavg", "--dataset", "agnews", "--data-dir", str(test_agnews.saved(tmp_path)), "--length", "5"]
    small = ["--model", "transformer", "--ids", "8", "--words", "6", "--width", "4", "--layers", "1"]
    found = recorded([*words, *small, "--partition", "iid", "--nodes", "2"], tmp_path / "run")
    assert found["rows"] == [2, 2]


def test_more_ids_than_the_model_has_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "fedavg", "--dataset", "agnews", "--data-dir", str(test_agnews.saved(tmp_path)), "--nodes", "2"]
    assert cli.main([*words, "--model", "transformer", "--ids", "12", "--words", "99", "--width", "4"]) == cli.WRONG
    assert "`ids` must be above every token id of the data; got 12." in capsys.readouterr().err


@pytest.mark.parametrize(("dataset", "model"), [("cifar10", "resnet8"), ("cifar100", "lenet")])
def test_colour_images(dataset: str, model: str, tmp_path: Path) -> None:
    test_cifar.written(tmp_path, dataset)
    words = ["fedavg", "--dataset", dataset, "--data-dir", str(tmp_path), "--model", model]
    recorded([*words, "--partition", "iid", "--nodes", "2"], tmp_path / "run")


def test_grey_images(tmp_path: Path) -> None:
    test_idx_images.written(tmp_path / "FashionMNIST" / "raw", zipped=True)
    words = ["fedavg", "--dataset", "fashion_mnist", "--data-dir", str(tmp_path), "--model", "fedavg_cnn"]
    recorded([*words, "--partition", "iid", "--nodes", "3"], tmp_path / "run")
