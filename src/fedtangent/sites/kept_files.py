"""Kept files: what a process of a federation has written beside a record, and reads again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fedtangent.errors import SettingError

T = TypeVar("T")


def read(path: Path, parts: Callable[[Any], T]) -> T | None:
    """What a file of JSON holds; None where there is none.

    Args:
        path: The file.
        parts: Gives what is asked for of what it holds.

    Raises:
        ValueError: It is not as its run wrote it.
    """
    if not path.exists():
        return None
    try:
        return parts(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise SettingError(
            f"`{path.name}` must be as its run wrote it; got another in {path.parent}. Bring it back, or run anew."
        ) from error
