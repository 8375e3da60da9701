"""The example: four hospitals, each with its own file alone, a server or none; the record is that of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedtangent.datasets.heart_disease import HOSPITALS, heart_disease
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.shard import Dataset, Partition
from tests.datasets.shared import NEEDS_SHARED, SHARED
from tests.experiments import tiny
from tests.sites import processes

WORDS = {"rounds": 3, "dtype": "float64", "hidden": (6,)}
OPTIONS = {"fedavg": {"batch": 16}, "fedkfac": {}, "dfedkfac": {"topology": "ring"}}


def pooled() -> tuple[Dataset, Partition]:
    """All hospitals' rows, standardised by hand, and who has which."""
    own = [heart_disease(SHARED / "heart_disease", hospital=name) for name in HOSPITALS]
    raw = torch.cat([one.x_train for one in own]).double()
    mean, std = raw.mean(0), raw.std(0, correction=0)
    train, test = ([getattr(one, f"x_{split}") for one in own] for split in ("train", "test"))
    x_train, x_test = (((torch.cat(parts).double() - mean) / std).float() for parts in (train, test))
    y_train, y_test = (torch.cat([getattr(one, f"y_{split}") for one in own]) for split in ("train", "test"))
    index, test_index = (
        np.split(np.arange(sum(map(len, parts))), np.cumsum([*map(len, parts)])[:-1]) for parts in (train, test)
    )
    return Dataset("hospitals", x_train, y_train, x_test, y_test, 2), Partition(index, None, test_index)


@NEEDS_SHARED
@pytest.mark.parametrize("method", OPTIONS)
def test_four_hospitals(method: str, tmp_path: Path) -> None:
    served = method != "dfedkfac"
    folder = processes.kits(tmp_path, served, HOSPITALS, consent=[] if served else ["kernel"])
    words = [method, "--rounds", "3", "--dtype", "float64", "--hidden", "6", "--standardise", "--out", tmp_path / "run"]
    words += [part for name, value in OPTIONS[method].items() for part in (f"--{name}", value)]
    found = {}
    if served:
        found["server"] = processes.Process(["server", folder / "server", *words], tmp_path / "server.log")
    for name in HOSPITALS:
        alone = tmp_path / name
        alone.mkdir()
        file = f"processed.{name}.data"
        (alone / file).write_bytes((SHARED / "heart_disease" / file).read_bytes())
        data = ["--dataset", "heart_disease", "--data-dir", alone, "--hospital", name]
        leads = not served and name == HOSPITALS[0]
        command = ["start", folder / name, *words] if leads else ["site", folder / name]
        found[name] = processes.Process([*command, *data], tmp_path / f"{name}.log")
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    dataset, partition = pooled()
    known = heart_disease(SHARED / "heart_disease")
    torch.testing.assert_close((dataset.x_train, dataset.x_test), (known.x_train, known.x_test), atol=1e-6, rtol=1e-6)
    asked = experiment(method, **OPTIONS[method], **WORDS, dataset=dataset, partition=partition, engine="sequential")
    expected, got = tiny.timeless(run(asked).rounds), processes.rounds(tmp_path / "run")
    for one, other in zip(got, expected, strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-6)
        for extra in [name for name, value in one.items() if _inexact(name, value)]:
            assert np.array(one.pop(extra)) == pytest.approx(np.array(other.pop(extra)), rel=1e-5)
        assert one == other
    assert got[-1]["accuracy"] > 0.7


def _inexact(name: str, value: object) -> bool:
    """Whether it is a number of the method's own, of which the last digits hang on those of the features."""
    counted = name.endswith("accuracy") or name == "round"
    return not counted and (isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float)))
