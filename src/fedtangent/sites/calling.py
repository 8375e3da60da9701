"""Calling: who takes part in a sitting, a stretch of a run in which nobody comes and nobody goes.

A sitting ends when a site is lost, or when one is back and a round is over. Then all connections are made anew and
all go on from the last round that is over. The leader decides who takes part.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from fedtangent.errors import SettingError
from fedtangent.federation.disclosure import OWNERS
from fedtangent.federation.presence import enough
from fedtangent.sites import joining
from fedtangent.sites.joining import LOOK, Doors
from fedtangent.sites.kit import Kit
from fedtangent.sites.sums_sent import may_follow
from fedtangent.transports._lines import Gone, Lines

_MOST = 5  # times that a site may break off the same round
_UNREACHED = 2  # such times, where it can reach the leader and not another site, each of which takes seconds
_MOST_IN_ALL = 20  # times that a round may be broken off at all


class Over(Exception):
    """The run ends here, for a reason that is one sentence."""


class Calling:
    """The leader's: whom it waits for, and whom it leaves out.

    Args:
        own: Its kit.
        doors: To the others.
        wait: Seconds in which all must be there first.
        deadline: Seconds in which one that was lost must be back.
        quorum: The share of the sites without which no round is played.
        tell: Given a sentence about who is missing.
    """

    def __init__(
        self, own: Kit, doors: Doors, wait: float, deadline: float, quorum: float, tell: Callable[[str], None]
    ) -> None:
        self._own, self._doors, self._wait, self._deadline = own, doors, wait, deadline
        self._quorum, self._tell = quorum, tell
        self._before: list[str] | None = None  # who took part in the last sitting
        self._out: set[str] = set()
        self._faults: Counter[str] = Counter()
        self._broken = 0

    @property
    def goes_on(self) -> str:
        """When a run that was broken off goes on."""
        late = f", or in {self._deadline:g} seconds with those that are" if self._quorum < 1 else ""
        return f"The run goes on as soon as all are there{late}."

    def everybody(self) -> list[str]:
        """All processes, as soon as they are there.

        Raises:
            ValueError: One is not there in time, or is not who it should be.
            Over: One says that it does not take part.
        """
        until, due, lines = time.monotonic() + self._wait, self._doors.others, joining.lines(self._own)
        while True:
            lines.meet(joining.numbers(self._own, self._doors.there()))
            self._listen(lines)  # which closes those that have ended
            missing = [name for name in due if self._own.number(name) not in lines.met]
            if not missing:
                break
            self._doors.check()
            if time.monotonic() > until:
                raise self._doors.missing(missing[0], self._wait)
        return self._sat(self._present(due))

    def again(self, summed: Sequence[str] | None) -> list[str]:
        """Those who take part in the next sitting: all who are there as soon as the last sitting's are, or in time.

        Args:
            summed: The sites that have begun masked sums of the round that is to be done again.

        Raises:
            Over: They are too few.
        """
        until = time.monotonic() + self._deadline
        expected = [name for name in self._before or self._doors.others if name != self._own.name]
        expected = [name for name in expected if name not in self._out]
        while True:
            lasting = self._doors.lasting()
            there = [name for name in self._doors.others if name in lasting and name not in self._out]
            missing = [name for name in expected if name not in there]
            if not missing or time.monotonic() > until:
                break
            time.sleep(LOOK)
        present = self._present(there)
        if summed is not None:
            present = self._hiding(present, summed)
        sites = [name for name in present if name in self._own.sites]
        if not enough(len(sites), len(self._own.sites), self._quorum):
            late = next(name for name in self._own.sites if name not in sites)
            raise Over(
                f"{late} was waited for, {self._deadline:g} seconds long, and too few sites are there without it."
            )
        if away := [name for name in self._own.sites if name not in sites]:
            self._tell(f"Going on without {', '.join(away)}, with {len(sites)} of {len(self._own.sites)} sites.")
        return self._sat(present)

    def back(self, present: Collection[str]) -> str | None:
        """Who is back, of those that do not take part; None for nobody."""
        found = [name for name in self._doors.lasting() if name not in present and name not in self._out]
        return found[0] if found else None

    def progress(self) -> None:
        """A round is over: what was broken before does not count any more."""
        self._faults.clear()
        self._broken = 0

    def lost(self, gone: Gone, unreached: Mapping[str, Collection[str]]) -> None:
        """A sitting was broken off.

        Args:
            gone: Why.
            unreached: Whom each process could not reach.

        Raises:
            Over: It would be broken off again and again.
        """
        self._broken += 1
        faults = {gone.culprit: 1} | dict.fromkeys(unreachable(self._own, unreached), _UNREACHED)
        for name, count in faults.items():
            self._faults[name] += count
            if name in self._own.sites and name != self._own.name and self._faults[name] >= _MOST:
                self._out.add(name)
        whole = self._quorum == 1
        if self._broken >= _MOST_IN_ALL or (whole and (self._out or (gone.final and gone.culprit))):
            raise Over(str(gone))

    def _listen(self, lines: Lines) -> None:
        """Raises Over where somebody who is there says that it does not take part."""
        try:
            lines.hear(LOOK)
        except Gone as gone:
            if gone.final:
                raise Over(str(gone)) from gone

    def _present(self, others: Sequence[str]) -> list[str]:
        """With this process, in the order of the address book."""
        return [name for name in self._own.book if name == self._own.name or name in others]

    def _sat(self, present: list[str]) -> list[str]:
        self._before = present
        return present

    def _hiding(self, present: list[str], first: Sequence[str]) -> list[str]:
        """As many of those present as may do a round again whose sums these sites have begun."""
        sites = [name for name in present if name in first]
        gone = len(first) - len(sites)
        if gone:
            spare = [name for name in reversed(sites) if name != self._own.name][: max(0, OWNERS - gone)]
            sites = [name for name in sites if name not in spare]
        if not may_follow(sites, first):
            late = next(name for name in first if name not in sites)
            raise Over(
                f"{late} was waited for, {self._deadline:g} seconds long: sums that it has a part in were begun, and "
                "without it they would tell what it has sent."
            )
        return [name for name in present if name in sites or name not in self._own.sites]


def unreachable(own: Kit, unreached: Mapping[str, Collection[str]]) -> list[str]:
    """As few sites as one must leave out so that all others reach one another; those that most complain of first."""
    pairs = {frozenset((name, other)) for name, others in unreached.items() for other in others}
    found = []
    while pairs:
        names = Counter(name for pair in pairs for name in pair if name != own.name)
        worst = max(names, key=lambda name: (names[name], own.number(name)))
        found.append(worst)
        pairs = {pair for pair in pairs if worst not in pair}
    return found


def heard(own: Kit, doors: Doors, wait: float, leader: str | None) -> tuple[Lines, str, object]:
    """What a leader says that starts a sitting, who it is, and the lines to all that are there.

    Args:
        own: This process's kit.
        doors: To the others.
        wait: Seconds in which somebody, or the leader, must be there.
        leader: Of the sitting before; None where there was none.

    Raises:
        ValueError: Nobody is there in time, or somebody is not who it should be.
        Over: The leader of the sitting before is not there in time, or says that the run is over.
    """
    names = list(own.book)
    lines, until = joining.lines(own), time.monotonic() + wait
    known = None if leader is None else own.number(leader)
    while True:
        lines.meet(joining.numbers(own, doors.there()))
        try:
            said = lines.hear(4 * LOOK, known)
        except Gone as gone:
            if leader is None and gone.final:  # another may wait for this process, and not have heard why it ends
                lines.meet(joining.numbers(own, doors.there()))
                lines.abort(str(gone), gone.culprit, final=True)
            if gone.final and leader in (None, gone.sender):
                raise Over(str(gone)) from gone
            continue
        if said is not None:
            return lines, names[said[0]], said[1]
        waited_for = doors.others if leader is None else [leader]
        if any(own.number(name) in lines.met for name in waited_for):
            until = time.monotonic() + wait
        elif leader is None:
            doors.check()
            if time.monotonic() > until:
                raise doors.missing(waited_for[0], wait)
        elif time.monotonic() > until:
            raise Over(f"{leader} was waited for, {wait:g} seconds long.")


def reached(own: Kit, doors: Doors, lines: Lines, present: Sequence[str], seconds: float) -> list[str]:
    """Makes lines to all that take part; whom there is none to after so many seconds.

    Raises:
        ValueError: This process takes no part.
    """
    if own.name not in present or not {*present} <= {*own.book}:
        raise SettingError("`plan` must name sites of this federation, this one among them; got others.")
    until = time.monotonic() + seconds
    due = [name for name in present if name in doors.others]
    while True:
        lines.meet(joining.numbers(own, doors.take(due)))
        missing = [name for name in due if own.number(name) not in lines.met]
        if not missing or time.monotonic() > until:
            return missing
        time.sleep(LOOK)
