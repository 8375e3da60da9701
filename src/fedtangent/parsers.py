"""Parsers: the parser of every command, from the files of this package alone."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fedtangent import catalog
from fedtangent.config import CONFIG
from fedtangent.experiments.options import Option
from fedtangent.experiments.parts import CHAINS, DEFAULT_HOST, PARTS, found, is_host
from fedtangent.experiments.written import ROOT, first_line, written
from fedtangent.parser import Parser, offered, run_parser

CLI, EXPERIMENT, CHAIN = (ROOT / name for name in ("cli.py", "experiments/experiment.py", "experiments/chain.py"))
BYZANTINE = ROOT / "experiments/byzantine.py"
SITES = ROOT / "sites/commands.py"
COMMANDS = ("run", "check", "demo", "report", "recipe")
PLACES = {  # of the commands of a real federation, what comes before the options
    "provision": "FILE",
    "revoke": "KITS SITE",
    "relay": "KIT",
    "status": "KIT",
    "server": "KIT METHOD",
    "site": "KIT",
    "start": "KIT METHOD",
    "flower": "FOLDER",
}
SITE_COMMANDS = tuple(PLACES)
# What every site decides for itself, what is fixed, and what would have to be known of all sites' rows.
OWN = ("dataset", "data_dir", "device")
LOCAL = (*OWN, "dataset_options")
SIMULATED = ("partition", "partition_options", "nodes", "engine", "memory", "fault", "fault_options")
WITHOUT = ("attack", "attack_options", "class_weights", *SIMULATED)


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


def leading_parser(command: str, method: str, chosen: Mapping[str, Any]) -> Parser:
    """The parser of `server` or `start`, as `method_parser`'s."""
    without = left_out(command)
    fields = written(EXPERIMENT, "Experiment")
    owners = found(lambda part, value: _options(part, method, value), fields, {**chosen, "method": method})
    known = offered_by(owners, without)
    fields = {name: option for name, option in settings(fields, takes_host(method)).items() if name not in without}
    return run_parser(command, method, written(SITES, command), fields, known)


def offered_by(
    owners: Mapping[str, list[tuple[str, Option]]], without: Collection[str]
) -> dict[str, list[tuple[str, Option]]]:
    """The options of the parts that a command offers, and whose each is, as `parts.found` gives those of all."""
    return {name: its for name, all_ in owners.items() if (its := [one for one in all_ if one[0] not in without])}


def left_out(command: str) -> tuple[str, ...]:
    """The experiment's settings, and the parts, that `server` or `start` does not take."""
    return (*WITHOUT, *(("dataset", "data_dir") if command == "server" else ()))


def site_parser(command: str, chosen: Mapping[str, Any]) -> Parser:
    """The parser of a command of a real federation that takes no method."""
    parser = Parser(f"fedtangent {command} {PLACES[command]}", first_line(SITES, command))
    own = written(SITES, command)
    if command == "site":
        fields = written(EXPERIMENT, "Experiment")
        its = _options("dataset", "local", chosen.get("dataset"))
        own = {**own, **{name: fields[name] for name in OWN}, **its}
    for option in own.values():
        parser.offer(option, option.name, among=offered("datasets") if option.name == "dataset" else ())
    return parser


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
        return written(path, catalog.function_of(path))
    except LookupError:
        raise
    except Exception as error:  # whatever the user's own file does
        raise LookupError(name) from error
