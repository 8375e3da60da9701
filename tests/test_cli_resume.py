"""The command line: what is recorded in a folder, by whom, and gone on with."""

import os
from pathlib import Path

import pytest

from fedtangent import cli
from fedtangent.experiments import lock

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
