"""Parsers: the parser of every command, from the files of this package alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedtangent import catalog
from fedtangent.config import CONFIG
from fedtangent.experiments.options import Option
from fedtangent.experiments.parts import CHAINS, DEFAULT_HOST, PARTS, found, is_host
from fedtangent.experiments.written import ROOT, first_line, written
from fedtangent.parser import Parser, run_parser

CLI, EXPERIMENT, CHAIN = (ROOT / name for name in ("cli.py", "experiments/experiment.py", "experiments/chain.py"))
BYZANTINE = ROOT / "experiments/byzantine.py"
SITES = ROOT / "sites/commands.py"
COMMANDS = ("run", "check", "demo", "report", "recipe")
SITE_COMMANDS = ("provision", "revoke", "relay", "status", "server", "site", "start", "flower")  # of a real federation


def command_parser(name: str) -> Parser:
    """The parser of a command that takes neither a method nor a recipe."""
    parser = Parser(f"fedtangent {name}", first_line(CLI, name))
    if name == "report":
        parser.add_argument("folders", nargs="+", metavar="DIR", help="A run's folder, or one that holds some.")
    for option in written(CLI, name).values():
        parser.offer(option, option.name)
    return parser


def method_parser(command: str, method: str, chosen: Mapping[str, Any]) -> Parser:
    """The parser of `run` or `check` for a method and the parts that were chosen.

    Raises:
        ValueError: A name that is none, or a file that is not there.
        LookupError: A file of the user's own that has to be imported.
    """
    fields = written(EXPERIMENT, "Experiment")
    known = found(lambda part, value: _options(part, method, value), fields, {**chosen, "method": method})
    return run_parser(command, method, written(CLI, command), settings(fields, takes_host(method)), known)


def recipe_parser(name: str) -> Parser:
    """The parser of a recipe of this package."""
    parser = Parser(f"fedtangent recipe {name}", f"{name}: {catalog.summary('recipes', name)}")
    for option in {**written(CLI, "recipe"), **written(catalog.path("recipes", name), name)}.values():
        parser.offer(option, option.name)
    return parser


def settings(fields: Mapping[str, Option], host: bool) -> dict[str, Option]:
    """The experiment's fields that are options of the command line."""
    hidden = {"method", *(kind.options for kind in PARTS.values()), *([] if host else ["host"])}
    return {name: option for name, option in fields.items() if name not in hidden}


def takes_host(method: str) -> bool:
    """Whether a method is run around another."""
    return is_host(_written("methods", method).get("host"))


def chosen_parts(command: str, words: list[str]) -> dict[str, str]:
    """The parts that the words choose, and the config that they name: these decide what options there are."""
    first = Parser(f"fedtangent {command}", add_help=False)
    for part in (*PARTS, CONFIG.name):
        first.offer(Option(part, str, None, ""), part)
    chosen = vars(first.parse_known_args(words)[0])
    chosen.pop("method", None)
    return {part: "--" if value == [] else value for part, value in chosen.items()}


def _options(part: str, method: str, value: str | None) -> dict[str, Option]:
    """The options of a part that is chosen."""
    if part == "host":
        value = (value or DEFAULT_HOST) if takes_host(method) else None
    value = value or PARTS[part].default
    if value is None or (part == "partition" and (value == "index_file" or Path(value).suffix in (".npz", ".json"))):
        return {}
    own = [_written(PARTS[part].folder, name) for name in value.split(",")]
    merged = {key: option for options in own for key, option in options.items()}
    if part in ("attack", "rule"):
        return {**merged, **written(BYZANTINE, part)}
    return {**merged, **written(CHAIN, CHAINS[part])} if part in CHAINS else merged


def _written(folder: str, name: str) -> dict[str, Option]:
    """The options of a part by its name, or by the path of a file of the user's own."""
    path = catalog.path(folder, name)
    try:
        return written(path, path.stem)
    except LookupError:
        raise
    except Exception as error:  # whatever the user's own file does
        raise LookupError(name) from error
