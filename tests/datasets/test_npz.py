"""A user's own .npz file, and every way in which it can be wrong."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.datasets.npz import npz

RNG = np.random.default_rng(2)
GOOD: dict[str, Any] = {
    "x_train": RNG.normal(size=(7, 2, 3)),
    "y_train": np.array([0, 2, 1, 1, 0, 2, 1]),
    "x_test": RNG.normal(size=(4, 2, 3)),
    "y_test": np.array([2, 0, 1, 1]),
}


def saved(tmp_path: Path, **change: Any) -> Path:
    arrays = {name: value for name, value in (GOOD | change).items() if value is not None}
    np.savez(tmp_path / "mine.npz", **arrays)
    return tmp_path / "mine.npz"


def test_floats_stay_and_labels_count(tmp_path: Path) -> None:
    data = npz(saved(tmp_path))
    assert data.name == "mine" and data.classes == 3
    torch.testing.assert_close(data.x_train, torch.from_numpy(GOOD["x_train"]).float())
    assert data.y_test.tolist() == [2, 0, 1, 1]


def test_the_number_of_classes_is_given_where_the_training_rows_lack_some(tmp_path: Path) -> None:
    path = saved(tmp_path, y_test=np.array([2, 4, 1, 1]))
    assert npz(path, classes=6).classes == 6
    with pytest.raises(ValueError, match=r"`y_test` must hold labels from 0 to 2; got 4. .*give their number"):
        npz(path)
    with pytest.raises(ValueError, match="`y_test` must hold labels from 0 to 3; got 4"):
        npz(path, classes=4)
    with pytest.raises(ValueError, match="`classes` must not be negative; got -1"):
        npz(path, classes=-1)
    with pytest.raises(ValueError, match="`classes` must be 0 for targets that are floats; got 3"):
        npz(saved(tmp_path, y_train=RNG.normal(size=7), y_test=RNG.normal(size=4)), classes=3)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u4", "u8", "i1", ">i8"])
def test_any_integer_dtype_is_a_label(tmp_path: Path, dtype: str) -> None:
    data = npz(saved(tmp_path, y_train=GOOD["y_train"].astype(dtype)))
    assert data.y_train.tolist() == GOOD["y_train"].tolist() and data.y_train.dtype == torch.int64


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "longdouble"])
def test_any_float_dtype_is_an_input(tmp_path: Path, dtype: str) -> None:
    data = npz(saved(tmp_path, x_train=GOOD["x_train"].astype(dtype)))
    torch.testing.assert_close(data.x_train, torch.from_numpy(GOOD["x_train"]).float(), atol=2e-3, rtol=2e-3)


def test_8_bit_images_are_standardised(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (11, 3, 4, 5), dtype=np.uint8)
    data = npz(saved(tmp_path, x_train=images[:7], x_test=images[7:]))
    torch.testing.assert_close(data.x_train.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(data.x_train.std((0, 2, 3), correction=0), torch.ones(3))


def test_sites_are_kept_and_checked(tmp_path: Path) -> None:
    data = npz(saved(tmp_path, site_train=np.array([3, 3, 0, 9, 0, 3, 9], np.uint8)))
    assert data.site_train is not None and data.site_train.dtype == torch.int64
    assert data.site_train.tolist() == [3, 3, 0, 9, 0, 3, 9] and npz(saved(tmp_path)).site_train is None
    with pytest.raises(ValueError, match=r"^`site_train` must hold one integer for each of the 7 rows.*shape \(6,\)"):
        npz(saved(tmp_path, site_train=np.zeros(6, int)))
    with pytest.raises(
        ValueError, match=r"^`site_train` must hold one integer for each of the 7 rows.*got torch.float6"
    ):
        npz(saved(tmp_path, site_train=np.zeros(7)))


def test_float_targets_are_a_regression(tmp_path: Path) -> None:
    data = npz(saved(tmp_path, y_train=RNG.normal(size=7), y_test=RNG.normal(size=4)))
    assert data.classes == 0 and data.y_train.shape == (7, 1) and data.y_test.shape == (4, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": None}, r"^`data_dir` must be a .npz file with .*without y_test\. Save it with these names"),
        ({"x_train": GOOD["x_train"] * np.nan}, r"^`x_train` must hold finite float32 numbers; got 42 that are NaN"),
        ({"x_test": GOOD["x_test"][:3]}, r"^`y_test` must have one row for each of the 3 rows of `x_test`"),
        ({"x_test": GOOD["x_test"][:, :1]}, r"^`x_test` must have rows of the shape of `x_train`'s"),
        ({"x_test": GOOD["x_test"][:0], "y_test": GOOD["y_test"][:0]}, r"^`x_test` must have the shape"),
        ({"y_train": GOOD["y_train"] - 1}, r"^`y_train` must hold labels from 0 to 1; got -1"),
        ({"y_test": GOOD["y_test"] + 1}, r"^`y_test` must hold labels from 0 to 2; got 3"),
        ({"y_test": GOOD["y_test"].astype(str)}, r"^`y_test` must hold numbers; got dtype <U"),
        ({"y_test": GOOD["y_test"].astype(object)}, r"^`data_dir` must be a whole .npz .*without object arrays"),
    ],
)
def test_one_sentence_names_what_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        npz(path)


def test_no_path_or_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`data_dir` must be the path of a .npz file for this data set; got none"):
        npz()
    with pytest.raises(ValueError, match=r"^`data_dir` must be the path of a .npz file.*got '.*absent.npz'. Check"):
        npz(tmp_path / "absent.npz")


@pytest.mark.parametrize("kind", ["torn", "text", "npy"])
def test_not_a_whole_npz_file(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path)
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, GOOD["x_train"])
    else:
        path.write_bytes(path.read_bytes()[:-40] if kind == "torn" else b"x,y\n1,2\n")
    with pytest.raises(
        ValueError, match=r"^`data_dir` must be a whole .npz file of plain numbers; got .* \(no zip archive\)\. "
    ):
        npz(path)


def test_a_header_that_announces_what_no_memory_holds(tmp_path: Path) -> None:
    path, header = saved(tmp_path), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)})
    whole = dict(np.load(path))
    with zipfile.ZipFile(path, "w") as file:
        for name, array in whole.items():
            with file.open(f"{name}.npy", "w") as member:
                if name == "x_train":
                    member.write(header.getvalue())
                else:
                    np.save(member, array)
    with pytest.raises(ValueError, match=r"^`data_dir` must be a whole .npz file of plain numbers; got .*14.6 TiB"):
        npz(path)
