"""The command line's parser: options read off signatures, no abbreviations, and errors that are sentences."""

import argparse
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fedtangent import catalog
from fedtangent.config import CONFIG
from fedtangent.errors import SettingError
from fedtangent.experiments.options import REQUIRED, Option, parsed, unknown, values_of
from fedtangent.experiments.parts import LOCAL_STEPS, PARTS, is_host, shared
from fedtangent.experiments.written import imports, names, names_any, parameters, told, written

_FOLDERS = {"track": "trackers"}  # of names that are not of their folder in the singular


class _Whole(argparse.HelpFormatter):
    """Breaks lines between words only: no option and no value is torn at a hyphen or a comma."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return folded(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in folded(text, width - len(indent)))


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are sentences.

    Attributes:
        shown: The names that --help shows.
        among: By name, the values that an option chooses from.
        valued: The names after which a value follows.
    """

    def __init__(self, prog: str, description: str = "", add_help: bool = True) -> None:
        usage = f"{prog}{' DIR ...' if prog == 'fedtangent report' else ''} [options]"
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            allow_abbrev=False,
            add_help=add_help,
            formatter_class=_Whole,
        )
        self.shown: list[str] = ["--help"] if add_help else []
        self.among: dict[str, Sequence[str]] = {}
        self.valued: set[str] = set()

    def offer(
        self,
        option: Option,
        *names: str,
        to: str | None = None,
        group: Any = None,
        shown: bool = True,
        among: Sequence[str] = (),
    ) -> None:
        """Adds an option under its names, of which --help shows the first.

        Args:
            option: The option.
            names: What it is called.
            to: Where its value goes; none is its name.
            group: The group of the help that shows it; none shows it with the others.
            shown: Whether --help shows it.
            among: The names that it chooses from, where its type does not tell them.
        """
        values = among or values_of(option)
        notes = [f"{'one of ' if len(values) > 1 else ''}{', '.join(values)}"] if values else []
        if option.default is not REQUIRED and option.default is not False:
            notes.append(f"default: {_text(option.default)}")
        details: dict[str, Any] = {"dest": to or option.name, "default": argparse.SUPPRESS}
        if option.kind is bool:
            details["action"] = "store_true" if option.default is False else argparse.BooleanOptionalAction
        else:
            details["metavar"] = option.name.upper()
        for name in names:
            if shown and name == names[0]:
                self.shown.append(dashed(f"--{name}"))
            if "metavar" in details:
                self.valued.add(dashed(f"--{name}"))
                self.among |= {dashed(f"--{name}"): values} if values else {}
            text = f"{option.help} ({'; '.join(notes)})" if notes else option.help
            help_ = text.strip().replace("%", "%%") if shown and name == names[0] else argparse.SUPPRESS
            (group or self).add_argument(dashed(f"--{name}"), help=help_, **details)

    def values(self, words: Sequence[str], known: Mapping[str, Any], what: str) -> dict[str, Any]:
        """What the words give, by option.

        Raises:
            ValueError: A word that is no option, or one that could be that of several parts.
        """
        given, extra = self.parse_known_args(words)
        for word in extra:
            if not word.strip("-") or not word.startswith("-"):
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
    """The parser of a command for one method, whose --help has a group for every part of the experiment.

    What a method of this package cannot use, such as a topology without neighbours, is understood and not shown.

    Args:
        command: run, check, server or start.
        method: Its name, or its file.
        own: The command's options.
        fields: The experiment's.
        known: By name, with the part's and without: the options of the parts that were chosen, each with its part.
    """
    name = method if method in catalog.names("methods") else Path(method).stem
    parser = Parser(f"fedtangent {command} {method}", f"{name}: {catalog.summary('methods', method)}")
    parser.epilog = (
        "A data set, model or other part may also be a file of your own; fedtangent list tells what each is."
    )
    hidden, own = useless(method), {**own, CONFIG.name: CONFIG}
    for title, its in (("this command", own), ("the experiment", fields)):
        group = parser.add_argument_group(title)
        for option in its.values():
            folder = PARTS[option.name].folder if option.name in PARTS else _FOLDERS.get(option.name, f"{option.name}s")
            among = offered(folder) if folder in catalog.FOLDERS else []
            parser.offer(option, option.name, group=group, shown=option.name not in hidden, among=among)
    for part in PARTS:
        group = parser.add_argument_group(f"the {part}")
        for key in (key for key in known if key.startswith(f"{part}.")):
            option = known[key][0][1]
            free = option.name not in (*own, "help") and len(known.get(option.name, ())) == 1
            names = [option.name, key] if free else [key]
            parser.offer(option, *names, to=key, group=group, shown=part not in hidden)
    return parser


def offered(folder: str) -> list[str]:
    """The names of a folder that the command line can choose: not a data set that takes Python objects."""
    names = catalog.names(folder)
    return [
        name for name in names if folder != "datasets" or "data_dir" in parameters(catalog.path(folder, name), name)
    ]


def useless(method: str) -> set[str]:
    """The experiment's settings that a method of this package cannot use; nothing is known of a user's own file."""
    if method not in catalog.names("methods"):
        return set()
    path = catalog.path("methods", method)
    traits = {trait: told(path, "Traits", trait) for trait in ("neighbours", "tangent", "unaveraged", "own_start")}
    start = set() if traits["own_start"] else {"first_weights"}
    alone = set() if names_any(path, "Method", "messages") else {"channel"}
    alone |= {"fault"} if told(path, "Traits", "needs_all") else set()
    host = set() if is_host(written(path, method).get("host")) else {"host"}
    takes = traits["neighbours"] and not names(path, "Method", "graph")  # or may, by its host
    talk = set() if takes or not host else {"topology", "static", "gossip_weights"}
    talk |= {"rule"} if traits["unaveraged"] else set()
    steps = set() if host == set() or imports(path, "solvers") else set(LOCAL_STEPS)
    return talk | host | alone | steps | start | ({"augment"} if traits["tangent"] else set())


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
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def folded(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words only."""
    return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)
