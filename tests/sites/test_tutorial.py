"""The page docs/start/sites.md, done as it says: files, kits, the run, and its longer continuation."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from fedtangent import cli
from tests.sites import processes

PAGE = Path(__file__).parents[2] / "docs" / "start" / "sites.md"
if not PAGE.is_file():
    pytest.skip("a source distribution has no docs", allow_module_level=True)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_tutorial_of_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (python,), (toml,) = blocks("python"), blocks("toml")
    exec(compile(python, str(PAGE), "exec"), {})
    assert "localhost:8443" in toml
    (port,) = processes.ports(1)
    (tmp_path / "federation.toml").write_text(toml.replace(":8443", f":{port}"), encoding="utf-8")
    provision, sites, server, report, again = (
        [shlex.split(line)[1:] for line in block.splitlines()] for block in blocks("sh")[1:]
    )
    assert cli.main(provision[0]) == 0
    for number, words in enumerate([server, again]):
        started = [processes.Process(line, tmp_path / f"{number}-{i}.log") for i, line in enumerate([*words, *sites])]
        ended = [process.ended() for process in started]
        assert [end.code for end in ended] == [0, 0, 0, 0], ended
        if number == 0:
            assert all("aggregate" in end.said for end in ended)
            assert cli.main(report[0]) == 0 and (tmp_path / "report.html").stat().st_size > 10_000
    rounds = [json.loads(line) for line in (tmp_path / "runs" / "digits" / "rounds.jsonl").read_text().splitlines()]
    assert len(rounds) == 8 and len(rounds[-1]["node_accuracy"]) == 3
    assert rounds[-1]["accuracy"] > 0.8
