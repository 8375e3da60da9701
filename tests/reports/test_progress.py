"""How far a recipe is, off the terminal and on it. (That of a run is tested with the command line.)"""

from typing import Any

import pytest
from rich.console import Console

from fedtangent.reports import progress


def test_a_line_a_second_at_most(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 0.5, 1.5, 1.5, 2.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.rows("mine") as tell:
        for n in range(4):
            tell({"n": n, "value": n / 3, "kind": "a"})
    assert capsys.readouterr().err == "mine  n 0  value 0  kind a\nmine  n 2  value 0.6667  kind a\n"


def test_the_latest_row_on_a_terminal(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "is_terminal", property(lambda console: console.stderr))
    with progress.rows("mine") as tell:
        tell({"kind": "[a", "value": 1 / 3})
    assert "mine  kind [a  value 0.3333" in capsys.readouterr().err
