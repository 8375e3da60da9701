"""The README is true: its Python runs, its commands parse, its links and its methods exist."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from fedtangent import __version__, catalog, cli, front
from fedtangent.datasets.digits import digits
from fedtangent.experiments import launch

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


def test_the_loop_before_and_after_learns() -> None:
    """Each side of the difference runs as it stands, and the network that it leaves knows the digits."""
    (block,) = blocks("diff")
    data = digits()
    for sign in "-+":
        code = "\n".join(line[2:] for line in block.splitlines() if line[:1] in (" ", sign, ""))
        found: dict[str, Any] = {
            "train": TensorDataset(data.x_train, data.y_train),
            "test": TensorDataset(data.x_test, data.y_test),
        }
        exec(code, found)
        with torch.no_grad():
            right = found["model"].eval()(data.x_test).argmax(1) == data.y_test
        assert right.float().mean() > 0.9, code


def test_the_picture_is_that_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most eight lines, each with its name beside it, the axes named, and the numbers of the text."""
    folder = README.parent / "docs" / "results"
    if not folder.is_dir():
        pytest.skip("a source distribution has no records")
    monkeypatch.syspath_prepend(folder)
    glance = importlib.import_module("draw_glance")
    axes = glance.figure(glance.rows()).axes
    told = [(one.get_xlabel(), one.get_ylabel(), sorted(text.get_text() for text in one.texts)) for one in axes]
    assert told == [
        ("rounds of communication", "accuracy on the test set", ["FedAvg", "FedKFAC", "NTK-FL", "SCAFFOLD"]),
        ("rounds of communication", "", ["DFedAvg", "DFedKFAC", "NTK-DFL"]),
    ]
    lines = [[*map(float, line.get_ydata())] for one in axes for line in one.get_lines()]
    numbers = [(*values[2:3], *values[-1:]) for values in lines if values]
    assert len(numbers) == 7
    fedkfac, _, scaffold, fedavg, dfedkfac, _, dfedavg = numbers
    assert min(fedkfac[0], dfedkfac[0]) > 0.83
    assert max(track[0] for track in (scaffold, fedavg, dfedavg)) < 0.83
    assert max(track[1] for track in (scaffold, fedavg, dfedavg)) < 0.831


def stub(command: Callable[..., int], asked: list[Any]) -> Callable[..., int]:
    """Notes what a command is asked, and does nothing."""

    @wraps(command)
    def note(*given: Any, **more: Any) -> int:
        asked.append((given, more))
        return 0

    return note


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_commands_are_understood(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    manifest = {"experiment": {"method": "ntkdfl", "seed": 0}, "versions": {"fedtangent": __version__}}
    (tmp_path / "runs" / "a" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setattr(front, "list_", stub(front.list_, asked))
    for name in ("run", "demo", "report", "recipe"):
        monkeypatch.setattr(cli, name, stub(getattr(cli, name), asked))
    monkeypatch.setattr(launch, "launch", stub(launch.launch, asked))
    try:
        assert cli.main(words) == 0
    except SystemExit as help_:
        assert help_.code == 0
        return
    assert len(asked) == 1


def texts() -> Iterator[str]:
    """Of the README, the documents and the package's docstrings and messages."""
    root = README.parent
    yield from (path.read_text() for path in [*root.glob("*.md"), *root.glob("docs/**/*.md")])
    for path in root.glob("src/**/*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        yield from (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_every_dotted_name_exists() -> None:
    """With no import but that of the package."""
    named = re.compile(r"(?<![\w/.])fedtangent(?:\.[A-Za-z]\w*)+(?!\w|\.py|\.\{|/)")
    now = (re.sub(r"^ *- from .*$", "", text, flags=re.MULTILINE) for text in texts())  # not what a difference removes
    names = sorted({name for text in now for name in named.findall(text)})
    assert {"fedtangent.datasets.torch_dataset", "fedtangent.tangents", "fedtangent.batch_norm.BatchNorm"} <= set(names)
    code = """
import functools, importlib, sys, fedtangent
for name in sys.argv[1:]:
    try:
        functools.reduce(getattr, name.split(".")[1:], fedtangent)
    except AttributeError:
        importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code, *names], check=True)


def test_a_torch_dataset_becomes_a_dataset_as_the_text_says() -> None:
    code = """
import torch, fedtangent
rows = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.arange(40) % 2)
assert fedtangent.datasets.torch_dataset(rows, rows).classes == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_method_is_in_the_table() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == catalog.names("methods")


def test_exposures_are_the_methods() -> None:
    from tests import tiny_federation as federation

    for name, exposure in re.findall(r"^\| `(\w+)` \|.*\| ([\w-]+) \|$", TEXT, re.MULTILINE):
        assert catalog.load("methods", name)(federation.task()).exposure == exposure


def test_links_and_files_exist() -> None:
    if not (README.parent / "docs").is_dir():
        pytest.skip("a source distribution has no docs")
    linked = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r"`(src/[^`]+)`", TEXT)
    assert linked
    assert [path for path in linked if not (README.parent / path).exists()] in ([], ["docs/results/README.md"])
