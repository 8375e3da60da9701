"""Chain: one part of an experiment from several channels, or several faults, with the options of all and its own."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from fedtangent import catalog
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.options import options
from fedtangent.experiments.parts import PARTS
from fedtangent.federation import Channel, Coding, Fault, Presence
from fedtangent.federation.coding import Feedback, Way
from fedtangent.own import called, check_takes

Direction = Literal["all", "up", "down", "between"]


def chain(
    made: Mapping[str, Channel],
    *,
    messages: Sequence[str] | None = None,
    direction: Direction = "all",
    feedback: Feedback = "none",
) -> Coding:
    """The channels, one after the other.

    Args:
        made: Each by its name.
        messages: The names of those that are coded, such as weights; none is all of the method's that bear it.
        direction: On which way: up to the server, down from it, between neighbours, or all of them.
        feedback: error adds to a message what the channels took of the sender's last one of that name.
    """
    if direction not in get_args(Direction):
        raise SettingError(
            f"`direction` must be one of {', '.join(get_args(Direction))}; got {direction!r}. Choose one of these."
        )
    if feedback not in get_args(Feedback):
        raise SettingError(f"`feedback` must be 'none' or 'error'; got {feedback!r}. Choose one of the two.")
    ways: tuple[Way, ...] = get_args(Way) if direction == "all" else (direction,)
    return Coding([*made.values()], None if messages is None else tuple(messages), ways, feedback)


def faulty(made: Mapping[str, Fault], *, quorum: float = 0.0) -> Presence:
    """All faults together: what one takes away is away, whatever the others do.

    Args:
        made: Each by its name.
        quorum: The share of the nodes that must be present for a round to count, from 0 to 1; in another all keep their
            state. With 0 one present node is enough.
    """
    if not 0 <= quorum <= 1:
        raise SettingError(f"`quorum` must be from 0 to 1; got {quorum}. Use 0.5 for half of the nodes.")
    return Presence(made, quorum)


class _Kind(NamedTuple):
    """What a chain of a part is made of, by which function, and what the functions of a link take."""

    of: type
    joined: Callable[..., Any]
    functions: Mapping[str, str]


_KINDS = {
    "channel": _Kind(Channel, chain, {"code": "coded, draw", "size": "size"}),
    "fault": _Kind(Fault, faulty, {"missing": "planned, draw"}),
}


def chained(value: Any, part: str = "channel") -> Callable[..., Any] | None:
    """The function that makes one part, such as the channels' Coding, of the options of all; None for none.

    Args:
        value: Names or files with commas between them, or from Python also functions, several as a sequence.
        part: channel or fault.

    Raises:
        ValueError: A name that is none, or one that comes twice.
        TypeError: Neither a name nor a function.
    """
    if value is None:
        return None
    functions = [_function(name, part) for name in links(value)]
    known = {_name(function): options(function) for function in functions}
    if len(known) < len(functions):
        raise SettingError(
            f"`{part}` must name each once; got {', '.join(map(_name, functions))}. Leave the second out."
        )
    kind = _KINDS[part]

    def joined(**given: Any) -> Any:
        made = {}
        for function in functions:
            name = _name(function)
            own = {option: given.pop(option) for option in known[name]}
            made[name] = _checked(part, name, called(part, function, "", **own))
        return kind.joined(made, **given)

    return _described(joined, functions, part)


def links(value: Any) -> list[Any]:
    """The names and functions that a chain is made of."""
    if value is None:
        return []
    if isinstance(value, str) and not Path(value).is_file():
        return [name.strip() for name in value.split(",")]
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _described(joined: Callable[..., Any], functions: Sequence[Callable[..., Any]], part: str) -> Callable[..., Any]:
    """The function with the name, the signature and the arguments' help of all."""
    own = [*options(_KINDS[part].joined).values()]
    offered = [option for function in functions for option in options(function).values()]
    every = {option.name: option for option in (*offered, *own)}
    if len(every) < len(offered) + len(own):
        raise SettingError(
            f"`{part}` must be of {part}s whose options have names of their own; got two alike. Rename one."
        )
    joined.__name__ = "+".join(map(_name, functions))
    joined.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.kind)
            for name, option in every.items()
        ]
    )
    joined.__annotations__ = {name: option.kind for name, option in every.items()}
    lines = [f"    {option.name}: {option.help}" for option in every.values()]
    joined.__doc__ = "\n".join(["All of them.", "", "Args:", *lines])
    return joined


def _function(name: Any, part: str) -> Callable[..., Any]:
    if isinstance(name, (str, Path)):
        return catalog.load(PARTS[part].folder, str(name), part)
    if not callable(name):
        raise SettingTypeError(f"`{part}` must be names or functions; got {type(name).__name__}. Give a name.")
    return name  # type: ignore[no-any-return]


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", "custom"))


def _checked(part: str, name: str, made: Any) -> Any:
    kind = _KINDS[part].of
    if not isinstance(made, kind):
        raise SettingTypeError(
            f"`{part}` must give a {kind.__name__}; got {type(made).__name__} from {name}. Return "
            f"fedtangent.federation.{kind.__name__}(...)."
        )
    for field, arguments in _KINDS[part].functions.items():
        check_takes(field, getattr(made, field), arguments, *arguments.split(", "))
    return made
