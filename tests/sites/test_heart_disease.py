"""The example: four hospitals, each with its own file alone, a server or none; the record is that of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

pytestmark = NEEDS_SHARED
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


class Hospitals:
    """Four processes with a file each, and a server where there is one."""

    def __init__(self, folder: Path, served: bool, words: list[Any]) -> None:
        self._folder, self._served, self._words = folder, served, [*words, "--standardise", "--out", folder / "run"]
        self._kits = processes.kits(folder, served, HOSPITALS, consent=[] if served else ["kernel"])
        for name in HOSPITALS:
            file = f"processed.{name}.data"
            (folder / name).mkdir()
            (folder / name / file).write_bytes((SHARED / "heart_disease" / file).read_bytes())
        self.running = {name: self.started(name) for name in (*(["server"] if served else []), *HOSPITALS)}

    def started(self, name: str) -> processes.Process:
        """One of them."""
        kit, log = self._kits / name, self._folder / f"{name}.log"
        if name == "server":
            return processes.Process(["server", kit, *self._words], log)
        command = ["site", kit] if self._served or name != HOSPITALS[0] else ["start", kit, *self._words]
        data = ["--dataset", "heart_disease", "--data-dir", self._folder / name, "--hospital", name]
        return processes.Process([*command, *data], log)

    def rounds(self) -> list[dict[str, Any]]:
        """Their record, when all have ended well."""
        ended = {name: process.ended() for name, process in self.running.items()}
        assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
        return processes.rounds(self._folder / "run")


def compared(got: list[dict[str, Any]], method: str, rounds: int) -> None:
    """The record with that of one process."""
    dataset, partition = pooled()
    words = {**WORDS, "rounds": rounds}
    asked = experiment(method, **OPTIONS[method], **words, dataset=dataset, partition=partition, engine="sequential")
    for one, other in zip(got, tiny.timeless(run(asked).rounds), strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-6)
        for extra in [name for name, value in one.items() if _inexact(name, value)]:
            assert np.array(one.pop(extra)) == pytest.approx(np.array(other.pop(extra)), rel=1e-5)
        assert one == other


def typed(method: str, rounds: int) -> list[Any]:
    words: list[Any] = [method, "--rounds", rounds, "--dtype", "float64", "--hidden", 6]
    return words + [part for name, value in OPTIONS[method].items() for part in (f"--{name}", value)]


def test_all_hospitals_together_are_the_data_set() -> None:
    dataset, _ = pooled()
    known = heart_disease(SHARED / "heart_disease")
    torch.testing.assert_close((dataset.x_train, dataset.x_test), (known.x_train, known.x_test), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", OPTIONS)
def test_four_hospitals(method: str, tmp_path: Path) -> None:
    got = Hospitals(tmp_path, method != "dfedkfac", typed(method, 3)).rounds()
    assert got[-1]["accuracy"] > 0.7
    compared(got, method, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "killed"), [("fedkfac", "hungarian"), ("dfedkfac", "va")])
def test_a_hospital_is_killed_and_brought_back(method: str, killed: str, tmp_path: Path) -> None:
    """With secure sums at a server, where all four must have a part in a sum that has begun."""
    served = method != "dfedkfac"
    processes.held(tmp_path, "server" if served else HOSPITALS[0], 2)
    hospitals = Hospitals(tmp_path, served, [*typed(method, 4), *(["--secure-sums"] if served else [])])
    with hospitals.running["server" if served else HOSPITALS[0]].at(2):
        hospitals.running[killed].kill()
        hospitals.running[killed] = hospitals.started(killed)
    got = hospitals.rounds()
    assert got[-1]["accuracy"] > 0.7
    compared(got, method, 4)


def _inexact(name: str, value: object) -> bool:
    """Whether it is a number of the method's own, of which the last digits hang on those of the features."""
    counted = name.endswith("accuracy") or name == "round"
    return not counted and (isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float)))
