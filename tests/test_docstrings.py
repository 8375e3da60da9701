"""The examples of docstrings give what they say, and warn of nothing."""

import doctest
import importlib
from pathlib import Path

import pytest

import fedtangent

ROOT = Path(fedtangent.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(".".join(["fedtangent", *file.with_suffix("").parts]))
    result = doctest.testmod(module)
    assert result.attempted and not result.failed, capsys.readouterr().out


def test_there_are_examples() -> None:
    names = [file.stem for file in FILES]
    assert {"evolve", "linearize", "sketch", "spectrum"} <= set(names)
