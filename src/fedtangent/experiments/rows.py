"""Rows: the folder that a recipe leaves, with its manifest and, row by row, what it measured."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments import atomic
from fedtangent.experiments.folder import MANIFEST, check_free, versions
from fedtangent.experiments.options import plain

ROWS = "rows.jsonl"

Row = dict[str, Any]  # flat: texts, numbers and booleans


def manifest(recipe: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What was true of a recipe's run; `complete` becomes true when its last row is there."""
    return {
        "recipe": recipe,
        "options": plain(options),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "complete": False,
    }


def there(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest that the folder holds, None where the folder is new or empty.

    Args:
        folder: Where rows are to be recorded.
        run: The manifest of what is to be recorded there.

    Raises:
        ValueError: The folder holds something else, such as the same recipe with other options.
    """
    path = folder / MANIFEST
    if not path.is_file():
        check_free(folder, "this recipe's rows")
        return None
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        old = {"recipe": told.get("recipe"), **told.get("options", {})}
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingError(
            f"`out` must hold a whole {MANIFEST}; got a damaged one in {folder}. Name another."
        ) from error
    new = {"recipe": run["recipe"], **run["options"]}
    for name in {**new, **old}:
        if old.get(name) != new.get(name):
            raise SettingError(
                f"`out` must not hold other rows; got {folder}, whose {name} is {old.get(name)!r} and not "
                f"{new.get(name)!r}. Choose another --out or set it so."
            )
    return told


def begin(folder: Path, run: Mapping[str, Any], kept: list[Row]) -> None:
    """Writes the manifest, and the rows that are kept, which may be none.

    Raises:
        OSError: They cannot be written.
    """
    with atomic.explained(folder / MANIFEST):
        folder.mkdir(parents=True, exist_ok=True)
    atomic.replaced(folder / MANIFEST, json.dumps(run, indent=1))
    atomic.replaced(folder / ROWS, "".join(map(_line, kept)))


def append(folder: Path, row: Row) -> None:
    """Adds a row, on the disk when this returns.

    Raises:
        OSError: It cannot be written.
    """
    atomic.appended(folder / ROWS, _line(row).encode())


def read(folder: Path) -> list[Row]:
    """The rows of a folder, without a last one that a crash tore.

    Raises:
        ValueError: A damaged row.
    """
    path = folder / ROWS
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    told = []
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            told.append({name: math.nan if value is None else value for name, value in row.items()})
        except (ValueError, AttributeError) as error:
            raise SettingError(
                f"`out` must hold whole rows; got a damaged one in line {number} of {path}. Name another folder."
            ) from error
    return told


def check(row: object, owner: str) -> None:
    """Raises TypeError for a row that is not a dict of texts, numbers and booleans."""
    if not isinstance(row, dict):
        raise SettingTypeError(f"`{owner}` must yield rows as dicts; got {type(row).__name__}. Yield dict(name=value).")
    for name, value in row.items():
        if not isinstance(value, (str, int, float)):  # a bool is an int
            raise SettingTypeError(
                f"`{owner}` must yield rows of texts, numbers and booleans; got {type(value).__name__} for {name!r}. "
                "Convert it, as with .item()."
            )


def _line(row: Row) -> str:
    """JSON knows neither NaN nor infinity: they are recorded as null, and read as NaN."""
    plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"
