"""The README is true: its Python runs, its commands parse, its links and its methods exist."""

import re
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from fedtangent import catalog, cli

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in blocks("sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("fedtangent ")
]


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_does_what_its_last_comment_says(code: str) -> None:
    found: dict[str, Any] = {}
    exec(code, found)
    last = code.splitlines()[-1]
    assert last.startswith("# ")
    assert eval(last.split(": ", 1)[1], found)


def stub(command: Callable[..., int], asked: list[Any]) -> Callable[..., int]:
    """Notes what a command is asked, and does nothing."""

    @wraps(command)
    def note(*given: Any, **more: Any) -> int:
        asked.append((given, more))
        return 0

    return note


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_commands_are_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for name in ("run", "report", "recipe", "list_"):
        monkeypatch.setattr(cli, name, stub(getattr(cli, name), asked))
    try:
        assert cli.main(words) == 0
    except SystemExit as help_:
        assert help_.code == 0
        return
    assert len(asked) == 1


def test_every_method_is_in_the_table() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == catalog.names("methods")


def test_exposures_are_the_methods() -> None:
    from tests import federation

    for name, exposure in re.findall(r"^\| `(\w+)` \|.*\| ([\w-]+) \|$", TEXT, re.MULTILINE):
        assert catalog.load("methods", name)(federation.task()).exposure == exposure


def test_links_and_files_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r"`(src/[^`]+)`", TEXT)
    assert linked
    assert [path for path in linked if not (README.parent / path).exists()] in ([], ["docs/results/README.md"])
