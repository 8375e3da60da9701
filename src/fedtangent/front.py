"""Front: what the command line answers from its files alone, in a fraction of a second and without PyTorch."""

import os
import shutil
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

from fedtangent import __version__, catalog, completion
from fedtangent.config import CONFIG
from fedtangent.errors import SettingError
from fedtangent.experiments.options import unknown
from fedtangent.experiments.written import first_line
from fedtangent.parser import folded, offered
from fedtangent.parsers import (
    CLI,
    COMMANDS,
    PLACES,
    SITE_COMMANDS,
    SITES,
    chosen_parts,
    command_parser,
    leading_parser,
    method_parser,
    recipe_parser,
    site_parser,
    takes_host,
)

HELP = {"-h", "--help"}
_LIST = "Show the names of all parts, or those of one kind, as in list methods."
_NAME, _ROOM = 18, 100


def answered(words: list[str]) -> int | None:
    """The exit code of a command that asks what there is; None for one that is to do something.

    Args:
        words: As typed, options with dashes.

    Raises:
        ValueError: A name that is none.
        SystemExit: After the help of one command.
    """
    first, rest = (words[0], words[1:]) if words else ("--help", [])
    if first in HELP:
        return overview()
    if first == "--version":
        print(f"fedtangent {__version__}")
        return 0
    if first == "list":
        return list_(rest)
    if first in ("completion", "--complete"):
        return _complete(first, rest)
    asked = bool(HELP & set(rest))
    if first in ("run", "check") and rest and not rest[0].startswith("-"):
        catalog.path("methods", rest[0])  # a name that is none needs no PyTorch to be refused
    if first in ("run", "check") and asked:
        return _run_help(first, rest)
    if first == "recipe" and (asked or not rest):
        return _recipe_help(rest)
    if first in SITE_COMMANDS and asked:
        return _site_help(first, rest)
    if first in ("demo", "report") and asked:
        command_parser(first).print_help()
        raise SystemExit(0)
    return None


def legible() -> None:
    """Lets everything be printed: also a file's name, or a mean's ±, that the terminal's encoding cannot write.

    What is closed, as by `>&-`, becomes the null device, before a file of the run takes its number. What stderr has no
    room for, as on a full disk, is left out: no run ends because of it.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(handle)
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, TextIOWrapper):
        raw = _Lossy(sys.stderr.fileno(), "w", closefd=False)
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        sys.stderr = TextIOWrapper(BufferedWriter(raw), encoding, errors, line_buffering=True)


class _Lossy(FileIO):
    """A file that takes what it has no room for as written."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError:
            return len(data)


def unread() -> None:
    """Lets a process whose reader has gone, as of `fedtangent list | head -1`, end without another word."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())


def refused(error: OSError) -> str:
    """The sentence about what the system has refused, where no file is named."""
    return f"the system must allow what is asked for; got: {error.strerror or error}. Free some room, or go elsewhere."


def overview() -> int:
    """What the commands are."""
    print("usage: fedtangent COMMAND ...   (--help after a command tells its options)\n")
    room = 12
    for name in COMMANDS:
        _print(name, first_line(CLI, name), room)
    for name in SITE_COMMANDS:
        _print(name, first_line(SITES, name), room)
    _print("list", _LIST, room)
    _print("completion", "Print what a shell is to read to complete words: source <(fedtangent completion bash).", room)
    print("\n  --version")
    return 0


def list_(words: list[str]) -> int:
    """Shows the names of all folders, or of those that are named."""
    if HELP & set(words):
        kinds = wrapped(f"KIND is one of {', '.join(catalog.FOLDERS)}.")
        print(f"usage: fedtangent list [KIND ...]\n\n{_LIST}\n\n{kinds}")
        return 0
    for word in words:
        if word.startswith("-"):
            raise SettingError(unknown(word.lstrip("-"), {}, "an option of list"))
        if word not in catalog.FOLDERS:
            raise SettingError(unknown(word, dict.fromkeys(catalog.FOLDERS), "a kind of part"))
    for folder in words or catalog.FOLDERS:
        if len(words) != 1:
            print(folder)
        _print_names(folder)
    return 0


def methods_help(command: str) -> int:
    """How a command that takes a method is used."""
    print(f"usage: fedtangent {command} METHOD [options]\n\n{wrapped(first_line(CLI, command))}\n")
    text = f"METHOD is one of {', '.join(catalog.names('methods'))}, or a file of your own;"
    print(wrapped(f"{text} fedtangent {command} METHOD --help tells its options."))
    return 0


def _run_help(command: str, words: list[str]) -> int | None:
    """The help of a method; None where a file has to be imported, or a setting is wrong."""
    if words[0].startswith("-"):
        return methods_help(command)
    chosen = chosen_parts(command, words[1:])
    if CONFIG.name in chosen:
        return None
    try:
        if "host" in chosen and not takes_host(words[0]):
            return None
        parser = method_parser(command, words[0], chosen)
    except LookupError:
        return None
    parser.print_help()
    raise SystemExit(0)


def _site_help(command: str, words: list[str]) -> int | None:
    """The help of a command of a real federation; None where a file has to be imported, or read."""
    what, chosen = PLACES[command], chosen_parts(command, words)
    if CONFIG.name in chosen:
        return None
    count = len(what.split())
    if len(words) <= count or any(word.startswith("-") for word in words[:count]):
        return site_usage(command, what)
    try:
        parser = leading_parser(command, words[1], chosen) if "METHOD" in what else site_parser(command, chosen)
    except LookupError:
        return None
    parser.print_help()
    raise SystemExit(0)


def site_usage(command: str, what: str) -> int:
    """What comes first after a command of a real federation, and how its options are told."""
    print(f"usage: fedtangent {command} {what} [options]\n\n{wrapped(first_line(SITES, command))}\n")
    print(f"fedtangent {command} {what} --help tells the options.")
    return 0


def _complete(first: str, words: list[str]) -> int:
    if HELP & set(words) and first == "completion":
        print("usage: fedtangent completion SHELL\n\nPrint what a shell is to read to complete words, once or in its")
        print(
            f"start-up file: source <(fedtangent completion bash).\n\nSHELL is one of {', '.join(completion.SCRIPTS)}."
        )
        return 0
    text = completion.script(words) if first == "completion" else "\n".join(completion.following(words)) + "\n"
    print(text, end="")
    return 0


def _recipe_help(words: list[str]) -> int | None:
    """What recipes there are, or the help of one; None for a user's own file."""
    if not words or words[0] in HELP:
        print(f"usage: fedtangent recipe NAME [options]\n\n{wrapped(first_line(CLI, 'recipe'))}\n")
        _print_names("recipes")
        print("\n" + wrapped("NAME may be a file of your own, too; fedtangent recipe NAME --help tells its options."))
        return 0
    name = words[0]
    if name not in catalog.names("recipes"):
        return None
    recipe_parser(name).print_help()
    raise SystemExit(0)


def _print_names(folder: str) -> None:
    for name in offered(folder):
        _print(name, catalog.summary(folder, name), _NAME)


def _print(name: str, text: str, room: int) -> None:
    """A name and what it is, in lines of whole words on a terminal, in one line elsewhere."""
    lines = folded(text, max(_width() - room - 2, 20)) if sys.stdout.isatty() else [text]
    print(f"  {name:{room}}" + f"\n{' ' * (room + 2)}".join(lines))


def wrapped(text: str) -> str:
    """A paragraph in lines of whole words, as wide as the terminal at most."""
    return "\n".join(folded(text, _width()))


def _width() -> int:
    return min(shutil.get_terminal_size().columns - 2, _ROOM)
