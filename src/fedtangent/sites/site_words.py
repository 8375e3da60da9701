"""The words of a federation's commands: a kit, a method where one is chosen, and options read off signatures."""

from collections.abc import Callable, Sequence
from inspect import getdoc
from typing import Any

from fedtangent import method_words, parsers
from fedtangent.config import CONFIG
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment, factory
from fedtangent.experiments.options import Option, options
from fedtangent.front import site_usage
from fedtangent.parser import Parser, offered, typed
from fedtangent.parsers import LOCAL, OWN, PLACES, SIMULATED, WITHOUT
from fedtangent.sites.plan import refused


def parsed(name: str, words: Sequence[str], command: Callable[..., int]) -> int:
    """The exit code of a command.

    Args:
        name: provision, revoke, relay, status, flower, server, site or start.
        words: What follows it.
        command: What it calls.

    Raises:
        ValueError: A word that it does not take.
    """
    told = (getdoc(command) or "").splitlines()[0]
    leads = name in ("server", "start")
    what = PLACES[name]
    if leads and (f"--{CONFIG.name}" in words or any(word.startswith(f"--{CONFIG.name}=") for word in words)):
        what = "KIT"  # the method may stand in the file
    first = words[: what.count(" ") + 1]
    if len(first) <= what.count(" ") or any(word.startswith("-") for word in first):
        if {*words} & {"-h", "--help"}:
            return site_usage(name, what)
        raise SettingError(f"`{what}` must come first after {name}; got {' '.join(first) or 'nothing'}. Name it.")
    own = options(command)
    if leads:
        for field in WITHOUT:
            if any(word.partition("=")[0] == f"--{field.replace('_', '-')}" for word in words):
                raise refused(field)
        of_sites = [field for field in parsers.left_out(name) if field in OWN]
        settings, given = method_words.parsed(
            name, words[1:], own, parsers.left_out(name), (*SIMULATED, *of_sites, "dataset_options")
        )
        return command(settings, words[0], **given)
    if name in ("provision", "revoke", "relay", "status", "flower"):
        return command(*first, **_values(Parser(f"fedtangent {name} {what}", told), words[len(first) :], own, name))
    parser = Parser(f"fedtangent {name}", add_help=False)
    parser.offer(Option("dataset", str, None, ""), "dataset")
    chosen = vars(parser.parse_known_args(words[1:])[0])
    its = {key: option for key, option in options(Experiment).items() if key in OWN}
    reader = factory("dataset", chosen.get("dataset", Experiment.dataset))
    its |= {key: option for key, option in options(reader).items() if key not in options(Experiment)} if reader else {}
    found = _values(Parser(f"fedtangent {name} {what}", told), words[1:], {**own, **its}, name)
    return command(_data(found, its), words[0], **{key: found[key] for key in own if key in found})


def _values(parser: Parser, words: Sequence[str], known: dict[str, Option], name: str) -> dict[str, Any]:
    for option in known.values():
        parser.offer(option, option.name, among=offered("datasets") if option.name == "dataset" else ())
    given = parser.values(words, known, f"an option of {name}")
    return {key: typed(known[key], value) for key, value in given.items()}


def _data(found: dict[str, Any], its: dict[str, Option]) -> dict[str, Any]:
    """The settings that name a site's rows."""
    settings = {key: found[key] for key in LOCAL if key in found}
    own = {key: value for key, value in found.items() if key in its and key not in LOCAL}
    return {**settings, **({"dataset_options": own} if own else {})}
