"""heart_disease: patients of four hospitals, 13 features, whether a coronary vessel is narrowed; a natural partition.

Janosi, Steinbrunn, Pfisterer, Detrano. Heart Disease. UCI Machine Learning Repository, 1989 (four databases: Cleveland,
Budapest, Zurich and Basel, Long Beach). Cleaned as by du Terrail et al. FLamby: Datasets and Benchmarks for
Cross-Silo Federated Learning. NeurIPS 2022 (data sets and benchmarks). arXiv 2210.04620.
"""

from pathlib import Path

import numpy as np
import torch

from fedtangent.datasets._check import checked
from fedtangent.datasets._files import existing
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")  # sites 0 to 3
COLUMNS = 14
PLAIN = (0, 1, 3, 4, 5, 7, 8, 9)  # age, sex, blood pressure, cholesterol, sugar, heart rate, angina, ST depression
PAIN, ECG = 2, 6  # categories 1 to 4 and 0 to 2; slope, vessels and thallium scan (10, 11, 12) are mostly missing
TRAIN_SHARE, SPLIT_SEED = 0.66, 43  # of FLamby's split, hospital by hospital


def heart_disease(data_dir: str | Path | None = None, *, hospital: str | None = None) -> Dataset:
    """740 patients, 486 to train on and 254 to test, as (rows, 13); `site_train` is the hospital, 0 to 3.

    Rows with a missing value are left out, which leaves 303, 261, 46 and 130; chest pain and electrocardiogram become
    three and two columns of zeros and ones. Every column is standardised by its mean and deviation over the training
    rows of all hospitals together, which in a real federation would have to be summed first. Label 1 is any disease.
    The split is FLamby's, stratified by label where a hospital has more than two patients of each (Switzerland has one
    without disease).

    Args:
        data_dir: The folder that holds the four files `processed.*.data`, or it in a folder `heart_disease`.
        hospital: Only the patients of cleveland, hungarian, switzerland or va, which needs no file but its own; columns
            are not standardised, which --standardise of a federation does. None takes all.

    Raises:
        ValueError: A file is missing, or a line has another form; or there is no such hospital.
    """
    if hospital is not None and hospital not in HOSPITALS:
        raise SettingError(f"`hospital` must be one of {', '.join(HOSPITALS)}; got {hospital!r}. Choose one.")
    chosen = HOSPITALS if hospital is None else (hospital,)
    first = f"processed.{chosen[0]}.data"
    folder = existing(data_dir, (first, f"heart_disease/{first}")).parent
    train, test = zip(
        *(_split(_patients(existing(folder, (f"processed.{name}.data",)))) for name in chosen), strict=True
    )
    sites = [np.full(len(rows), site) for site, rows in enumerate(train)]
    known, asked = np.concatenate(train), np.concatenate(test)
    mean, std = (known[:, :-1].mean(0), known[:, :-1].std(0)) if hospital is None else (0.0, 1.0)
    std = np.where(std > 0, std, 1.0)
    x_train, x_test = (torch.from_numpy((part[:, :-1] - mean) / std) for part in (known, asked))
    y_train, y_test = (torch.from_numpy(part[:, -1].astype(np.int64)) for part in (known, asked))
    site_train = torch.from_numpy(np.concatenate(sites))
    return checked(Dataset("heart_disease", x_train, y_train, x_test, y_test, classes=2, site_train=site_train))


def _split(rows: np.ndarray) -> list[np.ndarray]:
    """A hospital's patients to train on and to test."""
    from sklearn.model_selection import train_test_split  # slow to import

    by = rows[:, -1] if all((rows[:, -1] == label).sum() > 2 for label in (0, 1)) else None
    cut: list[np.ndarray] = train_test_split(
        rows, train_size=TRAIN_SHARE, test_size=1 - TRAIN_SHARE, random_state=SPLIT_SEED, stratify=by
    )
    return cut


def _patients(path: Path) -> np.ndarray:
    """Features and label, (rows, 14), of the patients of whom nothing but slope, vessels and thallium is missing."""
    used = (*PLAIN, PAIN, ECG, COLUMNS - 1)
    kept = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
        words = line.strip().split(",")
        try:
            if len(words) != COLUMNS:
                raise ValueError
            values = [np.nan if word.strip() == "?" else float(word) for word in words]
        except ValueError as error:
            raise SettingError(
                f"`{path}` must hold {COLUMNS} numbers or ? a line, with commas between them; got {line[:60]!r} in "
                f"line {number}. Download it anew."
            ) from error
        row = np.array(values)[list(used)]
        if not np.isnan(row).any():
            kept.append(row)
    if len(kept) < 2:
        raise SettingError(
            f"`{path}` must hold at least two patients of whom nothing is missing; got {len(kept)}. Download it anew."
        )
    rows = np.array(kept)
    return np.column_stack([_features(path, rows), rows[:, -1] > 0])


def _features(path: Path, rows: np.ndarray) -> np.ndarray:
    plain, pain, ecg = rows[:, : len(PLAIN)], rows[:, -3], rows[:, -2]
    for name, values, known in (("chest pain", pain, (1, 2, 3, 4)), ("cardiogram", ecg, (0, 1, 2))):
        if strange := sorted(set(values) - set(known)):
            raise SettingError(
                f"`{path}` must have a {name} of {', '.join(map(str, known))}; got {strange[0]:g}. Download it anew."
            )
    return np.column_stack([plain, *(pain == kind for kind in (2, 3, 4)), *(ecg == kind for kind in (1, 2))])
