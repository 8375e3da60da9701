"""A host on the command line: `fedtangent run fedpart --host fedprox --host.mu 0.01`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import fedtangent
from fedtangent import cli
from tests.experiments.tiny import saved, timeless

OWN = '''"""own: FedAvg of one's own."""

from fedtangent.methods.fedavg import fedavg


def own(task, *, pace: float = 0.2):
    """FedAvg.

    Args:
        task: Model and loss.
        pace: Step size.
    """
    return fedavg(task, lr=pace)
'''


@pytest.fixture
def fedpart(tmp_path: Path) -> list[str]:
    """The words of a short run of one cycle."""
    data = ["--dataset", "npz", "--data-dir", saved(tmp_path / "data.npz"), "--partition", "iid", "--nodes", "4"]
    return ["run", "fedpart", *data, "--hidden", "6", "--rounds", "3", "--warm-up", "1", "--rounds-per-group", "1"]


def record(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return json.loads((folder / "manifest.json").read_text())["experiment"], rounds


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    return capsys.readouterr().err.splitlines()[-1].removeprefix("fedtangent: ")


def test_a_host_and_its_options_are_on_the_record_as_from_python(
    fedpart: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main([*fedpart, "--host", "fedprox", "--host.mu", "0.25", "--epochs", "2", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("fedpart around fedprox on data, 4 nodes, 51 parameters, seed 0\n")
    described, rounds = record(out)
    assert (described["host"], described["host_options"]["mu"], described["host_options"]["epochs"]) == (
        "fedprox",
        0.25,
        2,
    )
    assert all(isinstance(entry[name], int) for entry in rounds for name in ("uplink_bytes", "multiply_adds"))
    assert [entry["trained_parameters"] for entry in rounds] == [51, 30, 21]
    settings: dict[str, Any] = {
        "dataset": "npz",
        "data_dir": str(tmp_path / "data.npz"),
        "partition": "iid",
        "nodes": 4,
    }
    again = fedtangent.run(
        "fedpart", host="fedprox", **{"host.mu": 0.25}, epochs=2, **settings,
        hidden=(6,), rounds=3, warm_up=1, rounds_per_group=1,
    )  # fmt: skip
    assert timeless(again.rounds) == timeless(rounds)


def test_seeds_resume_groups_and_a_host_of_ones_own(fedpart: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    words = [*fedpart, "--host", str(tmp_path / "own.py"), "--pace", "0.3", "--groups", "3,1", "--out"]
    out = tmp_path / "seeds"
    assert cli.main([*words, str(out), "--seeds", "0,1"]) == 0
    assert record(out / "seed-1")[0]["host"] == "own"
    assert record(out / "seed-1")[0]["host_options"] == {"pace": 0.3}
    assert [entry["trained_parameters"] for entry in record(out / "seed-1")[1]] == [51, 21, 30]
    assert cli.main([*words, str(out), "--seeds", "0,1", "--resume"]) == 0
    assert cli.main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0


def test_a_host_is_offered_to_methods_that_take_one(fedpart: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for method, there in (("fedpart", True), ("fedavg", False)):
        with pytest.raises(SystemExit):
            cli.main(["run", method, "--help"])
        assert bool(re.search(r"^  --host HOST", capsys.readouterr().out, re.MULTILINE)) == there
    with pytest.raises(SystemExit):
        cli.main(["run", "fedpart", "--host", "fedprox", "--help"])
    told = capsys.readouterr().out
    assert "the host:" in told and re.search(r"^  --mu MU", told, re.MULTILINE)


def test_wrong_hosts_are_one_sentence(fedpart: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fedavg = ["run", "fedavg", *fedpart[2:-4]]
    assert refused([*fedavg, "--host", "fedprox"], capsys) == (
        "`host` must be left out for fedavg, which takes none; got 'fedprox'. Drop it."
    )
    assert refused([*fedpart, "--host", "fedprocs"], capsys).endswith("got 'fedprocs'. Did you mean 'fedprox'?")
    assert refused([*fedpart, "--mu", "0.1"], capsys).startswith("`mu` must be an option of run; got an unknown name.")
    assert refused([*fedpart, "--host", "local"], capsys).startswith("`host` must bear partial updates; got local")
    assert refused([*fedpart, "--rounds", "2"], capsys).startswith(
        "`rounds` must be at least 3, one cycle of fedpart's"
    )
    assert refused([*fedpart, "--groups", "1"], capsys).startswith("`groups` must hold every trainable parameter once;")
