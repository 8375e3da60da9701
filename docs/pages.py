"""Pages that are read off the files: one a method, the list of methods, and the commands with all their options."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from fedtangent import catalog, parsers
from fedtangent.experiments.dry_run import dry_run
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.options import REQUIRED, Option, values_of
from fedtangent.experiments.setup import setup
from fedtangent.experiments.written import ROOT, file, first_line, tree, written
from fedtangent.federation import Method
from fedtangent.losses import cross_entropy
from fedtangent.reports.listings import MEANING
from fedtangent.reports.statistics import bytes_text
from fedtangent.task import Task

WAYS = {"up": "to the server", "down": "from the server", "between": "between neighbours"}
SETTING = "the digits over 20 nodes at alpha 0.1, a network of 64-100-10, the method's defaults"


_TOUR = """A module imports only what stands below it, which `make check` enforces. The plural folders hold peers, one
file an idea, and the name of a file there is what the command line calls it."""
_FILES = """## How a run goes

`cli` parses, `experiments.experiment` says in words what is to be done, `experiments.setup` builds and checks every
part of it, and `experiments.run` holds the only training loop. In a round the method's text calls the verbs of a
`federation.Fleet`: an engine of `engines` computes what the verbs map, a transport of `transports` carries what they
send, and the ledger books the bytes where a message passes. After a round the models are measured, the entry is
appended to the record, and a checkpoint is written.

To add a method, a model or another part, add one file and one test: `CONTRIBUTING.md` says how, and
[A method of your own](start/own_method.md) has a skeleton."""


class Cost(NamedTuple):
    """Of a method in SETTING: bytes of all messages in the first round and in a later one, and multiply-adds."""

    first: int
    later: int


def write(folder: Path) -> None:
    """Writes all of them, those that changed only."""
    (folder / "methods").mkdir(exist_ok=True)
    names = catalog.names("methods")
    texts = {f"methods/{name}.md": method_page(name, cost(name)) for name in names}
    texts |= {"methods/index.md": index_page(names), "commands.md": commands_page(), "tour.md": tour_page()}
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def built(name: str) -> Method:
    """The method with its defaults, on a small network."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return catalog.load("methods", name)(Task(model, cross_entropy, torch.zeros(2, 3)))


TREES = ("relaysgd",)  # methods of graphs without a cycle


def cost(name: str) -> Cost:
    """What a round of the method sends in SETTING; on a line where it asks for a tree."""
    asked = {"nodes": 20, "alpha": 0.1, "rounds": 200, "evaluate_nodes_every": 0}
    needs = dry_run(setup(experiment(name, **asked, **({"topology": "line"} if name in TREES else {}))))
    return Cost(needs.first_round_bytes, needs.later_round_bytes)


def method_page(name: str, cost: Cost | None) -> str:
    """The page of a method: docstring, who talks, exposure, options, cost."""
    method, path = built(name), catalog.path("methods", name)
    lines = [f"# {name}", "", *_docstring(path), "", "| | |", "|---|---|"]
    lines += [f"| Who talks | {who(method)} |", f"| Messages | {_messages(method)} |"]
    lines += [f"| Exposure | {method.exposure}: {MEANING[method.exposure]} |", f"| Model | {model(method)} |", ""]
    if cost is not None:
        later = "the same in every later one" if cost.later == cost.first else f"{_size(cost.later)} in a later one"
        lines += [f"On {SETTING}, all nodes together send {_size(cost.first)} in the first round and {later}.", ""]
    lines += ["## Options", "", *_body(name), "", *_table(written(path, name)), "", "```sh"]
    lines += [f"fedtangent run {name} --help", "```", ""]
    lines += [f"The file: `src/fedtangent/methods/{name}.py`. How to choose: [Choose a method](../choose.md).", ""]
    return "\n".join(lines)


def index_page(names: list[str]) -> str:
    """The list of methods."""
    rows = [f"| [{name}]({name}.md) | {_cell(catalog.summary('methods', name))} |" for name in names]
    text = [
        "# Methods",
        "",
        "One page a method, read off its file. Which to take: [Choose a method](../choose.md).",
        "",
    ]
    return "\n".join([*text, "| | |", "|---|---|", *rows, "", "```{toctree}", ":hidden:", "", *names, "```", ""])


def commands_page() -> str:
    """Every command with all its options; those of `run` without the method's own."""
    lines = ["# Commands", "", "Every command and its options, as `--help` tells them.", ""]
    for path, names in ((parsers.CLI, parsers.COMMANDS), (parsers.SITES, parsers.SITE_COMMANDS)):
        for name in names:
            lines += [f"## fedtangent {name}", "", first_line(path, name), ""]
            options = written(path, name)
            lines += [*_table(options), ""] if options else []
    fields = parsers.settings(written(parsers.EXPERIMENT, "Experiment"), True)
    lines += [
        "## Settings of an experiment",
        "",
        "Those of `run` and `check`, and of `fedtangent.run` from Python.",
        "",
    ]
    return "\n".join([*lines, *_table(fields), ""])


def tour_page() -> str:
    """The modules in the order in which they import each other, each with the first line of its file."""
    linted = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(one["layers"] for one in linted["contracts"] if one["name"] == "Imports point down")
    lines = ["# A tour of the code", "", _TOUR]
    lines += ["", "| module | what it is |", "|---|---|"]
    for layer in layers:
        names = [name.strip("() ") for name in layer.split("|")]
        lines += [f"| {_module(name)} | {_cell(_summary(name))} |" for name in names if name != "__main__"]
    return "\n".join([*lines, "", _FILES, ""])


def _module(name: str) -> str:
    return f"`{name}/`" if (ROOT / name).is_dir() else f"`{name}.py`"


def _summary(name: str) -> str:
    path = file(f"fedtangent.{name}")
    assert path is not None
    return (ast.get_docstring(tree(path)) or "").partition("\n")[0]


def who(method: Method) -> str:
    """Between whom messages travel."""
    if method.traits.neighbours:
        return "neighbours"
    return "nobody" if method.exposure == "none" else "clients and a server"


def model(method: Method) -> str:
    """What the method asks of a model."""
    if method.traits.tangent:
        return "any that is deterministic and treats every row alone: no dropout or batch norm in train mode"
    return "any" if method.traits.averages else "any without batch norm in train mode"


def _messages(method: Method) -> str:
    told = [f"{name} ({', '.join(WAYS[way] for way in message.ways)})" for name, message in method.messages.items()]
    return ", ".join(told) or "none that has a name"


def _docstring(path: Path) -> list[str]:
    """The module's docstring, its pseudo-code as it stands."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""
    first, *rest = re.split(r"\n[ ]*\n", text.rstrip())
    summary = first.split(": ", 1)[-1]
    paragraphs = [summary[:1].upper() + summary[1:], *rest]
    return "\n\n".join(map(_fenced, paragraphs)).splitlines()


def _fenced(paragraph: str) -> str:
    """A paragraph, pseudo-code as it stands."""
    return f"```text\n{paragraph}\n```" if paragraph.startswith("    ") or " <- " in paragraph else paragraph


def _body(name: str) -> list[str]:
    """What the function's docstring says beside its arguments."""
    text = sys.modules[catalog.load("methods", name).__module__].__dict__[name].__doc__ or ""
    body = re.split(r"\n\s*(?:Args|Raises|Returns):\n", text)[0]
    return [line.strip() for line in body.splitlines()]


def _table(options: dict[str, Option]) -> list[str]:
    if not options:
        return ["It has no options of its own."]
    return [
        "| option | default | |",
        "|---|---|---|",
        *(f"| {' | '.join(_row(option))} |" for option in options.values()),
    ]


def _row(option: Option) -> tuple[str, str, str]:
    default = "" if option.default is REQUIRED or option.default is False else f"`{_text(option.default)}`"
    values = f" One of {', '.join(f'`{value}`' for value in values_of(option))}." if values_of(option) else ""
    return f"`--{option.name.replace('_', '-')}`", default, _cell(f"{option.help}{values}")


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or value is True else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _size(count: int) -> str:
    return bytes_text(count) if count else "nothing"
