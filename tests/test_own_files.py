"""A user's own file of every kind: what is wrong with it is one sentence that says what to mend, and exit code 2."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import fedtangent
from fedtangent import catalog, cli
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.parts import PARTS
from fedtangent.experiments.setup import setup


class Kind(NamedTuple):
    """A kind of file: its imports, its function's head, what it returns, and the command that names it."""

    imports: str
    head: str
    body: str
    words: tuple[str, ...]
    refused: str  # what is said of a function that gives None


RUN = ("run", "fedavg")
METHOD = "from fedtangent.methods.fedavg import fedavg"
KINDS = {
    "method": Kind(METHOD, "mine(task)", "return fedavg(task)", ("run", "FILE"), "`method` must give a Method"),
    "host": Kind(
        METHOD,
        "mine(task)",
        "return fedavg(task)",
        ("run", "fedpart", "--rounds", "9", "--warm-up", "1", "--host", "FILE"),
        "`host` must give a Method",
    ),
    "dataset": Kind(
        "import torch\nfrom fedtangent import Dataset",
        "mine(data_dir)",
        "x = torch.eye(40); y = torch.arange(40) % 3; return Dataset('mine', x, y, x, y, 3)",
        (*RUN, "--dataset", "FILE"),
        "`dataset` must be a Dataset or give one",
    ),
    "augment": Kind(
        "import torch\nfrom fedtangent.training.task import Augmentation",
        "mine()",
        "return Augmentation(lambda rng, rows: torch.zeros(rows), lambda x, drawn: x)",
        (*RUN, "--augment", "FILE"),
        "`augment` must give an Augmentation",
    ),
    "model": Kind(
        "from torch import nn",
        "mine(inputs, outputs, rng)",
        "return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))",
        (*RUN, "--model", "FILE"),
        "`model` must be a module or give one",
    ),
    "partition": Kind(
        "import numpy as np\nfrom fedtangent import Partition",
        "mine(x, y, nodes, rng)",
        "return Partition(np.array_split(np.arange(len(y)), nodes))",
        (*RUN, "--partition", "FILE"),
        "`partition` must be a Partition or give one",
    ),
    "topology": Kind(
        "from fedtangent.topologies.complete import complete",
        "mine(nodes, rng)",
        "return complete(nodes, rng)",
        ("run", "dfedavg", "--topology", "FILE"),
        "`topology` must give a Graph",
    ),
    "channel": Kind(
        "from fedtangent.federation import Channel, Coded",
        "mine()",
        "return Channel(lambda coded, draw: coded, lambda size: size)",
        (*RUN, "--channel", "FILE"),
        "`channel` must give a Channel",
    ),
    "fault": Kind(
        "from fedtangent.federation import Fault, Missing",
        "mine()",
        "return Fault(lambda planned, draw: Missing())",
        (*RUN, "--fault", "FILE"),
        "`fault` must give a Fault",
    ),
    "attack": Kind(
        "from fedtangent.federation import Attack",
        "mine()",
        "return Attack(lambda told: -told.own)",
        (*RUN, "--attack", "FILE"),
        "`attack` must give an Attack",
    ),
    "rule": Kind(
        "from fedtangent.federation import Rule",
        "mine()",
        "return Rule(lambda given: given.x.mean(0), None, lambda liars: 1)",
        (*RUN, "--rule", "FILE"),
        "`rule` must give a Rule",
    ),
    "metric": Kind(
        "",
        "mine(outputs, labels)",
        "return 0.5",
        (*RUN, "--metric", "FILE"),
        "`metric` must be defined on some test rows",
    ),
    "engine": Kind(
        "from fedtangent.engines.sequential import sequential",
        "mine(memory=0)",
        "return sequential()",
        (*RUN, "--engine", "FILE"),
        "`engine` must give an Engine",
    ),
    "track": Kind(
        "from fedtangent.trackers import Tracker",
        "mine()",
        "return lambda run: Tracker('1', lambda k, numbers: None, lambda files, well: None)",
        (*RUN, "--track", "FILE"),
        "`track` must be a function of (run)",
    ),
    "recipe": Kind(
        "from matplotlib.figure import Figure\ntable, figure = list, lambda rows: Figure()",
        "mine()",
        "yield {'a': 1}",
        ("recipe", "FILE"),
        "`mine` must yield rows",
    ),
}
ALONE = {name for name, kind in KINDS.items() if kind.head == "mine()"} | {"engine"}  # which take options alone
IMPORTED = "`FILE` must be a Python file that imports; got "
UNNAMED = "`FILE` must define a function named 'mine'; got none. Name the function like its file."


class Wrong(NamedTuple):
    """A file that is wrong, and what is said of it."""

    text: Callable[[Kind], str]
    said: Callable[[Kind], str]


def written(kind: Kind, head: str, body: str) -> str:
    return f"{kind.imports}\ndef {head}:\n    {body}\n"


WRONG = {
    "syntax": Wrong(lambda kind: "def mine(:\n", lambda kind: IMPORTED + "SyntaxError: .*line 1.*Mend the file."),
    "no text": Wrong(lambda kind: "\0", lambda kind: IMPORTED + "SyntaxError: .* null bytes.*"),
    "fails as it is imported": Wrong(
        lambda kind: "a = {}\na['b']\n", lambda kind: IMPORTED + "KeyError at line 2: 'b'. Mend the file."
    ),
    "imports what is not there": Wrong(
        lambda kind: "import nowhere_at_all\n", lambda kind: IMPORTED + "ModuleNotFoundError at line 1: No module .*"
    ),
    "ends the program": Wrong(
        lambda kind: "import sys\nsys.exit()\n", lambda kind: IMPORTED + "SystemExit at line 2. Mend the file."
    ),
    "another name": Wrong(
        lambda kind: written(kind, kind.head.replace("mine", "yours"), kind.body), lambda kind: UNNAMED
    ),
    "no function": Wrong(lambda kind: "mine = 3\n", lambda kind: UNNAMED),
    "too many arguments": Wrong(
        lambda kind: written(kind, "mine(a, b, c, d, e, f)", kind.body),
        lambda kind: "`.*` (mine )?must (be a function of .*|take .*); got .*(missing|required).*",
    ),
    "too few arguments": Wrong(
        lambda kind: written(kind, "mine()", kind.body),
        lambda kind: "`.*` (mine )?must (be a function of .*|take .*); got .*(too many|takes 0).*",
    ),
    "gives nothing": Wrong(
        lambda kind: written(kind, kind.head, "return None"),
        lambda kind: re.escape(kind.refused) + "; got (NoneType|none of mine).*",
    ),
    "fails as it is called": Wrong(
        lambda kind: written(kind, kind.head, "return [][1]"),
        lambda kind: (
            "`metric` mine must .*got IndexError.*"
            if kind.refused.startswith("`metric`")
            else "`FILE` must run; got IndexError at line .: list index out of range. Mend .*"
        ),
    ),
}
PAIRS = [(name, wrong) for name in KINDS for wrong in WRONG if wrong != "too few arguments" or name not in ALONE]

# What a file gives holds functions, too: wrong in what they take or give, by kind.
INSIDE = [
    ("channel", "Channel(lambda coded: coded, lambda size: size)", "`code` must be a function of (coded, draw)"),
    ("channel", "Channel(lambda coded, draw: None, lambda size: size)", "`code` of a channel must give a Coded"),
    ("channel", "Channel(lambda coded, draw: Coded(coded.values[:1], coded.sent), lambda size: size)", "`code` of a"),
    ("channel", "Channel(lambda coded, draw: coded, lambda size: None)", "`size` of a channel must give a Size"),
    ("channel", "Channel(lambda coded, draw: coded.value, lambda size: size)", "`FILE` must run; got AttributeError"),
    ("fault", "Fault(lambda planned: Missing())", "`missing` must be a function of (planned, draw)"),
    ("fault", "Fault(lambda planned, draw: None)", "`fault` must give a Missing; got NoneType from mine"),
    ("fault", "Fault(lambda planned, draw: Missing(nodes=3))", "`fault` must list nodes, and links as pairs"),
    ("fault", "Fault(lambda planned, draw: Missing(links=[3]))", "`fault` must list nodes, and links as pairs"),
    ("attack", "Attack(lambda: 3)", "`lie` must be a function of (told)"),
    ("attack", "Attack(lambda told: None)", "`lie` of an attack must give a tensor; got NoneType"),
    ("attack", "Attack(data=lambda shard: shard)", "`data` must be a function of (shard, classes)"),
    ("attack", "Attack(data=lambda shard, classes: None)", "`data` of an attack must give a Shard; got NoneType"),
    ("rule", "Rule(lambda: 3, None, lambda liars: 1)", "`average` must be a function of (given)"),
    ("rule", "Rule(lambda given: None, None, lambda liars: 1)", "`average` of a rule must give "),
    ("rule", "Rule(lambda given: given.x, None, lambda liars: 1)", "`average` of a rule must give "),
    ("rule", "Rule(lambda given: given.x.mean(0), None, lambda liars: None)", "`rule` must tell a number of liars"),
    ("augment", "Augmentation(lambda: 3, lambda x, drawn: x)", "`augment` must take inputs of shape"),
    ("augment", "Augmentation(lambda rng, rows: rows, lambda x, drawn: x)", "`augment` must draw tensors; got int"),
    ("partition", "Partition([])", "`partition` must list the rows of at least one node; got []"),
    ("track", "lambda: None", "`track` must be a function of (run)"),
    ("track", "lambda run: None", "`track` must give a Tracker of a run, whose id is a text; got NoneType"),
    ("method", "fedavg(task)._replace(init=lambda fleet, data_k: None)", "`init` of fedavg must give a state"),
    (
        "method",
        "fedavg(task)._replace(round=lambda fleet: None)",
        "`round` must be a function of (fleet, state, data_k, k)",
    ),
    ("method", "fedavg(task)._replace(round=lambda fleet, state, data_k, k: state)", "`fedavg` must give a state, "),
    (
        "method",
        "fedavg(task)._replace(aggregate=lambda *_: None)",
        "`aggregate` of fedavg must give the server's weights",
    ),
    *[
        (
            "method",
            f"fedavg(task)._replace(aggregate=lambda fleet, s, d: fleet.at_server(lambda w: {given}, s.w))",
            f"`fedavg` must keep a tensor for every parameter; got {got} in round 1. ",
        )
        for given, got in (("None", "NoneType"), ("{'1.bias': w['1.bias']}", "none named '1.weight'"))
    ],
    *[
        (
            "method",
            f"fedavg(task)._replace(aggregate=lambda fleet, s, d: fleet.at_server(lambda w: {given}, s.w))",
            f"`fedavg` must keep '1.weight' a tensor (100, 64) of torch.float32; got {got} in round 1. ",
        )
        for given, got in (
            ("{**w, '1.weight': w['1.weight'][:1]}", "(1, 64) of torch.float32"),
            ("{**w, '1.weight': w['1.weight'].double()}", "(100, 64) of torch.float64"),
            ("{**w, '1.weight': 3}", "int"),
        )
    ],
    ("method", "fedavg(task)._replace(exposure='loud')", "`method` must tell an exposure of none, aggregate, "),
    (
        "method",
        "fedavg(task)._replace(round=lambda *given: given[9])",
        "`FILE` must run; got IndexError at line 3: tuple index",
    ),
]


def command(kind: Kind, text: str, folder: Path) -> list[str]:
    (file := folder / "mine.py").write_text(text)
    words = [str(file) if word == "FILE" else word for word in kind.words]
    own = [] if words[0] == "recipe" else ["--nodes", "3", *([] if "--rounds" in words else ["--rounds", "1"])]
    return [*words, *own, "--out", str(folder / "out"), "--quiet"]


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(".")
    return line.removeprefix("fedtangent: ")


def test_every_kind_of_file_is_tried() -> None:
    folders = {"track": "trackers", "metric": "metrics", "recipe": "recipes", "engine": "engines"}
    folders |= {part: kind.folder for part, kind in PARTS.items()}
    assert {*folders} == {*KINDS}
    assert {*folders.values()} == {*catalog.FOLDERS}


@pytest.mark.few(8)
@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_ones_own_is_taken(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    assert cli.main(command(kind, written(kind, kind.head, kind.body), tmp_path)) == 0


# What global generators draw in a function that is called before the rounds: by the seed, and by nothing else.
DRAWS = (
    "torch.randn(n)",
    "torch.from_numpy(np.random.randn(n)).float()",
    "torch.tensor([random.random() for _ in range(n)])",
)
DRAWING = {
    "dataset": "x = drawn(320).reshape(40, 8); y = torch.arange(40) % 3; return Dataset('mine', x, y, x, y, 3)",
    "model": "m = nn.Linear(64, outputs); m.weight.data = drawn(64 * outputs).reshape(-1, 64); "
    "return nn.Sequential(nn.Flatten(), m)",
    "partition": "return Partition(np.array_split(drawn(len(y)).argsort().numpy(), nodes))",
    "topology": "i = drawn(nodes).argsort().tolist(); return Graph(list(zip(i, i[1:])), nodes)",
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("name", DRAWING)
def test_what_a_file_draws_is_by_the_seed(name: str, draw: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    imports = "import random\nimport numpy as np\nimport torch\nfrom fedtangent.federation import Graph"
    imports = f"{imports}\n{kind.imports}\ndrawn = lambda n: {draw}"
    (file := tmp_path / "mine.py").write_text(written(kind._replace(imports=imports), kind.head, DRAWING[name]))

    def found(seed: int) -> tuple[str, list[object]]:
        built = setup(experiment("dfedavg", nodes=6, seed=seed, **{name: str(file)}))
        return built.fingerprint, [graph.edges for k in (1, 2) if (graph := built.graph(k)) is not None]

    generators = random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist()  # noqa: NPY002
    first = found(3)
    assert generators == (random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist())  # noqa: NPY002
    assert first == found(3) != found(4)
    if name == "topology":
        assert first[1][0] != first[1][1]


def test_a_file_may_be_named_by_a_path_or_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("method", "model", "track"):
        kind = KINDS[name]
        (tmp_path / "mine.py").write_text(written(kind, kind.head, kind.body))
        words = ["~/mine.py" if word == "FILE" else word for word in kind.words]
        assert cli.main([*words, "--nodes", "3", "--rounds", "1", "--out", f"~/{name}", "--quiet"]) == 0
        assert (tmp_path / name / "manifest.json").is_file()
    mine, out = tmp_path / "mine.py", tmp_path / "out"
    fedtangent.run("fedavg", nodes=3, rounds=1, track=[mine], out=out)
    fedtangent.run("fedavg", nodes=3, rounds=2, track=mine, out=out, resume=True)  # type: ignore[arg-type]


def test_an_option_may_be_called_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = KINDS["method"]
    words = command(kind, written(kind, "mine(task, *, help=3)", "print('help', help); return fedavg(task)"), tmp_path)
    assert cli.main([*words, "--method.help", "5"]) == 0
    assert "help 5" in capsys.readouterr().out


@pytest.mark.few(60)
@pytest.mark.parametrize(("name", "wrong"), PAIRS)
def test_what_is_wrong_with_a_file_is_one_sentence(
    name: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = KINDS[name]
    line = said(command(kind, WRONG[wrong].text(kind), tmp_path), capsys)
    pattern = WRONG[wrong].said(kind).replace("FILE", re.escape(str(tmp_path / "mine.py")))
    assert re.fullmatch(pattern, line), line


@pytest.mark.few(40)
@pytest.mark.parametrize(("name", "given", "begins"), INSIDE)
def test_what_is_wrong_inside_of_it_is_one_sentence(
    name: str, given: str, begins: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = KINDS[name]
    line = said(command(kind, written(kind, kind.head, f"return {given}"), tmp_path), capsys)
    assert line.startswith(begins.replace("FILE", str(tmp_path / "mine.py"))), line


def test_from_python_the_whole_traceback_is_there(tmp_path: Path) -> None:
    (file := tmp_path / "mine.py").write_text(written(KINDS["method"], "mine(task)", "return [][1]"))
    with pytest.raises(IndexError) as caught:
        fedtangent.run(str(file), rounds=1)
    assert catalog.place(caught.value) == (str(file), 3)


@pytest.mark.usefixtures("forked_ranks")
def test_ranks_tell_the_line_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kind = KINDS["method"]
    words = command(kind, written(kind, kind.head, "return [][1]"), tmp_path)
    assert cli.main([*words, "--ranks", "2"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"fedtangent: `{tmp_path / 'mine.py'}` must run; got IndexError at line 3: list index")
