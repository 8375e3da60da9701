"""Config: the settings of a command from a file, a .toml of one's own or the manifest.json that a run has left."""

import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fedtangent import __version__, catalog, home
from fedtangent.errors import SettingError
from fedtangent.experiments.options import Option, parsed, unknown
from fedtangent.experiments.parts import ALIKE, CHAINS, PARTS, shared

CONFIG = Option(
    "config", str, None, "Take settings from a .toml file or a run's manifest.json; what is typed beside it wins."
)
VERSION = "fedtangent"  # the key of a .toml file that says which version it was written for
_DERIVED = ("weight_by_class",)  # what a manifest tells beside settings


def read(name: str, told: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a file: by their names, and by `part.name` those that stand in a table of a part's options.

    Args:
        name: Of a .toml file, a manifest or a run's folder.
        told: The parts that are told elsewhere.

    Raises:
        ValueError: No such file, one that is damaged or of another version, or a run's part of one's own that has the
            name of another, and is not told elsewhere.
    """
    path = home.path(name)
    path = path / "manifest.json" if path.is_dir() else path
    if not path.is_file():
        raise SettingError(f"`config` must name a file that exists; got {name!r}. Check the path.")
    if path.suffix not in (".toml", ".json"):
        raise SettingError(f"`config` must be a .toml file or a run's manifest.json; got {name!r}. Name such a file.")
    found = _manifest(path, told) if path.suffix == ".json" else _toml(path)
    flat: dict[str, Any] = {}
    tables = {kind.options: part for part, kind in PARTS.items()}
    for key, value in found.items():
        key = key.replace("-", "_")
        if key in tables and isinstance(value, dict):
            flat |= {f"{tables[key]}.{option.replace('-', '_')}": given for option, given in value.items()}
        elif isinstance(value, dict):
            raise SettingError(
                f"`{key}` must not be a table of {path.name}; got one. Use {', '.join(tables)}, or no table at all."
            )
        else:
            flat[key] = value
    return flat


def without_replaced(
    settings: Mapping[str, Any], chosen: Mapping[str, str], fields: Mapping[str, Option], useless: set[str]
) -> dict[str, Any]:
    """The file's settings without the options of parts for which another was typed.

    A file of one's own stands in a manifest by its name alone, and so does a data set's: these are told by typing where
    they are, and keep their options.

    Args:
        settings: From `read`.
        chosen: What was typed, by part.
        fields: The experiment's own settings, whose defaults are the parts that neither names.
        useless: Settings that a method cannot use that takes the place of the file's, and that are dropped.
    """
    default = {part: fields[part].default if part in fields else None for part in chosen}
    gone = useless | {
        part for part, typed in chosen.items() if _replaced(part, settings.get(part, default[part]), typed)
    }
    return {
        key: value
        for key, value in settings.items()
        if key not in useless and ("." not in key or key.partition(".")[0] not in gone)
    }


def _replaced(part: str, before: Any, typed: str) -> bool:
    """Whether what was typed is another part than the file's; where there is none before, its options are for any."""
    if not isinstance(before, str) or before == typed:
        return False
    return any(name in catalog.names(PARTS[part].folder) for name in before.split(","))


def without_seeds(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The file's settings without its seeds where others were typed: `seed` and `seeds` stand for each other."""
    seeds = {"seed", "seeds"}
    return {key: value for key, value in settings.items() if key not in seeds or not seeds & set(given)}


def values(
    settings: Mapping[str, Any],
    single: Mapping[str, Option],
    known: Mapping[str, list[tuple[str, Option]]],
    what: str,
) -> dict[str, Any]:
    """The values of a file's settings, by the names that the parser has for them.

    Args:
        settings: From `read`, without the method.
        single: The command's and the experiment's options.
        known: Those of the chosen parts, with the part's name and without.
        what: What a name must be, for the messages.

    Raises:
        ValueError: A name that is none, or a value that the option does not take.
    """
    found = {}
    for key, value in settings.items():
        if key in single:
            found[key] = _value(single[key], value)
            continue
        if key not in known:
            raise SettingError(unknown(key, {**single, **known}, what))
        if len(known[key]) > 1:
            raise SettingError(shared(key, known[key]))
        part, option = known[key][0]
        found[f"{part}.{option.name}"] = _value(option, value)
    return found


def _manifest(path: Path, elsewhere: Collection[str]) -> dict[str, Any]:
    try:
        held = json.loads(path.read_bytes())
        version, told = held["versions"]["fedtangent"], dict(held["experiment"])
        alike = [part for part in held.get(ALIKE, []) if part not in elsewhere]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SettingError(
            f"`config` must be the whole manifest.json of a run; got something else in {str(path)!r}. Name another."
        ) from error
    _check_version(path, version)
    if alike:
        raise SettingError(
            f"`{alike[0]}` must be told beside {path}, whose run had a file of one's own with the name of one of the "
            f"package's, {_text(told.get(alike[0]))}; got none. Name the file, or that one."
        )
    for part in CHAINS:
        if isinstance(told.get(part), str):  # a chain's name
            told[part] = told[part].replace("+", ",")
    return {key: value for key, value in told.items() if value is not None and key not in _DERIVED}


def _toml(path: Path) -> dict[str, Any]:
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # as some editors write it
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(f"`config` must be TOML; got {str(path)!r}, in which: {error}. Mend it.") from error
    if VERSION in held:
        _check_version(path, held.pop(VERSION))
    return held


def _check_version(path: Path, version: Any) -> None:
    if version != __version__:
        raise SettingError(
            f"`config` must be of this version, {__version__}; got one of {str(version)[:40]!r} in {str(path)!r}. "
            "Check its settings and write them into a .toml file."
        )


def _value(option: Option, value: Any) -> Any:
    """The value, checked as if it had been typed; what cannot be typed, such as a list of lists, as it stands."""
    if isinstance(value, list):
        if not all(isinstance(item, (bool, int, float)) or _plain(item) for item in value):
            return value
        return parsed(option, _text(value))
    if value is None:  # of a manifest's options
        return None
    if isinstance(value, (str, bool, int, float)):
        return parsed(option, _text(value))
    raise SettingError(f"`{option.name}` must be a number, a text or a list; got {type(value).__name__}. Write one.")


def _plain(item: Any) -> bool:
    return isinstance(item, str) and "," not in item


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)
