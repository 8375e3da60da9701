"""Method words: the settings of an experiment from METHOD and its options, as one types them, and from a file."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedtangent import catalog, config, parsers
from fedtangent.config import CONFIG
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment, choices, takes_host
from fedtangent.experiments.options import Option, options
from fedtangent.experiments.parts import PARTS
from fedtangent.parser import run_parser, typed, useless


def parsed(
    name: str,
    words: Sequence[str],
    own: dict[str, Option],
    without: Collection[str] = (),
    passed_over: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of an experiment, and the options of the command itself.

    Args:
        name: Of the command.
        words: METHOD and options; METHOD may be left out where a file tells it.
        own: The command's options.
        without: Settings, and parts, that this command does not offer.
        passed_over: Those of them that may stand in a file all the same, since they change nothing here.

    Raises:
        ValueError: A word that it does not take, or a file that does not suit it.
    """
    typed_method = words[:1] if words and not words[0].startswith("-") else []
    left = list(words[len(typed_method) :])
    chosen = parsers.chosen_parts(name, left)
    told = {*chosen, *passed_over, *(["method"] if typed_method else [])}
    told |= {"metric"} if any(word.partition("=")[0] == "--metric" for word in left) else set()
    whole = config.read(chosen.pop(CONFIG.name), told) if CONFIG.name in chosen else {}
    file = {key: value for key, value in whole.items() if key.partition(".")[0] not in passed_over}
    method = typed_method[0] if typed_method else file.get("method")
    if not isinstance(method, str):
        got, methods = repr(words[0]) if words else "nothing", ", ".join(catalog.names("methods"))
        raise SettingError(f"`METHOD` must come first after {name}; got {got}. Name one of {methods}.")
    fields = {key: option for key, option in options(Experiment).items() if key not in without}
    idle = useless(method) if typed_method and file.get("method") not in (None, method) else set()
    file = config.without_replaced(file, {**chosen, "method": method}, fields, idle)
    file.pop("method", None)
    parts = {part: file[part] for part in PARTS if part in file} | chosen
    known = parsers.offered_by(choices(method, **parts), without)
    fields = parsers.settings(fields, takes_host(method))
    given = run_parser(name, method, own, fields, known).values(
        left, {**own, **fields, **known, CONFIG.name: CONFIG}, f"an option of {name}"
    )
    given.pop(CONFIG.name, None)
    if passed_over:
        file = _without_options(method, file, whole, {**own, **fields, **known}, passed_over)
    file = config.values(config.without_seeds(file, given), {**own, **fields}, known, f"a setting of {name}")
    settings: dict[str, Any] = {"method": method}
    command: dict[str, Any] = {}
    for key, value in {**file, **given}.items():
        into, option = (command, own[key]) if key in own else (settings, fields.get(key) or known[key][0][1])
        into[key] = typed(option, value)
    return settings, command


def _without_options(
    method: str, file: Mapping[str, Any], whole: Mapping[str, Any], known: Collection[str], passed_over: Collection[str]
) -> dict[str, Any]:
    """The file's settings without the options, named without their part, of parts that are passed over."""
    if not any(key not in known for key in file):
        return dict(file)
    owners = choices(method, **{part: whole[part] for part in PARTS if part in whole and part in passed_over})
    gone = {key for key, its in owners.items() if all(part in passed_over for part, _ in its)}
    return {key: value for key, value in file.items() if key in known or key not in gone}
