"""Chain: one part of an experiment from several channels, with the options of all of them and those of the chain."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fedtangent import catalog
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.options import options
from fedtangent.federation import Channel, Coding
from fedtangent.federation.coding import Feedback, Way

Direction = Literal["all", "up", "down", "between"]


def chained(value: Any) -> Callable[..., Coding] | None:
    """The function that makes the channels' Coding of their options; None for none.

    Args:
        value: Names or files with commas between them, or from Python also functions, several as a sequence.

    Raises:
        ValueError: A name that is none, or one that comes twice.
        TypeError: Neither a name nor a function.
    """
    if value is None:
        return None
    functions = [_function(name) for name in links(value)]
    known = [options(function) for function in functions]
    if len({_name(function) for function in functions}) < len(functions):
        raise SettingError(
            f"`channel` must name each once; got {', '.join(map(_name, functions))}. Leave the second out."
        )

    def chain(
        *,
        messages: Sequence[str] | None = None,
        direction: Direction = "all",
        feedback: Feedback = "none",
        **given: Any,
    ) -> Coding:
        """The channels, one after the other.

        Args:
            messages: The names of those that are coded, such as weights; none is all of the method's that bear it.
            direction: On which way: up to the server, down from it, between neighbours, or all of them.
            feedback: error adds to a message what the channels took of the sender's last one of that name.
            **given: The channels' own.
        """
        if direction not in get_args(Direction):
            raise SettingError(
                f"`direction` must be one of {', '.join(get_args(Direction))}; got {direction!r}. Choose one of these."
            )
        if feedback not in get_args(Feedback):
            raise SettingError(f"`feedback` must be 'none' or 'error'; got {feedback!r}. Choose one of the two.")
        made = [
            _checked(function, function(**{name: given[name] for name in own}))
            for function, own in zip(functions, known, strict=True)
        ]
        ways: tuple[Way, ...] = get_args(Way) if direction == "all" else (direction,)
        return Coding(made, None if messages is None else tuple(messages), ways, feedback)

    return _described(chain, functions)


def links(value: Any) -> list[Any]:
    """The names and functions that a chain is made of."""
    if value is None:
        return []
    if isinstance(value, str) and not Path(value).is_file():
        return [name.strip() for name in value.split(",")]
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _described(chain: Callable[..., Coding], functions: Sequence[Callable[..., Any]]) -> Callable[..., Coding]:
    """The function with the name, the signature and the arguments' help of all."""
    own = [*inspect.signature(chain).parameters.values()][:-1]
    offered = [option for function in functions for option in options(function).values()]
    added = {
        option.name: inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.kind
        )
        for option in offered
        if option.name not in {parameter.name for parameter in own}
    }
    if len(added) < len(offered):
        raise SettingError(
            "`channel` must be of channels whose options have names of their own; got two alike. Rename one."
        )
    chain.__name__ = "+".join(map(_name, functions))
    chain.__signature__ = inspect.Signature([*added.values(), *own])  # type: ignore[attr-defined]
    chain.__annotations__ = {**{name: p.annotation for name, p in added.items()}, **chain.__annotations__}
    lines = [f"    {option.name}: {option.help}" for option in offered]
    chain.__doc__ = "\n".join([inspect.getdoc(chain) or "", *lines])
    return chain


def _function(name: Any) -> Callable[..., Any]:
    if isinstance(name, (str, Path)):
        return catalog.load("channels", str(name), "channel")
    if not callable(name):
        raise SettingTypeError(f"`channel` must be names or functions; got {type(name).__name__}. Give a name.")
    return name  # type: ignore[no-any-return]


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", "custom"))


def _checked(function: Callable[..., Any], made: Any) -> Channel:
    if not isinstance(made, Channel):
        raise SettingTypeError(
            f"`channel` must give a Channel; got {type(made).__name__} from {_name(function)}. Return "
            "fedtangent.federation.Channel(...)."
        )
    return made
