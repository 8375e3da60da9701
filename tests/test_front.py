"""The front door: what is there is told in a moment, without PyTorch, and as the import would tell it."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedtangent import catalog, cli, front, parser, parsers
from fedtangent.experiments.experiment import Experiment, choices, takes_host
from fedtangent.experiments.options import options
from fedtangent.sites import commands, site_words

HEAVY = ("torch", "numpy", "matplotlib", "rich", "networkx", "sklearn")


@pytest.mark.parametrize(
    "words",
    [
        [], ["--version"], ["--help"], ["list"], ["list", "methods"], ["run", "--help"], ["recipe"], ["demo", "--help"],
        ["report", "--help"], ["run", "ntkdfl", "--help"], ["check", "fedavg", "--channel", "topk", "-h"],
        ["recipe", "frontier", "--help"], ["provision", "--help"], ["server", "kit", "ntkfl", "-h"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_there_is_needs_no_pytorch(words: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['fedtangent', *sys.argv[1:]]\nimport atexit\n"
        f"atexit.register(lambda: print('\\nheavy', [name for name in {HEAVY} if name in sys.modules]))\n"
        "from fedtangent.__main__ import main\nraise SystemExit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.endswith("\nheavy []\n") and len(done.stdout) > 20


def imported(command: str, method: str, chosen: dict[str, Any]) -> str:
    """The help that the imported functions give."""
    own = options(getattr(cli, command))
    fields = parsers.settings(options(Experiment), takes_host(method))
    return parser.run_parser(command, method, own, fields, choices(method, **chosen)).format_help()


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        *((name, {}) for name in catalog.names("methods")),
        ("fedpart", {"host": "moon", "model": "lenet"}),
        ("fedavg", {"channel": "topk,quantize", "dataset": "npz", "augment": "images"}),
        ("dfedavg", {"topology": "clusters", "partition": "by_class"}),
    ],
)
def test_help_is_that_of_the_imported_functions(method: str, chosen: dict[str, Any]) -> None:
    for command in ("run", "check"):
        assert parsers.method_parser(command, method, chosen).format_help() == imported(command, method, chosen)


@pytest.mark.parametrize(
    "words",
    [
        *(f"{name} --help" for name in parsers.SITE_COMMANDS),
        *(
            f"{name} {'x ' * len(parsers.PLACES[name].split())}-h"
            for name in ("provision", "revoke", "relay", "status")
        ),
        "flower x --help",
        "site x --help",
        "site x --dataset table --help",
        "server x ntkfl --help",
        "start x dfedavg --channel topk --help",
        "server x -h",
    ],
)
def test_help_of_a_federations_command_is_that_of_the_imported_functions(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(answer: Callable[[], int | None]) -> str:
        try:
            assert answer() == 0
        except SystemExit as end:
            assert end.code == 0
        return capsys.readouterr().out

    name, *rest = words.split()
    assert shown(lambda: front.answered([name, *rest])) == shown(
        lambda: site_words.parsed(name, rest, getattr(commands, name))
    )


def test_help_offers_only_what_the_method_takes() -> None:
    def offered(method: str) -> set[str]:
        return set(re.findall(r"^  --([\w-]+)", parsers.method_parser("run", method, {}).format_help(), re.MULTILINE))

    talk = {"topology", "static", "gossip-weights", "degree"}
    assert not talk & offered("fedavg") and talk <= offered("dfedavg") and "augment" in offered("fedavg")
    assert talk <= offered("ntkdfl") and "augment" not in offered("ntkdfl")
    assert "host" in offered("fedpart") and "host" not in offered("fedavg")
    assert "channel" not in offered("local") and "channel" in offered("fedpart")
    # what is not shown is still understood, and told why it is wrong
    hidden = parsers.method_parser("run", "fedavg", {}).parse_args(["--static", "--topology", "ring"])
    assert (hidden.static, hidden.topology) == (True, "ring")


def test_help_tells_choices_and_breaks_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = parsers.method_parser("run", "ntkdfl", {}).format_help()
    assert max(map(len, text.splitlines())) <= 80
    told = " ".join(text.split())
    assert "(one of loss, linearised, held-out; default: loss)" in told
    assert "(one of agnews, cifar10, " in told and "torch_dataset" not in told
    assert "100,200,300,400,500,600,700,800" in text and not re.search(r"\w-\n", text)


@pytest.mark.parametrize(
    "words",
    ["run", "check", "recipe", "server", "site KIT", "relay KIT", "status KIT", "start", "provision FILE", "list"],
)
def test_no_command_tells_more_than_a_line_holds(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):
        assert cli.main([*words.split(), "--help"]) == 0
    usage, *paragraphs = re.sub(r"(?m)^  .*\n", "", capsys.readouterr().out).split("\n\n")  # a list is for grep
    assert usage.startswith("usage: fedtangent")
    assert max(len(line) for text in paragraphs for line in text.splitlines()) <= 80


def every() -> list[Any]:
    parts = [catalog.load(folder, name) for folder in catalog.FOLDERS for name in catalog.names(folder)]
    return [*parts, Experiment, cli.run, cli.check, cli.demo, cli.report, cli.recipe]


@pytest.mark.parametrize("function", every(), ids=lambda function: f"{function.__module__}-{function.__name__}")
def test_no_help_is_a_word_or_two(function: Any) -> None:
    hidden = {"method"} | {name for name in options(Experiment) if name.endswith("options")}
    short = {name: o.help for name, o in options(function).items() if len(o.help.split()) < 4 and name not in hidden}
    assert short == {}


def test_one_kind_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "methods"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()] == catalog.names("methods")
    assert cli.main(["list", "models", "engines"]) == 0
    assert {"models", "engines"} < {line.strip() for line in capsys.readouterr().out.splitlines()}
    assert cli.main(["list", "--help"]) == 0
    assert "KIND is one of methods, models" in capsys.readouterr().out
    assert cli.main(["list", "method"]) == 2
    assert capsys.readouterr().err == (
        "fedtangent: `method` must be a kind of part; got an unknown name. Did you mean 'methods'?\n"
    )


def test_lines_are_of_whole_words_on_a_terminal(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert front.list_(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60 and len(lines) > len(catalog.names("methods"))
    assert {line[:2] for line in lines} == {"  "}


def test_the_package_tells_what_it_has_without_importing_it() -> None:
    code = "import sys, fedtangent; print(*dir(fedtangent)); sys.exit('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"run", "load", "experiment", "Dataset", "tangents", "datasets", "methods", "__version__"} <= set(told)
    assert not [name for name in told if name.startswith("_") and name != "__version__"]


OWN = """'''mine: a method of my own.'''

import os
from typing import Literal

import torch

from fedtangent.methods.dfedavg import dfedavg

SIZE: int = 3
{before}

def mine(task, *, alpha: float = 0.1, size: int | None = {size}, kind: Literal["a", "b"] = "a", loud=False):
    '''DFedAvg.

    Args:
        task: Model and loss.
        alpha: Step size of the SGD.
        size: 100% of it.
        kind: Either of the two.
    '''
    return dfedavg(task, lr=alpha)
"""


@pytest.mark.parametrize(
    ("before", "size", "read"),
    [
        ("", "SIZE * 2", True),
        ("", "os.getpid()", True),
        ("from functools import wraps\n\n\n@staticmethod", "SIZE", False),
        ("", "int(torch.tensor(6))", False),
    ],
)
def test_help_of_a_file_of_ones_own(
    before: str, size: str, read: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read where the file alone tells, else left to the import; the same either way."""
    (tmp_path / "mine.py").write_text(OWN.replace("{before}", before).replace("{size}", size), encoding="utf-8")
    path = str(tmp_path / "mine.py")
    if not read:
        with pytest.raises(LookupError):
            parsers.method_parser("run", path, {})
        assert front.answered(["run", path, "--help"]) is None
        return
    assert parsers.method_parser("run", path, {}).format_help() == imported("run", path, {})
    with pytest.raises(SystemExit):
        front.answered(["run", path, "--help"])
