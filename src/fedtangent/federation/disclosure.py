"""A crowd: when a sum over several owners' rows hides each owner, and each row.

A mean of u u^T over fewer rows than u has entries spans those rows: it tells whether a known row is among them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedtangent import many
from fedtangent.errors import SettingError

OWNERS = 3


def least(fan_in: int) -> int:
    """Minimum number of rows for which a sum of u u^T does not reveal membership: twice the entries of u."""
    return 2 * fan_in


def check(counts: Sequence[int | Tensor], fewest: int, remedy: str = "Raise participation or nodes.") -> None:
    """Raises where a sum over owners with these rows would show one of them.

    Args:
        counts: Of every owner's rows.
        fewest: Rows that the sum must have.
        remedy: What the user can do.

    Raises:
        ValueError: Fewer than three owners, one with more than half of the rows, or too few rows.
    """
    rows = [int(count) for count in many.floats(counts)]
    if len(rows) < OWNERS:
        raise SettingError(f"`nodes` must be at least {OWNERS} in a sum; got {len(rows)}. {remedy}")
    if 2 * max(rows) > sum(rows):
        raise SettingError(
            f"`nodes` must hold at most half of the rows of a sum each; got {max(rows)} of {sum(rows)}. {remedy}"
        )
    if sum(rows) < fewest:
        raise SettingError(
            f"`nodes` must have at least {fewest} rows in a sum, twice a layer's inputs; got {sum(rows)}. {remedy}"
        )


def hides(rows: Tensor, real: Tensor, fewest: Tensor) -> Tensor:
    """Whether `check` would pass, for rows (slots,) of which some are real: a bool tensor, so that vmap can be used."""
    rows = torch.where(real, rows, 0)
    return (real.sum() >= OWNERS) & (2 * rows <= rows.sum()).all() & (rows.sum() >= fewest)
