"""A federation of processes on loopback: the record of one process, after kills too; what is wrong is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedtangent.experiments.run import run as in_memory
from tests.experiments import tiny
from tests.sites import processes

OPTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {"participation": 0.7, "batch": 4},
    "fedkfac": {"guard": False},
    "dfedavg": {"epochs": 2, "batch": 4, "momentum": 0.5, "degree": 2},
    "dfedkfac": {"degree": 2},
    "ntkdfl": {"times": (2, 9), "lr": 0.3, "degree": 2},
}
SERVED = ("fedavg", "fedkfac")
ROUNDS = 3


def words(method: str, **change: Any) -> list[str]:
    """METHOD and its options as one types them."""
    given = {**OPTIONS[method], "rounds": ROUNDS, "dtype": "float64", "hidden": (6,), **change}
    typed = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
    found = [method]
    for name, value in typed.items():
        flag = f"--{name.replace('_', '-')}"
        found += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    return found


def expected(method: str, **change: Any) -> list[dict[str, Any]]:
    """The record of one process with all rows."""
    asked = tiny.experiment(
        method,
        **OPTIONS[method],
        **{"rounds": ROUNDS, "dtype": "float64", "hidden": (6,), "engine": "sequential", **change},
        dataset=tiny.data(),
        partition=processes.partition(),
    )
    return tiny.timeless(in_memory(asked).rounds)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    processes.files(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", OPTIONS)
def test_the_record_is_that_of_one_process(method: str, place: Path) -> None:
    served = method in SERVED
    processes.kits(place, served, consent=["kernel", "raw-equivalent"])
    found = processes.run(place, [*words(method), "--out", place / "run"], served)
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert processes.rounds(place / "run") == expected(method)
    told = ended["rome"].said
    assert f"{method} by {'server' if served else 'berlin'} on hearts, 5 sites, 30 rows" in told
    assert "Exposure" in told
    assert "rome sends to " in told
