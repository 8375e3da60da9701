"""The runs in some folders, and why other folders among them are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fedtangent.reports import records

_MANIFEST, _ROUNDS = "manifest.json", "rounds.jsonl"
# Folders below one that was asked for: runs/method/seed-0, and one for how they were sorted.
_LEVELS = 3


class Search(NamedTuple):
    """Runs, each once, and a sentence for each folder with a manifest that is none that can be reported."""

    records: list[records.Record]
    left_out: list[str]


def runs(folders: Sequence[str | Path]) -> Search:
    """The runs that these folders are, or hold up to three levels down; a run's file stands for its folder.

    Raises:
        ValueError: A folder that is no run and holds none.
    """
    by_path: dict[str, records.Record] = {}
    left_out = []
    for asked in map(Path, folders):
        folder = asked.parent if asked.is_file() and (asked.parent / _MANIFEST).is_file() else asked
        inside = [] if (folder / _MANIFEST).is_file() else list(_inside(folder, _LEVELS))
        errors: list[Exception] = []
        for path in inside:
            try:
                by_path.setdefault(os.path.realpath(path), records.read(path))
            except (ValueError, OSError) as error:
                errors.append(error)
                why = error if (path / _ROUNDS).is_file() else f"it has no {_ROUNDS}, so it is a recipe's or of no run."
                left_out.append(f"{path} is left out: {why}")
        if len(errors) == len(inside):  # none, or none that can be read
            by_path.setdefault(os.path.realpath(folder), records.read(folder if not errors else inside[0]))
    return Search(list(by_path.values()), left_out)


def _inside(folder: Path, levels: int) -> Iterator[Path]:
    """The folders with a manifest below one, in the order of their names; what is below those is theirs."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if (path / _MANIFEST).is_file():
            yield path
        elif levels > 1:
            yield from _inside(path, levels - 1)
