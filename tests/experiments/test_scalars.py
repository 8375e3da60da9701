"""TensorBoard's curves, written by a stand-in."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedtangent.experiments.run import run
from fedtangent.experiments.scalars import Scalars
from tests.experiments.tiny import tiny


class Writer:
    """Keeps what it is given."""

    made: list["Writer"] = []  # noqa: RUF012

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step, self.scalars = log_dir, purge_step, dict[tuple[str, int], Any]()
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value

    def flush(self) -> None:
        """Nothing to do."""


def test_every_number_of_every_round_is_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    Writer.made.clear()
    found = run(tiny("ntkdfl"), tmp_path / "run", tensorboard=True)
    (writer,) = Writer.made
    assert writer.log_dir == str(tmp_path / "run" / "tensorboard")
    assert writer.purge_step == 1
    assert writer.scalars["accuracy", 2] == found.rounds[1]["accuracy"]
    assert {name for name, _ in writer.scalars} == set(found.rounds[0]) - {"round", "time"}  # a time is one per node


def test_a_resumed_run_drops_what_the_killed_one_logged_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    Writer.made.clear()
    Scalars(tmp_path, True).log({"round": 4, "loss": 0.5})
    assert Writer.made[0].purge_step == 4


def test_without_a_folder() -> None:
    with pytest.raises(ValueError, match=r"^`tensorboard` must have a folder to write to; got no `out`. Give --out.$"):
        run(tiny(), tensorboard=True)


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        ValueError, match=r"^`tensorboard` must be installed .*; got none. Install fedtangent\[tensorboard\]"
    ):
        run(tiny(), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
