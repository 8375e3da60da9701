"""The command line's parser: options read off signatures, no abbreviations, and errors that are sentences."""

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fedtangent import catalog
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import PARTS, Experiment, choices, shared, takes_host
from fedtangent.experiments.options import REQUIRED, Option, options, parsed, unknown


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are sentences."""

    def __init__(self, prog: str, description: str = "", add_help: bool = True) -> None:
        usage = f"{prog}{' DIR ...' if prog == 'fedtangent report' else ''} [options]"
        super().__init__(prog=prog, usage=usage, description=description, allow_abbrev=False, add_help=add_help)

    def offer(self, option: Option, *names: str, to: str | None = None, group: Any = None) -> None:
        """Adds an option under its names, of which --help shows the first."""
        silent = option.default is REQUIRED or option.default is False
        default = "" if silent else f" (default: {_text(option.default)})"
        details: dict[str, Any] = {"dest": to or option.name, "default": argparse.SUPPRESS}
        if option.kind is bool:
            details["action"] = "store_true" if option.default is False else argparse.BooleanOptionalAction
        else:
            details["metavar"] = option.name.upper()
        for name in names:
            help_ = (option.help + default).replace("%", "%%") if name == names[0] else argparse.SUPPRESS
            (group or self).add_argument(dashed(f"--{name}"), help=help_, **details)

    def values(self, words: Sequence[str], known: Mapping[str, Any], what: str) -> dict[str, Any]:
        """What the words give, by option.

        Raises:
            ValueError: A word that is no option, or one that could be that of several parts.
        """
        given, extra = self.parse_known_args(words)
        for word in extra:
            if not word.startswith("-"):
                raise SettingError(f"options must have the form --name value; got {word!r} alone. Drop it.")
            name = word.lstrip("-").split("=")[0].replace("-", "_")
            raise SettingError(shared(name, known[name]) if name in known else unknown(name, known, what))
        return {key: "--" if value == [] else value for key, value in vars(given).items()}  # of --name=--

    def error(self, message: str) -> NoReturn:
        """Raises a sentence instead of printing the usage."""
        match = re.match(r"argument (\S+?)(?:/\S+)?: (.*)", message)
        name, wrong = match.groups() if match else (self.prog, message)
        raise SettingError(f"`{name}` must be given as --help tells; {wrong}.")


def run_parser(
    command: str,
    method: str,
    own: dict[str, Option],
    fields: dict[str, Option],
    known: dict[str, list[tuple[str, Option]]],
) -> Parser:
    """The parser of `run` and `check` for one method, whose --help has a group for every part of the experiment.

    Args:
        command: `run` or `check`.
        method: Its name, or its file.
        own: The command's options.
        fields: The experiment's.
        known: By name, with the part's and without: the options of the parts that were chosen, each with its part.
    """
    name = method if method in catalog.names("methods") else Path(method).stem
    parser = Parser(f"fedtangent {command} {method}", f"{name}: {catalog.summary('methods', method)}")
    parser.epilog = (
        "fedtangent list tells the names of data sets, augmentations, models, partitions, topologies and engines."
    )
    for title, offered in (("this command", own), ("the experiment", fields)):
        group = parser.add_argument_group(title)
        for option in offered.values():
            parser.offer(option, option.name, group=group)
    for part in PARTS:
        group = parser.add_argument_group(f"the {part}")
        for key in (key for key in known if key.startswith(f"{part}.")):
            option = known[key][0][1]
            free = option.name not in own and len(known.get(option.name, ())) == 1
            parser.offer(option, *([option.name] if free else []), key, to=key, group=group)
    return parser


def method_words(
    command: str, words: Sequence[str], own: dict[str, Option], without: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of an experiment from METHOD and its options, and the options of the command itself.

    Args:
        command: Such as `run`.
        words: METHOD first.
        own: The command's options.
        without: Fields of the experiment, and parts, that this command does not offer.
    """
    method, fields = words[0], options(Experiment)
    for part in ("method", *(kind.options for kind in PARTS.values()), *without):
        fields.pop(part, None)
    first = Parser(f"fedtangent {command}", add_help=False)  # which parts are chosen decides what options there are
    for part in PARTS:
        first.offer(Option(part, str, None, ""), part)
    chosen = vars(first.parse_known_args(words[1:])[0])
    chosen.pop("method", None)
    known = choices(method, **chosen)
    of_parts = {name: [one for one in owners if one[0] not in without] for name, owners in known.items()}
    known = {name: owners for name, owners in of_parts.items() if owners}
    if not takes_host(method):
        fields.pop("host")
    parser = run_parser(command, method, own, fields, known)
    settings: dict[str, Any] = {"method": method}
    of_command: dict[str, Any] = {}
    for key, value in parser.values(words[1:], {**own, **fields, **known}, f"an option of {command}").items():
        into, option = (of_command, own[key]) if key in own else (settings, fields.get(key) or known[key][0][1])
        into[key] = typed(option, value)
    return settings, of_command


def dashed(word: str) -> str:
    """The word, with dashes in the name of an option."""
    name, *value = word.split("=", 1)
    return "=".join([name.replace("_", "-"), *value]) if word.startswith("--") else word


def typed(option: Option, value: Any) -> Any:
    """A value as the option takes it: read where it is text, as it is otherwise."""
    return parsed(option, value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
