"""A federation whose sites have 8-bit images: they are scaled by the images of all, as in a simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedtangent.datasets.npz import npz
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.share import joined, profile
from fedtangent.shard import Dataset, Partition
from fedtangent.sites.session import own_data
from tests.experiments import tiny
from tests.sites import processes

NAMES = ("berlin", "paris")
ROWS = {"berlin": (17, 3), "paris": (11, 5)}
WORDS = {"rounds": 2, "dtype": "float64", "hidden": (4,), "batch": 7}


def written(folder: Path) -> dict[str, np.ndarray]:
    """Dark images of three channels at one site, bright ones at the other; and those of both in one."""
    rng, parts = np.random.default_rng(8), []
    for name, (train, test) in ROWS.items():
        low, high = (0, 90) if name == "berlin" else (120, 256)
        arrays = {}
        for split, count in (("train", train), ("test", test)):
            arrays[f"y_{split}"] = np.arange(count) % 3
            arrays[f"x_{split}"] = rng.integers(low, high, (count, 3, 5, 7), dtype=np.uint8)
            arrays[f"x_{split}"][:, 1] //= 3
        np.savez(folder / f"{name}.npz", **arrays)
        parts.append(arrays)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@pytest.mark.parametrize("more", [[], ["--standardise"]])
def test_the_record_is_that_of_one_process(more: list[str], tmp_path: Path) -> None:
    whole = written(tmp_path)
    processes.kits(tmp_path, True, NAMES)
    words = ["fedavg", "--rounds", 2, "--dtype", "float64", "--hidden", 4, "--batch", 7, "--out", tmp_path / "run"]
    processes.held(tmp_path, "server", *([] if more else [1]))
    found = processes.run(tmp_path, [*words, *more], True, names=NAMES)
    if not more:
        with found["server"].at(1):
            found["paris"].kill()
            found["paris"] = processes.started(tmp_path, "paris", words, True)
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    axes, x = (0,) if more else (0, 2, 3), {split: whole[f"x_{split}"] / 255 for split in ("train", "test")}
    mean, std = (of(x["train"], axes, keepdims=True) for of in (np.mean, np.std))
    scaled = {f"x_{split}": torch.from_numpy((one - mean) / std).float() for split, one in x.items()}
    data = Dataset(
        "all", **scaled, y_train=torch.from_numpy(whole["y_train"]), y_test=torch.from_numpy(whole["y_test"]), classes=3
    )
    index, test = ([np.arange(cut), np.arange(cut, count)] for cut, count in ((17, 28), (3, 8)))
    asked = experiment("fedavg", **WORDS, dataset=data, partition=Partition(index, None, test), engine="sequential")
    for one, other in zip(processes.rounds(tmp_path / "run"), tiny.timeless(run(asked).rounds), strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-5)
        assert one == other
    if not more:
        np.savez(tmp_path / "whole.npz", **whole)
        torch.testing.assert_close(npz(tmp_path / "whole.npz").x_train, data.x_train, atol=1e-5, rtol=1e-5)


def test_pixels_and_other_numbers_do_not_go_together(tmp_path: Path) -> None:
    written(tmp_path)
    held = dict(np.load(tmp_path / "paris.npz"))
    np.savez(tmp_path / "paris.npz", **held | {f"x_{split}": held[f"x_{split}"] / 255 for split in ("train", "test")})
    told = {
        name: profile(own_data({"dataset": "npz", "data_dir": str(tmp_path / f"{name}.npz")}), b"key") for name in NAMES
    }
    with pytest.raises(
        ValueError, match=r"^`schema` must be the same .* got 8-bit.* Give 8-bit images at all of them, "
    ):
        joined(told)
