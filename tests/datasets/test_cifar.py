"""CIFAR-10 and CIFAR-100: both layouts give the same rows, and a pickle can be refused but never run."""

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.datasets._pickled import unpickled
from fedtangent.datasets.cifar10 import cifar10
from fedtangent.datasets.cifar100 import cifar100
from fedtangent.shard import Dataset
from tests.datasets.shared import NEEDS_SHARED, unpacked

RNG = np.random.default_rng(4)
SETS: dict[str, tuple[Callable[..., Dataset], str, list[str], str, str]] = {
    "cifar10": (cifar10, "cifar-10-batches-py", [f"data_batch_{k}" for k in range(1, 6)], "test_batch", "labels"),
    "cifar100": (cifar100, "cifar-100-python", ["train"], "test", "fine_labels"),
}


def batch(rows: int, labels: str) -> dict[str, Any]:
    return {
        "data": RNG.integers(0, 256, (rows, 3072), dtype=np.uint8),
        labels: RNG.integers(0, 10, rows).tolist(),
        "filenames": ["x.png"] * rows,
    }


def written(root: Path, name: str, protocol: int = 2) -> dict[str, np.ndarray]:
    """Torchvision's layout in a folder; what it holds, as arrays of an .npz file."""
    _, folder, train, test, labels = SETS[name]
    (root / folder).mkdir(parents=True)
    batches = {file: batch(3 + number, labels) for number, file in enumerate([*train, test])}
    for file, content in batches.items():
        (root / folder / file).write_bytes(pickle.dumps(content, protocol))
    train_x = np.concatenate([batches[file]["data"] for file in train]).reshape(-1, 3, 32, 32)
    train_y = np.concatenate([batches[file][labels] for file in train])
    test_x, test_y = batches[test]["data"].reshape(-1, 3, 32, 32), np.array(batches[test][labels])
    return {"x_train": train_x, "y_train": train_y, "x_test": test_x, "y_test": test_y}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", SETS)
def test_both_layouts_give_the_same_rows(name: str, protocol: int, tmp_path: Path) -> None:
    load = SETS[name][0]
    arrays = written(tmp_path / "torchvision", name, protocol)
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / f"{name}.npz", **arrays)
    first, other = load(tmp_path / "torchvision"), load(str(tmp_path / "npz"))
    assert first.name == other.name == name and first.classes == other.classes == int(name[5:])
    for one, same in zip(first[1:5], other[1:5], strict=True):
        assert torch.equal(one, same)
    assert first.y_train.tolist() == arrays["y_train"].tolist()


def test_channels_are_scaled_by_the_sets_constants(tmp_path: Path) -> None:
    x, data = written(tmp_path, "cifar10")["x_train"], cifar10(tmp_path)
    blue = (x[2, 2, 5, 7] / 255 - 0.4465) / 0.2616
    red = (x[2, 0, 5, 7] / 255 - 0.4914) / 0.2470
    assert data.x_train[2, 2, 5, 7].item() == pytest.approx(blue, rel=1e-5)
    assert data.x_train[2, 0, 5, 7].item() == pytest.approx(red, rel=1e-5)


def test_a_part_of_cifar100_is_recorded_as_such_and_the_whole_comes_first(tmp_path: Path) -> None:
    arrays = written(tmp_path / "else", "cifar100")
    np.savez(tmp_path / "cifar100_subset.npz", **arrays)
    assert cifar100(tmp_path).name == "cifar100_subset"
    np.savez(tmp_path / "cifar100.npz", **arrays)
    assert cifar100(tmp_path).name == "cifar100"


def python_2(pixels: bytes, labels: bytes) -> bytes:
    """The very instructions of the published files, which Python 2 wrote: texts as bytes, and integers for booleans."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x01M\x00\x0c\x86"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
    )
    return b"\x80\x02}(U\x04data" + array + struct.pack("<i", 3072) + pixels + b"tbU\x06labels](" + labels + b"eu."


def test_a_file_as_python_2_wrote_it(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, 3072, dtype=np.uint8)
    (tmp_path / "batch").write_bytes(python_2(pixels.tobytes(), b"K\x07"))
    found = unpickled(tmp_path / "batch")
    assert found["labels"] == [7] and found["data"].shape == (1, 3072) and found["data"].dtype == np.uint8
    assert np.array_equal(found["data"][0], pixels)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.call = function, given

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (Call(eval, "open('touched', 'w').close()"), "eval"),
        (Call(Path.touch, Path("touched")), "getattr"),
        (Call(np.load, "touched"), "load"),
        (Call(__import__("codecs").encode, "x", "rot13"), "rot13"),
    ],
)
def test_a_pickle_that_calls_anything_else_is_refused(
    call: Call, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "cifar10")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(pickle.dumps({"data": call}, 2))
    with pytest.raises(ValueError, match=rf"^`.*data_batch_3` must be a whole pickle of plain .*{named}") as caught:
        cifar10(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "must hold the entries data and labels; got another form"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}), "must hold the entries data and labels; got another"),
        (pickle.dumps({"data": np.zeros((2, 784), np.uint8), "labels": [0, 1]}), "must hold images as rows of 3072"),
        (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}), "must hold 8-bit images of shape"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}), "must hold one integer label for each"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": ["0", "1"]}), "must hold one integer label"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]})[:-900], "must be a whole pickle"),
        (b"", "must be a whole pickle of plain arrays; got EOFError"),
        (b"<html>", "must be a whole pickle"),
    ],
)
def test_a_damaged_batch_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    written(tmp_path, "cifar10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^`.*data_batch_2` {re.escape(message)}.*Unpack the archive anew\.$"):
        cifar10(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`data_dir` must be given and hold cifar-10-batches-py or cifar10.npz; got"):
        cifar10()
    with pytest.raises(ValueError, match=r"^`data_dir` must hold cifar-100-python or cifar100.npz or .*without it\. N"):
        cifar100(tmp_path)
    with pytest.raises(ValueError, match=r"^`data_dir` must hold cifar-10-batches-py.*'.*absent', which is no folder"):
        cifar10(tmp_path / "absent")
    written(tmp_path, "cifar10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(ValueError, match=r"^`data_dir` must hold cifar-10-batches-py/data_batch_4; got none. Unpack"):
        cifar10(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros((4, 32, 32, 3), np.uint8)}, r"^`.*cifar10.npz` must hold 8-bit images of shape \(rows, 3"),
        ({"x_train": np.zeros((9, 3, 32, 32))}, r"must hold 8-bit images .*got float64 of shape \(9, 3, 32, 32\)"),
        ({"y_test": np.zeros(3, int)}, r"must hold one integer label for each of its 8 images; got int64 of shape \(3"),
        ({"y_test": np.full(8, 10)}, r"^`y_test` must hold labels from 0 to 9; got 10"),
        ({"y_test": None}, r"^`data_dir` must be a .npz file with .*without y_test"),
    ],
)
def test_an_archive_of_another_form(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = written(tmp_path / "else", "cifar10") | change
    np.savez(tmp_path / "cifar10.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        cifar10(tmp_path)


def test_a_truncated_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **written(tmp_path / "else", "cifar10"))
    (tmp_path / "cifar10.npz").write_bytes((tmp_path / "cifar10.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"^`data_dir` must be a whole .npz file of plain numbers; got"):
        cifar10(tmp_path)


@NEEDS_SHARED
def test_the_real_subset_of_cifar100(tmp_path: Path) -> None:
    data = cifar100(unpacked("cifar100_subset", tmp_path))
    assert data.x_train.shape == (10_000, 3, 32, 32) and data.x_test.shape == (2_000, 3, 32, 32)
    assert np.bincount(data.y_train).tolist() == [100] * 100 and np.bincount(data.y_test).tolist() == [20] * 100
    torch.testing.assert_close(data.x_train.mean((0, 2, 3)), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(data.x_train.std((0, 2, 3)), torch.ones(3), atol=0.02, rtol=0)


@NEEDS_SHARED
@pytest.mark.slow
def test_the_real_cifar10(tmp_path: Path) -> None:
    data = cifar10(unpacked("cifar10", tmp_path))
    assert data.x_train.shape == (49_904, 3, 32, 32) and data.x_test.shape == (9_975, 3, 32, 32)
    torch.testing.assert_close(data.x_train.mean((0, 2, 3)), torch.zeros(3), atol=0.002, rtol=0)
    torch.testing.assert_close(data.x_train.std((0, 2, 3)), torch.ones(3), atol=0.002, rtol=0)
    assert data.y_train[:8].tolist() == [6, 9, 9, 4, 1, 1, 2, 7]
