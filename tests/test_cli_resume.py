"""The command line: what is recorded in a folder, by whom, and gone on with."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedtangent import cli
from fedtangent.experiments import lock
from fedtangent.experiments.dry_run import Needs
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup
from fedtangent.reports import progress
from tests.experiments.tiny import timeless

RUN = ["run", "fedavg", "--nodes", "3", "--rounds", "1", "--hidden", "6"]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_resume_without_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "fedtangent: `resume` must have a folder to go on from; got no `out`. Give --out."
    assert refused([*RUN, "--resume"], capsys) == sentence
    assert refused([*RUN, "--resume", "--seeds", "0,1"], capsys) == sentence


def test_every_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o027)
    try:
        assert cli.main([*RUN, "--out", str(tmp_path / "run")]) == 0
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "run").iterdir()}
    names = ("manifest.json", "rounds.jsonl", "model.safetensors", "checkpoint.safetensors")
    assert modes == dict.fromkeys(names, 0o640)


def test_the_folder_of_every_seed_is_one_processs_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RUN, "--seeds", "0,1", "--out", str(tmp_path / "run")]
    with lock.held(tmp_path / "run" / "seed-1"):
        assert "`out` must not be in use; got " + str(tmp_path / "run" / "seed-1") in refused(words, capsys)
    assert cli.main([*words, "--resume"]) == 0


@pytest.mark.few(1)
@pytest.mark.parametrize("method", ["ntkdfl", "fedopt", "fedpart"])
def test_a_finished_run_is_extended_to_the_record_of_a_longer_one(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", method, "--nodes", "4", "--hidden", "5", "--alpha", "1e6"]
    words += {
        "ntkdfl": ["--degree", "2", "--times", "2,9", "--momentum", "0.5"],
        "fedopt": ["--participation", "0.5"],
        "fedpart": ["--warm-up", "0", "--rounds-per-group", "1"],
    }[method]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main([*words, "--rounds", "5", "--out", str(whole)]) == 0
    assert cli.main([*words, "--rounds", "2", "--out", str(parts)]) == 0
    kept = json.loads((parts / "manifest.json").read_text())
    assert "whose rounds is 2 and not 5. Give --resume to go on with it." in refused(
        [*words, "--rounds", "5", "--out", str(parts)], capsys
    )
    assert cli.main([*words, "--rounds", "5", "--resume", "--out", str(parts)]) == 0
    assert record(parts) == record(whole)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert json.loads((parts / "manifest.json").read_text()) == {
        **kept, "experiment": {**kept["experiment"], "rounds": 5}
    }  # fmt: skip
    assert "whose rounds is 5 and not 3. Choose another --out" in refused(
        [*words, "--rounds", "3", "--resume", "--out", str(parts)], capsys
    )
    changed = [*words, "--rounds", "7", "--lr", "0.02", "--resume", "--out", str(parts)]
    assert "is not the same" in refused(changed, capsys) or "lr is" in refused(changed, capsys)
    assert record(parts) == record(whole)


def record(folder: Path) -> list[dict[str, Any]]:
    return timeless([json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()])


def test_quiet_prints_the_result_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--quiet", "--out", str(tmp_path / "a")]) == 0
    quiet = capsys.readouterr()
    assert cli.main([*RUN, "--out", str(tmp_path / "b")]) == 0
    loud = capsys.readouterr()
    assert quiet.err == "" and loud.err.startswith("fedavg  round 1/1")
    assert "Exposure" in loud.out and "Recorded in" in loud.out
    assert "fedavg" in quiet.out and "Exposure" not in quiet.out and "Recorded" not in quiet.out


def test_a_run_without_a_folder_makes_a_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    """It overwrites nothing, says where the record is, and takes a file in the place of a folder for taken."""
    for name in ("fedavg", "fedavg-2"):
        assert cli.main(RUN) == 0
        assert capsys.readouterr().out.endswith(f"Recorded in runs/{name}.\n")
    Path("runs/fedavg-3").write_text("mine")
    first = record(Path("runs/fedavg"))
    assert cli.main([*RUN, "--quiet", "--seeds", "1,2"]) == 0
    assert "Recorded in runs/fedavg-4.\n" in capsys.readouterr().out
    assert sorted(path.name for path in Path("runs/fedavg-4").iterdir()) == ["seed-1", "seed-2"]
    assert record(Path("runs/fedavg")) == first and Path("runs/fedavg-3").read_text() == "mine"
    assert cli.main([*RUN, "--out", "none"]) == cli.main([*RUN, "--dry-run"]) == 0
    assert len(list(Path("runs").iterdir())) == 4


def test_a_run_that_fails_before_it_begins_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--dataset", "npz", "--data-dir", "nowhere.npz"]) == 2
    assert not Path("runs").exists()
    Path("runs").write_text("a file")
    assert cli.main(RUN) == 2
    assert "`out` must be a folder that can be written; got runs (" in capsys.readouterr().err


@pytest.mark.usefixtures("forked_ranks")
def test_on_ranks_the_new_folder_is_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--ranks", "2", "--quiet"]) == 0
    assert [path.name for path in Path("runs").iterdir()] == ["fedavg"]
    assert len(record(Path("runs/fedavg"))) == 1


def test_a_run_of_hours_is_told_before_it_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = Needs(10**9, 10**9, 10**11, 0, 60, 1, 6100)
    assert progress.foretold(needs, 100, 1) and progress.foretold(needs._replace(seconds=1), 100, 10)
    assert not progress.foretold(needs._replace(seconds=3500), 100, 1) and not progress.foretold(None, 100, 1)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("fedtangent: 100 rounds will take about 1 h 42 min and 100 GB of messages. Fewer --rounds")
    assert second.startswith("fedtangent: 10 runs of 100 rounds will take about 10 s and 1.00 TB of messages.")
    monkeypatch.setattr(cli, "foreseen", lambda built: needs)
    assert cli.main([*RUN, "--quiet"]) == 0
    assert capsys.readouterr().err.count("will take") == 1


def test_a_run_of_hours_is_told_after_the_rounds_that_show_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10**6, 100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    built = setup(experiment("fedavg", nodes=3, rounds=100, hidden=(6,)))
    warn = progress.patience(built)
    for number in range(1, 5):
        warn({"round": number, "sent_bytes": number * 10**9})
    assert capsys.readouterr().err == (
        "fedtangent: 98 rounds are left, about 2 h 43 min and 98.0 GB of messages. Fewer --rounds or --nodes, a "
        "smaller --model, --channel and --evaluate-nodes-every 10 take less, and --dry-run estimates it before.\n"
    )
    short = progress.patience(setup(experiment("fedavg", nodes=3, rounds=20, hidden=(6,))))
    for number in range(1, 21):
        short({"round": number, "sent_bytes": number * 10**9})
    assert capsys.readouterr().err == ""
    much = progress.patience(setup(experiment("fedavg", nodes=3, rounds=20, hidden=(6,))))
    for number in range(1, 21):
        much({"round": number, "sent_bytes": number * 10**11})
    assert "18 rounds are left, about 30 min and 1.80 TB of messages." in capsys.readouterr().err
    # a schedule is judged by a whole cycle after its opening
    part = progress.patience(setup(experiment("fedpart", nodes=3, rounds=100, hidden=(6,), warm_up=2)))
    told = []
    for number in range(1, 16):
        part({"round": number, "sent_bytes": 0})
        told.append(capsys.readouterr().err)
    cycle = 2 + 2 * 2
    assert [bool(text) for text in told].index(True) == cycle
