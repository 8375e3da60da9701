"""A crowd: when a sum over several owners' rows hides each owner, and each row.

A mean of u u^T over fewer rows than u has entries spans those rows: it tells whether a known row is among them.
Sums that go on from neighbour to neighbour are over rings of nodes around the receiver. Any combination of what comes
on several hops has the whole outermost of its rings in it, so that nobody is shown if every ring is a crowd by itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedtangent import many
from fedtangent.errors import SettingError
from fedtangent.federation.fleet import Fleet
from fedtangent.federation.values import Each

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


class Reach(NamedTuple):
    """Whose rows a node's sums are over, of K nodes.

    Attributes:
        own: Whether it is the node itself, (K,).
        rows: How many there are of everybody's, counted as often as they are in the sums, (K,).
        seen: All of whom there have been some, and the node itself, (K,).
    """

    own: Tensor
    rows: Tensor
    seen: Tensor

    def farther(self, rows: Tensor, fewest: Tensor) -> tuple["Reach", Tensor]:
        """After one more hop, which makes the sums those over `rows`; and whether they show another node.

        They do where there are others' rows and those whom the hop adds are no crowd; then there is nothing to pass on.
        """
        ring = (rows > 0) & ~self.seen
        shown = ((rows > 0) & ~self.own).any() & ~hides(rows, ring, fewest)
        return Reach(self.own, torch.where(shown, 0, rows), self.seen | ring), shown


def reach(fleet: Fleet, rows_k: Each[Tensor]) -> Each[Reach]:
    """Every node's, before it has received anything."""
    own_k = fleet.of_here([torch.arange(fleet.total, device=fleet.device) == node for node in fleet.here])
    return fleet.map(lambda own, rows: Reach(own, own * rows, own), own_k, rows_k)
