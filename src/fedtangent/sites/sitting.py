"""Sittings: a process's part of a run, from one stretch in which nobody comes and nobody goes to the next."""

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from fedtangent import __version__
from fedtangent.errors import SettingError
from fedtangent.experiments import apart, atomic
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import Setup
from fedtangent.federation.transport import Tag
from fedtangent.reports import progress, records
from fedtangent.reports.schema import printable
from fedtangent.shard import Dataset
from fedtangent.sites import agreement, calling, joining, kept_files, sums_sent
from fedtangent.sites import plan as plans
from fedtangent.sites.agreement import Kept
from fedtangent.sites.calling import Calling, Over
from fedtangent.sites.joining import LOOK, Doors
from fedtangent.sites.kit import Kit
from fedtangent.sites.plan import Plan
from fedtangent.sites.sums_sent import SumsSent
from fedtangent.transports._lines import Gone, Lines
from fedtangent.transports._tls import HANDSHAKE
from fedtangent.transports.network import everybody

_KNOWN = ".federation"  # beside a leader's record: what the sites have told of their data when the run began
_LAST_WORD = 3.0  # seconds in which a leader that ends tells those who call it
_BETWEEN = 1000  # the leg of what the leader says between two rounds


class Back(Gone):
    """A site is back, and takes part from the next round on."""


class Place(NamedTuple):
    """Where a process stands.

    Attributes:
        own: Its kit.
        doors: To the others.
        dataset: Its own rows; None for a server.
        track: The trackers that are given what the record holds.
        announce: Says what is about to be sent.
        tell: Given one sentence about what happens.
        device: Where it computes.
    """

    own: Kit
    doors: Doors
    dataset: Dataset | None
    track: Sequence[str]
    announce: Callable[[Kit, Lines, Setup, bool], None]
    tell: Callable[[str], None]
    device: str = "cpu"


def led(place: Place, plan: Plan, out: str | None, caller: Calling) -> Result | None:
    """The result of a run that this process proposes; None where it has ended before its time.

    Args:
        place: Where this process stands.
        plan: Of the run, without what is of one sitting.
        out: The folder for the record.
        caller: Who calls the sites together.

    Raises:
        ValueError: What cannot be.
    """
    kept = _known(None if out is None or not plan.resume else Path(out))
    sitting = _Sitting(place, kept, caller)
    own, lines = place.own, joining.lines(place.own)
    try:
        while True:
            try:
                plan = _called(place, plan, out, caller, kept)
                lines = joining.lines(own, place.doors.take(plan.present))
                lines.lead(own.number(own.name), [own.number(name) for name in plan.present])
                lines.say(plan._asdict() | {"version": __version__})
                result = sitting.result(lines, plan, out, [])
                if away := {*own.book}.difference(plan.present):
                    end(own, place.doors, joining.lines(own), "The run is over, without this site.", away)
                return result
            except Gone as gone:
                if sitting.done is not None:  # a site was lost while all parted
                    raise Over("") from gone
                lines.abort(str(gone), gone.culprit)
                if out is None:
                    raise Over(str(gone)) from gone
                if not isinstance(gone, Back):
                    caller.lost(gone, sitting.unreached)
                place.tell(f"{gone} {caller.goes_on}")
            place.doors.free()
            plan = plan._replace(resume=True)
    except Over as over:
        found = sitting.done or _whole(out, plan)
        why = str(over) if found is None else ""
        end(own, place.doors, lines, why)
        return _ended(why, found)
    except BaseException as error:
        end(own, place.doors, lines, _failure(place, error))
        raise


def joined(place: Place, wait: float, state: Path) -> Result | None:
    """The result of a run that another process proposes; None where it has ended before its time.

    Args:
        place: Where this process stands.
        wait: Seconds in which somebody must be there, and in which a leader that is lost must be back.
        state: The folder for this process's parts of records.

    Raises:
        ValueError: What cannot be.
    """
    sitting, leader = _Sitting(place, Kept(), None), None
    while True:
        try:
            lines, leader, told = calling.heard(place.own, place.doors, wait, leader)
        except Over as over:
            return _ended(str(over), sitting.done)
        recorded = False
        try:
            plan = _heard(told)
            recorded = plan.record is not None
            seconds = min(HANDSHAKE, plan.patience / 2)  # or the leader would miss this process
            missing = calling.reached(place.own, place.doors, lines, plan.present, seconds)
            lines.lead(place.own.number(leader), [place.own.number(name) for name in plan.present])
            return sitting.result(lines, plan, None if plan.record is None else str(state / plan.record), missing)
        except Gone as gone:
            lines.abort(str(gone), gone.culprit, gone.final and gone.sender == gone.culprit)
            if not recorded or (gone.final and gone.sender == leader):
                return _ended(str(gone), sitting.done)
            place.tell(f"{gone} Waiting for {leader} to go on.")
        except BaseException as error:
            lines.abort(_failure(place, error), place.own.name, not isinstance(error, KeyboardInterrupt))
            raise
        finally:
            place.doors.free()


class _Sitting:
    """Sittings of one process, one after the other.

    Args:
        place: Where it stands.
        kept: What it keeps from one to the next.
        caller: Where it leads; None elsewhere.

    Attributes:
        unreached: Whom each process could not reach, at the last sitting's begin.
        done: What the run has come to, when all its rounds are over here.
    """

    def __init__(self, place: Place, kept: Kept, caller: Calling | None) -> None:
        self._place, self._kept, self._caller = place, kept, caller
        self._announced = False
        self.unreached: dict[str, list[str]] = {}
        self.done: Result | None = None

    def result(self, lines: Lines, plan: Plan, out: str | None, missing: list[str]) -> Result:
        """The result of a run, when no site is lost before its end.

        Args:
            lines: To those that take part.
            plan: Of the run.
            out: The folder for this process's part of the record.
            missing: Whom this process could not reach.

        Raises:
            Gone: The sitting has ended before the run.
        """
        place, folder = self._place, None if out is None else Path(out)
        self.unreached = {}
        lines.run = bytes.fromhex(plan.run)
        lines.patience = plan.patience * (1 if self._caller else 2)  # the leader is to notice first who is late
        self._compare(lines, missing)
        sites = [name for name in plan.present if name in place.own.sites]
        sums = SumsSent(folder, sites, max(plan.over, 0)) if plan.secure_sums else None
        sending = _nothing if sums is None else sums.sending
        built = agreement.agreed(place.own, lines, plan, place.dataset, self._kept, sending, place.device)
        if self._caller is not None:
            sending()
            _keep(folder, self._kept)
        if folder is not None and len(plan.present) == len(place.own.book):
            folder.mkdir(parents=True, exist_ok=True)
            atomic.replaced(folder / agreement.AGREED, json.dumps(self._kept.signed, indent=1))
        if not self._announced:
            place.announce(place.own, lines, built, plan.secure_sums)
            self._announced = True
        with progress.rounds(built) as show:

            def ended(entry: dict[str, Any]) -> None:
                show(entry)
                self._between(lines, plan, entry["round"], sums)

            self.done = run(built, out, resume=plan.resume, on_round=ended, track=place.track, page=_page)
        lines.parting = True
        everybody(lines, 3, None)
        lines.end()
        return self.done

    def _compare(self, lines: Lines, missing: list[str]) -> None:
        """Raises where some of those that take part cannot reach one another."""
        told = everybody(lines, 0, missing)
        self.unreached = {lines.name(place): list(names) for place, names in enumerate(told) if names}
        for name, names in self.unreached.items():
            raise Gone(f"{name} cannot reach {names[0]}.")

    def _between(self, lines: Lines, plan: Plan, round: int, sums: SumsSent | None) -> None:
        """A round is over, when the leader says so: and whether another site takes part from now on."""
        tag = Tag(0, _BETWEEN, round)
        if self._caller is None:
            (back,) = lines.swap(tag, {}, [0])[0]
        else:
            self._caller.progress()
            back = self._caller.back(plan.present) if plan.record is not None else None
            lines.swap(tag, {place: [back] for place in range(1, lines.count)}, [])
        if sums is not None:
            sums.over(round)
        if back is not None:
            raise Back(f"{back} is back.")
        if sums is not None and self._caller is not None:
            sums.sending()


def _called(place: Place, plan: Plan, out: str | None, caller: Calling, kept: Kept) -> Plan:
    """The plan of the next sitting, as soon as those are there who take part."""
    folder = None if out is None or not plan.resume else Path(out)
    over = -1 if folder is None else apart.rounds_over(folder)
    first = over < 0 or kept.profiles is None
    if first:
        present = caller.everybody()
    else:
        summed = sums_sent.last(folder, over + 1) if folder is not None and plan.secure_sums else None
        present = caller.again(summed)
    run, profiles = os.urandom(16).hex(), None if first else kept.profiles
    return plan._replace(run=run, present=tuple(present), over=over, profiles=profiles)


def _heard(told: Any) -> Plan:
    version = told.pop("version", None) if isinstance(told, dict) else None
    if version != __version__:
        raise SettingError(
            f"`plan` must be of version {__version__}; got {str(version)[:20]!r}. Install the same at all sites."
        )
    return plans.plan(told)


def _failure(place: Place, error: BaseException) -> str:
    """What the others are told of a process that ends."""
    how = "was stopped" if isinstance(error, KeyboardInterrupt) else "has failed, and says why there"
    return f"{place.own.name} {how}."


def end(own: Kit, doors: Doors, lines: Lines, why: str, to: Collection[str] | None = None) -> None:
    """This process's last word to others, those too who have left the sitting and are calling anew.

    Args:
        own: Its kit.
        doors: To the others.
        lines: Of the sitting.
        why: One sentence.
        to: Their names; none is everybody.
    """
    until, left = time.monotonic() + _LAST_WORD, {*(doors.others if to is None else to)}
    lines.abort(why, own.name, final=True)
    doors.free()
    while left and time.monotonic() < until:
        found = doors.take([name for name in doors.there() if name in left])
        joining.lines(own, found).abort(why, own.name, final=True)
        left -= {*found}
        time.sleep(LOOK)


def _page(folder: Path) -> Path:
    """A run's page, which trackers keep; what draws it takes long to import, and few sites need it."""
    from fedtangent.reports.page import of_run

    return of_run(folder)


def _nothing() -> None:
    """What is done where sums are not masked."""


def _ended(why: str, found: Result | None) -> Result | None:
    """What a run has come to that has ended well, for which there is no reason to tell; else the reason is told."""
    if not why:
        return found or Result({}, [], {}, None, nn.Identity())
    told = f"fedtangent: {printable(why)} The run has ended at all sites. Go on with --resume."
    print(told, file=sys.stderr, flush=True)
    return None


def _whole(out: str | None, plan: Plan) -> Result | None:
    """What a leader's record says that lacks no round; None where it lacks some."""
    if out is None or apart.rounds_over(Path(out)) < plan.settings.get("rounds", Experiment.rounds):
        return None
    found = records.read(Path(out))
    return Result(found.manifest, found.rounds, {}, Path(out), nn.Identity())


def _known(folder: Path | None) -> Kept:
    """What a leader has kept of a run that has begun."""
    kept = Kept()
    found = (
        None
        if folder is None
        else kept_files.read(folder / _KNOWN, lambda told: (dict(told["profiles"]), told["scale"]))
    )
    if found is not None:
        kept.profiles, kept.scale = found
    return kept


def _keep(folder: Path | None, kept: Kept) -> None:
    if folder is not None:
        atomic.replaced(folder / _KNOWN, json.dumps({"profiles": kept.profiles, "scale": kept.scale}))
