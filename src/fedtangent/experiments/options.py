"""The options that a function offers, read off its signature and docstring, so that none is written twice."""

import inspect
import re
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from fedtangent import home
from fedtangent.errors import SettingError, SettingTypeError

# Options of earlier versions, and what has taken their place.
SUCCESSORS = {
    "sparsity": "--channel topk --channel.share with --channel.messages factors, as every method has it",
    "levels": "--channel quantize --channel.levels with --channel.messages factors, as every method has it",
    "wire": "--channel bfloat16 --channel.messages directions, as every method has it",
    "decay": "--lr-decay of ntkfl and ntkdfl, or --weight-decay of fedkfac and dfedkfac",
}

_LISTS = (tuple, list, Sequence)
# What a single value may be where an option is annotated with one of these.
_SORTS: dict[Any, type] = {int: Integral, float: Real, bool: bool, str: str, types.NoneType: types.NoneType}
REQUIRED = inspect.Parameter.empty


class Option(NamedTuple):
    """One keyword-only parameter.

    Attributes:
        name: Its name.
        kind: Its annotation.
        default: Its default; REQUIRED where it has none.
        help: What the docstring says of it.
    """

    name: str
    kind: Any
    default: Any
    help: str


def options(function: Callable[..., Any]) -> dict[str, Option]:
    """The keyword-only parameters of a function, or of a dataclass, by name."""
    return dict((_options if isinstance(function, Hashable) else _options.__wrapped__)(function))


@lru_cache(maxsize=256)
def _options(function: Callable[..., Any]) -> dict[str, Option]:
    """Read once: an experiment asks for those of its parts some dozens of times."""
    try:
        hints = get_type_hints(function)
    except Exception:  # an annotation that only its author's type checker can read
        hints = {}
    help_ = arguments(inspect.getdoc(function) or "")
    return {
        name: Option(name, hints.get(name, untyped(parameter.default)), parameter.default, help_.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def resolved(owner: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a function: those given, and the defaults of the others.

    Args:
        owner: What the function is, for the messages.
        function: Whose options they are.
        given: Values by name.

    Raises:
        ValueError: An option that the function does not have, or one that it needs and was not given.
    """
    known = options(function)
    for name in given:
        if name not in known:
            raise SettingError(unknown(name, known, f"an option of {owner}"))
    for option in known.values():
        if option.default is REQUIRED and option.name not in given:
            raise SettingError(f"`{option.name}` must be given for {owner}; got nothing. {option.help}".strip())
    return {name: _placed(option, given.get(name, option.default)) for name, option in known.items()}


def unknown(name: str, known: Mapping[str, Any], what: str) -> str:
    """The sentence about a name that does not exist, with the nearest that does."""
    if (use := SUCCESSORS.get(name.rpartition(".")[2])) is not None:
        return f"`{name}` must have its new name; got the one of an earlier version. Use {use}."
    if near := get_close_matches(name, known, 1):
        return f"`{name}` must be {what}; got an unknown name. Did you mean {near[0]!r}?"
    names = ", ".join(other for other in known if "." not in other)
    hint = f"Drop it, or choose one of {names}." if names else "Drop it: there are none."
    return f"`{name}` must be {what}; got an unknown name. {hint}"


def parsed(option: Option, text: str) -> Any:
    """The value that a text on the command line stands for.

    Raises:
        ValueError: It is none of the option's types.
    """
    for read in _readers(option.kind):
        with suppress(ValueError):
            return read(text)
    kinds = _described(option.kind)
    if not kinds:
        raise SettingError(
            f"`{option.name}` must be given from Python, since no text stands for its type; got {text!r}. Drop it."
        )
    raise SettingError(f"`{option.name}` must be {kinds}; got {text!r}. Give such a value.")


def values_of(option: Option) -> list[str]:
    """What may be typed for an option that has only so many values, none for one that is free."""
    members = [member for member in _members(option.kind) if member is not type(None)]
    if not members or not all(get_origin(member) is Literal for member in members):
        return []
    return [str(value) for member in members for value in get_args(member)]


def plain(value: Any) -> Any:
    """The value as JSON holds it: tuples as lists, a function or class by its name."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [plain(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__))


def _placed(option: Option, value: Any) -> Any:
    """The value, a path where the option is one: a record holds only its name; numbers as those of Python."""
    members = _members(option.kind)
    if isinstance(value, str) and Path in members:
        return Path(value)
    lists = [member for member in members if _of_one_kind(member)]
    if not {*members} - {*lists} <= _SORTS.keys() or value is option.default:
        return value
    many = value.tolist() if lists and hasattr(value, "tolist") else value
    if lists and isinstance(many, (list, tuple, range)):
        kind = get_args(lists[0])[0]
        return tuple(_placed(Option(f"{option.name}[{i}]", kind, REQUIRED, ""), one) for i, one in enumerate(many))
    value = value.item() if getattr(value, "ndim", None) == 0 else value  # of numpy or torch
    sorts = tuple(_SORTS[member] for member in members if member not in lists)
    if not isinstance(value, sorts) or (isinstance(value, bool) and bool not in members):
        such = "a list of them from Python" if lists else "such a value"
        raise SettingTypeError(f"`{option.name}` must be {_described(option.kind)}; got {value!r}. Give {such}.")
    return value


def untyped(default: Any) -> Any:
    """The type of a parameter without an annotation, as far as its default tells."""
    return bool if isinstance(default, bool) else tuple[Any, ...] if isinstance(default, (tuple, list)) else Any


def arguments(docstring: str) -> dict[str, str]:
    """What the section Args or Attributes of a Google docstring says of each name."""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): ((?:.|\n {5,})*)", section[1], re.MULTILINE) if section else []
    return {name: " ".join(text.split()) for name, text in entries}


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _of_one_kind(member: Any) -> bool:
    """Whether it is a list whose items are all of one kind that is told."""
    kinds = get_args(member)
    return get_origin(member) in _LISTS and kinds[0] is not Any and kinds[1:] in ((), (...,))


def _readers(kind: Any) -> list[Callable[[str], Any]]:
    """How to read each of the types, the strictest first."""
    members = _members(kind)
    if members == (Any,):
        members = (int, float, str)
    found: list[Callable[[str], Any]] = []
    for member in members:
        if member is type(None):
            found.insert(0, _none)
        elif get_origin(member) is Literal:
            found.append(_one_of(get_args(member)))
        elif get_origin(member) in _LISTS:
            found.append(_list_of(get_args(member)[0]))
    plain_types: list[tuple[Any, Callable[[str], Any]]] = [
        (bool, _bool),
        (int, _int),
        (float, float),
        (str, str),
        (Path, _path),
    ]
    return found + [read for type_, read in plain_types if type_ in members]


def _described(kind: Any) -> str:
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a text",
        Path: "a path",
        type(None): "none",
    }
    parts = []
    for member in _members(kind):
        if get_origin(member) is Literal:
            parts.append("one of " + ", ".join(map(str, get_args(member))))
        elif get_origin(member) in _LISTS:
            parts.append("values with commas between them, each " + _described(get_args(member)[0]))
        elif member in names:
            parts.append(names[member])
    return " or ".join(parts)


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _path(text: str) -> Path:
    return home.path(text)


def _int(text: str) -> int:
    value = int(text)
    if abs(value) >= 2**63:  # no tensor holds it
        raise ValueError
    return value


def _one_of(values: tuple[Any, ...]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        for value in values:
            if str(value) == text:
                return value
        raise ValueError

    return read


def _list_of(kind: Any) -> Callable[[str], tuple[Any, ...]]:
    item = Option("item", kind, REQUIRED, "")
    return lambda text: tuple(parsed(item, part.strip()) for part in text.split(",") if part.strip())
