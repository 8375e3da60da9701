"""Extras: libraries that fedtangent does without, each asked for where it is first needed."""

import importlib
import warnings
from typing import Any

from fedtangent.errors import SettingError


def imported(module: str, extra: str, what: str) -> Any:
    """The module.

    Args:
        module: Its full name.
        extra: Of fedtangent, which installs it.
        what: What it is needed for, in words.

    Raises:
        ValueError: It is not installed.
    """
    try:
        with warnings.catch_warnings():  # of a library's own imports, at which no user can do anything
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise SettingError(
            f"`{name}` must be installed {what}; got none. Use pip install 'fedtangent[{extra}]'."
        ) from error
