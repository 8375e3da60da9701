"""Own: functions of a user's own, called so that one which takes other arguments is told in a sentence."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from fedtangent.errors import SettingTypeError


def called(what: str, function: Callable[..., Any], arguments: str, /, *given: Any, **options: Any) -> Any:
    """function(*given, **options).

    Args:
        what: What messages call it, such as topology.
        function: The user's, or one of the package's.
        arguments: The names of `given`, as a definition has them, such as "nodes, rng".
        given: Its arguments by place.
        options: Those by name.

    Raises:
        TypeError: It does not take them.
    """
    check_takes(what, function, arguments, *given, **options)
    return function(*given, **options)


def check_takes(what: str, function: Callable[..., Any], arguments: str, /, *given: Any, **options: Any) -> None:
    """Raises TypeError where a function cannot be called so, or is none; the arguments are those of `called`."""
    inner = function.func if isinstance(function, partial) else function
    name = str(getattr(inner, "__name__", type(inner).__name__))
    taken = " and ".join(filter(None, [f"({arguments})" if arguments else "", "" if given else "its options alone"]))
    try:
        signature = inspect.signature(function)
    except ValueError:  # some written in C tell none
        return
    except TypeError as error:
        raise SettingTypeError(f"`{what}` must be a function of {taken}; got {name}. Give a function.") from error
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        asked = f"def {what if name == '<lambda>' else name}({arguments or '*, ...'})"
        raise SettingTypeError(
            f"`{what}` must be a function of {taken}; got {name}, which is not ({error}). Write {asked}."
        ) from error
