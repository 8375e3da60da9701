"""Words: what Flower's configurations say, read as the words of the commands that they stand for."""

import shlex
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, get_args

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.options import options
from fedtangent.parser import dashed
from fedtangent.parsers import LOCAL
from fedtangent.sites import commands, site_words

_LEADS, _JOINS = ("out", "track"), ("state",)  # of a SuperNode, what only a site that leads, or only another, reads
_PLAIN = {bool, int, float, type(None)}


class Given(NamedTuple):
    """What a command was given.

    Attributes:
        kit: The folder of the kit.
        settings: Of the experiment, or of the rows of a site.
        how: The command's own options.
    """

    kit: str
    settings: dict[str, Any]
    how: dict[str, Any]


def of_run(config: Mapping[str, Any]) -> Given:
    """What the run's configuration asks for: a method and options, as they follow `fedtangent server` or `start`.

    Raises:
        ValueError: A word that the command does not take, or one that is for the sites themselves to say.
    """
    kit, method = str(config.get("kit", "")), str(config.get("method", ""))
    try:
        rest = [dashed(word) for word in shlex.split(str(config.get("options", "")))]
    except ValueError as error:
        raise SettingError(f"`options` must be words as in a shell; got {error}. Close the quotation.") from error
    if kit:
        return _given("server", commands.server, [kit, method, *rest])
    found = _given("start", commands.start, ["kit", method, *rest])
    local = [name for name in LOCAL if name in found.settings]
    own = [*local, *experiment(**found.settings).dataset_options, *_texts(found.how)]
    if own:
        raise SettingError(
            f"`options` must leave {own[0]} to the sites; got it for the run. Give it in the --node-config of a "
            "SuperNode."
        )
    return found


def of_node(config: Mapping[str, Any], leads: bool) -> Given:
    """What a SuperNode's own configuration gives: its kit, its rows and options, as they follow `fedtangent site`.

    Args:
        config: As --node-config has it.
        leads: Whether this site leads the run: then `out` and `track` are read too, and `state` is not.

    Raises:
        ValueError: No kit, or a word that the command does not take.
    """
    told = {str(key).replace("_", "-"): value for key, value in config.items()}
    kit = told.pop("kit", None)
    if kit is None:
        raise SettingError('`kit` must be given to a SuperNode; got none. Add kit="FOLDER" to its --node-config.')
    own = {name: told.pop(name) for name in (*_LEADS, *_JOINS) if name in told}
    told |= {} if leads else {name: own[name] for name in _JOINS if name in own}
    found = _given("site", commands.site, [str(kit), *(_word(name, value) for name, value in told.items())])
    if leads and "out" in own:
        found.how["out"] = str(own["out"])
    if leads and "track" in own:
        found.how["track"] = tuple(name.strip() for name in str(own["track"]).split(","))
    return found


def from_afar(how: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a site that leads, as the ServerApp sends them: numbers and yes or no, never a text.

    Raises:
        ValueError: An option that is none, or is a text: that could name a file.
    """
    strange = [name for name in how if name not in options(commands.start)] + _texts(how)
    if strange:
        raise SettingError(
            f"`{str(strange[0])[:40]}` must not be told from afar; got it from the ServerApp. Install the same version "
            "everywhere."
        )
    return dict(how)


def completed(command: Callable[..., int], how: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a command: those given, and its defaults."""
    return {name: option.default for name, option in options(command).items()} | dict(how)


def _texts(how: Mapping[str, Any]) -> list[str]:
    """Of a leader's options, those that are, or may be, more than a number, yes or no."""
    kinds = {name: {*(get_args(option.kind) or (option.kind,))} for name, option in options(commands.start).items()}
    return [name for name, value in how.items() if not kinds.get(name, _PLAIN) <= _PLAIN or type(value) not in _PLAIN]


def _given(name: str, command: Callable[..., int], words: list[str]) -> Given:
    found: list[Given] = []

    @wraps(command)  # so that the options are read off it
    def note(settings: dict[str, Any], kit: str, **how: Any) -> int:
        found.append(Given(kit, settings, how))
        return 0

    if {*words} & {"-h", "--help"}:
        raise SettingError(f"`options` must be those of a run; got --help. Use fedtangent {name} --help in a terminal.")
    site_words.parsed(name, words, note)
    return found[0]


def _word(name: str, value: Any) -> str:
    return f"--{name}={value}" if not isinstance(value, bool) else f"--{name}" if value else f"--no-{name}"
