"""The four hospitals: the cleaning by hand on a few lines, FLamby's counts on the real files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedtangent.datasets.heart_disease import HOSPITALS, heart_disease
from tests.datasets.shared import NEEDS_SHARED, SHARED


def line(age: int, pain: str = "4", ecg: str = "0", label: int = 0, pressure: str = "130") -> str:
    """Slope, vessels and thallium, which are left out, are missing."""
    return f"{age},1.0,{pain},{pressure},200,0,{ecg},150,0,1.5,?,?,?,{label}\n"


def written(folder: Path, **change: str) -> Path:
    """Six patients a hospital, of whom the last lacks a value."""
    folder.mkdir(exist_ok=True)
    for number, hospital in enumerate(HOSPITALS):
        pains, ecgs = ("1", "2.0", "3", "4", "4"), ("0", "1", "2", "0", "1.0")
        lines = [
            line(40 + 10 * number + k, pain, ecg, label)
            for k, (pain, ecg, label) in enumerate(zip(pains, ecgs, (0, 3, 0, 1, 0), strict=True))
        ]
        text = "".join([*lines, line(99, pressure="?", label=4)])
        (folder / f"processed.{hospital}.data").write_text(change.get(hospital, text))
    return folder


def test_the_cleaning_by_hand(tmp_path: Path) -> None:
    data = heart_disease(written(tmp_path))
    assert data.name == "heart_disease" and data.classes == 2
    assert data.x_train.shape == (12, 13) and data.x_test.shape == (8, 13)  # 3 of 5 patients, and 2
    assert data.site_train is not None and data.site_train.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    x, y = torch.cat([data.x_train, data.x_test]).double(), torch.cat([data.y_train, data.y_test])
    torch.testing.assert_close(x[:12].mean(0), torch.zeros(13, dtype=torch.float64), atol=1e-6, rtol=0)
    assert not x[:, 1:8].any()  # constant columns stay at zero
    # ages are 40 to 44, 50 to 54, 60 to 64, 70 to 74; age tells the patient, and so the columns of zeros and ones
    ages = [10 * (4 + site) + k for site in range(4) for k in range(5)]
    order = x[:, 0].argsort()
    spread = x[order[-1], 0] - x[order[0], 0]
    torch.testing.assert_close(
        (x[order, 0] - x[order[0], 0]) / spread, (torch.tensor(ages).double() - 40) / 34, atol=1e-6, rtol=0
    )
    ones = [[k == 1, k == 2, k >= 3, k in (1, 4), k == 2] for _ in range(4) for k in range(5)]
    assert (x[order, 8:] > x[order, 8:].mean(0)).tolist() == ones
    assert y[order].tolist() == [0, 1, 0, 1, 0] * 4


def test_a_folder_above_will_do_and_the_split_never_moves(tmp_path: Path) -> None:
    first, again = heart_disease(written(tmp_path / "heart_disease")), heart_disease(tmp_path)
    assert all(torch.equal(one, same) for one, same in zip(first[1:5], again[1:5], strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n", r"^`.*processed.va.data` must hold 14 numbers or \? a line.*got '1,2,3' in line 1. Download"),
        (line(50) + line(51).replace("200", "high"), r"must hold 14 numbers or \? a line.*high.*in line 2"),
        (line(50)[:-9], r"must hold 14 numbers or \? a line"),
        (line(50, pain="5") * 3, r"must have a chest pain of 1, 2, 3, 4; got 5"),
        (line(50, ecg="7") * 3, r"must have a cardiogram of 0, 1, 2; got 7"),
        (line(50), r"must hold at least two patients of whom nothing is missing; got 1"),
        ("", r"must hold at least two patients of whom nothing is missing; got 0"),
    ],
)
def test_a_file_of_another_form(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        heart_disease(written(tmp_path, va=text))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`data_dir` must be given and hold processed.cleveland.data or heart_dis"):
        heart_disease()
    written(tmp_path)
    (tmp_path / "processed.va.data").unlink()
    with pytest.raises(ValueError, match=r"^`data_dir` must hold processed.va.data; got .*without it. Name the folder"):
        heart_disease(tmp_path)


@NEEDS_SHARED
def test_flambys_counts() -> None:
    data = heart_disease(SHARED / "heart_disease")
    assert data.x_train.shape == (486, 13) and data.x_test.shape == (254, 13)
    assert data.site_train is not None and np.bincount(data.site_train).tolist() == [199, 172, 30, 85]
    torch.testing.assert_close(data.x_train.mean(0), torch.zeros(13), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.x_train.std(0, correction=0), torch.ones(13))
    assert [round(data.y_train[data.site_train == site].double().mean().item(), 2) for site in range(4)] == [
        0.46, 0.38, 1.0, 0.78,
    ]  # fmt: skip
