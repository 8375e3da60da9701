"""The words of a federation's commands: what a simulation's manifest tells a leader, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedtangent import cli
from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.experiments.run import run
from fedtangent.sites import session
from tests.sites.processes import kits

NAMES = ("berlin", "paris", "rome")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """What leaders are asked for."""
    found: list[Experiment] = []

    def lead(folder: str, one: Experiment, *rest: Any, **how: Any) -> None:
        found.append(one)

    monkeypatch.setattr(session, "lead", lead)
    return found


@pytest.fixture
def simulation(tmp_path: Path) -> Path:
    run(experiment("fedavg", rounds=1, lr=0.07, nodes=6, seed=5, dataset="digits", model="linear"), tmp_path / "run")
    return tmp_path / "run"


def test_a_federation_runs_what_a_simulation_showed(
    tmp_path: Path, simulation: Path, asked: list[Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = kits(tmp_path, True, NAMES)
    for words in (["--config", str(simulation)], [f"--config={simulation}/manifest.json", "--rounds", "7"]):
        assert cli.main(["server", str(folder / "server"), *words]) == 1, capsys.readouterr().err
    assert cli.main(["server", str(folder / "server"), "fedkfac", "--config", str(simulation)]) == 1
    first, longer, other = asked
    assert (first.name, first.rounds, first.seed, first.model, first.nodes) == ("fedavg", 1, 5, "linear", None)
    assert first.resolved("method")["lr"] == 0.07
    assert longer.rounds == 7
    assert (other.name, other.seed) == ("fedkfac", 5)


def test_a_file_may_name_options_without_their_part(
    tmp_path: Path, asked: list[Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    server, file = kits(tmp_path, True, NAMES) / "server", tmp_path / "run.toml"
    file.write_text('method = "fedavg"\nalpha = 0.1\nnodes = 6\nfault = "dropout"\nabsent = 0.3\nlr = 0.07\n')
    assert cli.main(["server", str(server), "--config", str(file)]) == 1, capsys.readouterr().err
    assert asked[0].resolved("method")["lr"] == 0.07
    file.write_text('method = "fedavg"\nalpha = 0.1\nbeta = 3\n')
    assert cli.main(["server", str(server), "--config", str(file)]) == 2
    assert "`beta` must be a setting of server; got an unknown name." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_weights": "balanced"}, "`class_weights` must be"),
        ({"attack": "nan"}, "`attack` must be"),
    ],
)
def test_what_a_federation_has_not_is_refused(
    change: dict[str, Any], told: str, tmp_path: Path, simulation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = kits(tmp_path, True, NAMES)
    path = simulation / "manifest.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "experiment": {**held["experiment"], **change}}))
    assert cli.main(["server", str(folder / "server"), "--config", str(path)]) == 2
    assert told in capsys.readouterr().err


def test_a_method_must_come_from_somewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kits(tmp_path, True, NAMES)
    assert cli.main(["server", str(folder / "server"), "--rounds", "3"]) == 2
    assert "`KIT METHOD` must come first after server; got" in capsys.readouterr().err
    (tmp_path / "run.toml").write_text("rounds = 3\n")
    assert cli.main(["server", str(folder / "server"), "--config", str(tmp_path / "run.toml")]) == 2
    assert "`METHOD` must come first after server; got '--config'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("wait", "nan"), ("wait", "inf"), ("wait", "-1"), ("patience", "0"), ("deadline", "nan")]
)
def test_times_that_are_none_are_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A site that waits for NaN seconds would do so for ever."""
    told = f"`{option}` must be seconds above 0, at most a year; got {float(value)}."
    folder = kits(tmp_path, True, NAMES)
    assert cli.main(["server", str(folder / "server"), "fedavg", f"--{option}", value]) == 2
    assert told in capsys.readouterr().err
    if option == "wait":
        assert cli.main(["site", str(folder / NAMES[0]), f"--{option}", value]) == 2
        assert told in capsys.readouterr().err
