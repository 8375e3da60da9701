"""LEAF's JSON: users over several files, the digits alone, and files of another form."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import cli
from fedtangent.datasets.femnist import femnist
from fedtangent.datasets.leaf import leaf

RNG = np.random.default_rng(8)
USERS = {"f2": [3, 61, 3], "f0": [10, 9], "f1": [40], "f3": [0, 5, 11, 12]}  # and their labels


def user_data(names: list[str], inputs: int, test: bool = False) -> dict[str, Any]:
    data = {}
    for name in names:
        y = USERS[name][:1] if test else USERS[name]
        data[name] = {"x": RNG.uniform(size=(len(y), inputs)).round(3).tolist(), "y": y}
    return {"users": names, "num_samples": [len(data[name]["y"]) for name in names], "user_data": data}


def written(folder: Path, inputs: int = 784) -> dict[str, Any]:
    """A folder of two files to train on and one to test on; what they hold by user."""
    parts = {"train/b.json": ["f2", "f1"], "train/a.json": ["f3", "f0"], "test/a.json": ["f0", "f2", "f3"]}
    found = {}
    for name, users in parts.items():
        told = user_data(users, inputs, name.startswith("test"))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(told))
        found[name.partition("/")[0]] = found.get(name.partition("/")[0], {}) | told["user_data"]
    return found


def test_writers_in_the_order_of_their_names(tmp_path: Path) -> None:
    told = written(tmp_path / "my data" / "data")
    found = femnist(tmp_path / "my data")
    expected = [row for user in ("f0", "f1", "f2", "f3") for row in told["train"][user]["x"]]
    torch.testing.assert_close(found.x_train, torch.tensor(expected).reshape(-1, 1, 28, 28))
    assert found.site_train is not None and found.site_train.tolist() == [0, 0, 1, 2, 2, 2, 3, 3, 3, 3]
    assert found.y_train.tolist() == [10, 9, 40, 3, 61, 3, 0, 5, 11, 12] and found.classes == 62
    assert found.y_test.tolist() == [10, 3, 0]


def test_the_digits_of_some_writers(tmp_path: Path) -> None:
    written(tmp_path)
    found = femnist(tmp_path, digits=True, users=2)  # f1 has none
    assert found.y_train.tolist() == [9, 3, 3] and found.classes == 10 and found.y_test.tolist() == [3]
    assert found.site_train is not None and found.site_train.tolist() == [0, 1, 1]


def test_any_other_of_leafs_data_sets_of_numbers(tmp_path: Path) -> None:
    written(tmp_path, inputs=6)
    assert leaf(tmp_path, classes=62).x_train.shape == (10, 6)
    assert leaf(tmp_path, shape=(1, 2, 3), classes=70).x_test.shape == (3, 1, 2, 3)
    (tmp_path / "test" / "a.json").write_text(json.dumps(user_data(["f1"], 6)).replace("f1", "g"))
    assert leaf(tmp_path, users=1, classes=62).y_test.tolist() == [40]  # a user of whom nobody trains


def test_writers_are_the_natural_partition(tmp_path: Path) -> None:
    written(tmp_path / "my data")
    words = ["run", "fedavg", "--dataset", "femnist", "--data-dir", str(tmp_path / "my data"), "--model", "lenet"]
    words += ["--partition", "natural", "--rounds", "1", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["rows"] == [2, 1, 3, 4]


def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^`data_dir` must be a folder of LEAF's with the folders train and test; got no"
    ):
        leaf()
    written(tmp_path, inputs=6)
    for options, message in (
        ({"shape": (2, 2)}, r"^`shape` must be that of a row's 6 inputs; got \(2, 2\)"),
        ({"users": 0}, r"^`users` must be at least 1; got 0"),
        ({"classes": 5}, r"^`y_train` must hold labels from 0 to 4; got 61"),
    ):
        with pytest.raises(ValueError, match=message):
            leaf(tmp_path, **options)  # type: ignore[arg-type]
    odd = json.dumps(user_data(["f1"], 5)).replace("f1", "odd")
    for text, message in (
        ("{", r"^`data_dir` must hold LEAF's JSON, users .*got 'c.json' \(JSONDecodeError"),
        (
            '{"users": ["a"], "user_data": {"a": {"x": ["text"], "y": [1]}}}',
            r"^`data_dir` must hold LEAF's JSON.*\(Value",
        ),
        (
            '{"users": ["a"], "user_data": {"a": {"x": [[1]], "y": [0.5]}}}',
            r"LEAF's JSON.*ValueError: 1 x and 1 y of flo",
        ),
        ('{"users": ["a"], "user_data": {"a": {"x": [[1]], "y": []}}}', r"LEAF's JSON.*ValueError: 1 x and 0 y"),
        ('{"users": ["a"]}', r"LEAF's JSON.*KeyError"),
        (json.dumps(user_data(["f0"], 6)), r"^`data_dir` must have each user in one file of train; got 'f0' in two"),
        (odd, r"^`data_dir` must hold rows of one shape, \(6,\); got \(5,\) of user 'odd' in train"),
    ):
        (tmp_path / "train" / "c.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            leaf(tmp_path)
    for path in (tmp_path / "train").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"^`data_dir` must hold .json files of users in train; got none"):
        leaf(tmp_path)
