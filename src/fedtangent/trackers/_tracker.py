"""What a tracker is told of a run, and what it is to do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = "fedtangent"


class Run(NamedTuple):
    """A run, as a tracker begins with it or goes on.

    Attributes:
        folder: Of its record.
        name: In words.
        settings: What the manifest tells of it: numbers, texts, lists, by names with dots.
        id: What this tracker has called it before; None where it is new.
        rounds: How many of its rounds this tracker has already.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    id: str | None
    rounds: int


class Tracker(NamedTuple):
    """A run that is tracked.

    Attributes:
        id: What the tracker calls it, to go on with it another time.
        log: Called with a round, from 1, and its numbers by name.
        finish: Called at the end, with the files to keep and whether the run ended well.
    """

    id: str
    log: Callable[[int, Mapping[str, float]], None]
    finish: Callable[[Sequence[Path], bool], None]


Begin = Callable[[Run], Tracker]
