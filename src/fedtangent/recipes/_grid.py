"""Grid: what recipes share that run some methods on some partitions with some seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedtangent.errors import SettingError
from fedtangent.experiments.options import unknown


def check(
    rounds: int, seeds: int, names: Sequence[str], partitions: Sequence[str], known: Mapping[str, Any], what: str
) -> None:
    """Raises where a grid has nothing to run, or a name that is none.

    Args:
        rounds: Of a run.
        seeds: Runs of every name and partition.
        names: The methods, however the recipe calls them.
        partitions: As of `split`.
        known: What names there are.
        what: What the recipe calls one of them, such as variant.

    Raises:
        ValueError: See above.
    """
    if rounds < 1 or seeds < 1 or not names or not partitions:
        raise SettingError(
            f"`rounds`, `seeds`, `{what}s` and `partitions` must be at least one; got {rounds}, {seeds}, "
            f"{len(names)} and {len(partitions)}. Give such numbers and lists."
        )
    for name in names:
        if name not in known:
            raise SettingError(unknown(name, known, f"a {what}"))


def split(partition: str, drawn: Mapping[str, Any], nodes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a partition: `iid`, the alpha of a draw of labels, or an index file, which has its own nodes.

    Args:
        partition: One of these.
        drawn: The settings of the draw beside its alpha.
        nodes: What iid and the draw are told beside.
    """
    if partition == "iid":
        return {"partition": "iid", **(nodes or {})}
    try:
        return {"alpha": float(partition), **drawn, **(nodes or {})}
    except ValueError:
        return {"partition": partition}


def mean(values: Sequence[float]) -> float:
    """Their mean."""
    return float(np.mean(values))


def deviation(values: Sequence[float]) -> float:
    """Their standard deviation, by one less than there are; NaN of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
