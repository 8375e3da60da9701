"""Single numbers that a function is given: what is none is one sentence."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError


def check_number(name: str, value: Any) -> None:
    """Raises for a text, None, or anything else that is no real number."""
    if not isinstance(value, (Real, Tensor)):
        raise SettingTypeError(f"`{name}` must be a number; got {value!r}. Give such as 0.1.")


def numbers(name: str, value: Any) -> list[float]:
    """One number or several, of Python, numpy or torch, as a list.

    Raises:
        TypeError: Something else among them.
    """
    value = value.tolist() if isinstance(value, Tensor) else value
    if isinstance(value, (list, tuple)):
        value = [one.tolist() if isinstance(one, Tensor) else one for one in value]
    found = np.atleast_1d(np.asarray(value, dtype=object)).ravel().tolist()
    for one in found:
        check_number(name, one)
    return [float(one) for one in found]


def check_whole(name: str, value: Any) -> None:
    """The same for a count or a seed."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise SettingTypeError(f"`{name}` must be an integer; got {value!r}. Give a whole number.")


def check_seed(value: Any) -> None:
    """The same for the seed of a generator of numpy, which takes no negative one."""
    check_whole("seed", value)
    if value < 0:
        raise SettingError(f"`seed` must not be negative; got {value}. Give a whole number from 0.")
