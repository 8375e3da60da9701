"""Sums sent: with whom a site has had a masked sum in a round that is not over; it may be done again with some only.

A round that broke off is done again, from the same weights. If it were done again without one of the sites, whoever
has seen both sums would know, by their difference, what that one has sent. So a site takes part again only with the
same sites, or without at least `OWNERS` of them and with at least as many left: both the sum and the difference then
have as many owners as any sum must have.
"""

import json
from collections.abc import Collection
from pathlib import Path

from fedtangent.errors import SettingError
from fedtangent.experiments import atomic
from fedtangent.federation.disclosure import OWNERS
from fedtangent.sites import kept_files

NAME = ".sums"


def may_follow(sites: Collection[str], before: Collection[str]) -> bool:
    """Whether a round that some sites have begun may be done again by others."""
    left, gone = {*sites}, {*before}.difference(sites)
    return left == {*before} or (left < {*before} and min(len(left), len(gone)) >= OWNERS)


def last(folder: Path, round: int) -> list[str] | None:
    """Who has begun a round that is not over; None where nobody has.

    Args:
        folder: Of a process's part of the record.
        round: The next one.

    Raises:
        ValueError: The file that would say so is another.
    """
    found = kept_files.read(folder / NAME, lambda told: (told["round"], [str(name) for name in told["sites"]]))
    return found[1] if found is not None and found[0] == round else None


class SumsSent:
    """What a process remembers of the round that is not over, on its disk before anything leaves.

    Args:
        folder: For its part of the record; None where there is none, and no round is ever done again.
        sites: Who takes part in this sitting.
        over: How many rounds are over.

    Raises:
        ValueError: The sites of this sitting may not do the next round again.
    """

    def __init__(self, folder: Path | None, sites: Collection[str], over: int) -> None:
        self._folder, self._sites, self._round = folder, sorted(sites), over + 1
        self._written = False
        before = None if folder is None else last(folder, self._round)
        if before is not None and not may_follow(self._sites, before):
            raise SettingError(
                f"`secure_sums` must hide what every site has sent in round {self._round}; got a second sum with "
                f"{', '.join(self._sites)} after one with {', '.join(before)}. Start all of these again."
            )

    def sending(self) -> None:
        """A part of a sum may leave."""
        if self._written or self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic.replaced(self._folder / NAME, json.dumps({"round": self._round, "sites": self._sites}))
        self._written = True

    def over(self, round: int) -> None:
        """A round is over, at the leader."""
        self._round, self._written = round + 1, False
