"""Session: one run of a federation, from the first connection to the last word, whatever happens in between."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from fedtangent.datasets._scale import PIXELS, left_to_all
from fedtangent.errors import SettingError, UserError
from fedtangent.experiments.build import built_dataset, built_device
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.folder import MANIFEST
from fedtangent.experiments.run import Result
from fedtangent.experiments.setup import Setup
from fedtangent.experiments.tracking import Tracking
from fedtangent.reports.listings import MEANING
from fedtangent.reports.schema import printable
from fedtangent.shard import Dataset
from fedtangent.sites import agreement, joining
from fedtangent.sites import kit as kits
from fedtangent.sites import plan as plans
from fedtangent.sites.calling import Calling
from fedtangent.sites.joining import Doors
from fedtangent.sites.kit import SERVER, Kit, kit
from fedtangent.sites.plan import Plan
from fedtangent.sites.sitting import Place, end, joined, led
from fedtangent.transports._lines import Lines
from fedtangent.transports._tls import Address

_LONGEST = 366 * 24 * 3600.0  # seconds, for which no clock overflows
RECORD = ".run"  # beside a leader's record: its number, by which sites find their part


def own_data(settings: Mapping[str, Any]) -> Dataset:
    """The rows of a site, by dataset, data_dir and the data set's options; its device is checked too.

    8-bit images are x / 255: what they are scaled by goes by the rows of all sites, before round 1.

    Raises:
        ValueError: They cannot be read, or would be read in a way that hangs on this site's rows.
    """
    asked = Experiment(method="local", **settings)
    chosen = asked.resolved("dataset")
    if chosen.get("columns", "") is None:
        raise SettingError(
            "`columns` must be given at a site, so that categories and classes have the same numbers at all; got none. "
            "Agree on a file of columns, and give it at every site."
        )
    if chosen.get("scale"):
        raise SettingError(
            "`scale` must be left out at a site, which knows its own rows alone; got it. Use --standardise at the "
            "leader."
        )
    built_device(asked)
    with left_to_all() as pixels:
        found = built_dataset(asked)
    return found._replace(schema=f"{PIXELS} {found.schema}") if pixels else found


def lead(
    folder: str,
    asked: Experiment,
    dataset: Dataset | None,
    *,
    out: str | None,
    resume: bool,
    standardise: bool,
    secure_sums: bool,
    wait: float,
    patience: float,
    listen: str | None,
    track: Sequence[str] = (),
    quorum: float = 1.0,
    deadline: float | None = None,
) -> Result | None:
    """The result of a run that this process proposes; None where it has ended before its time.

    Args:
        folder: Of its kit.
        asked: What is to be done.
        dataset: Its own rows; None for a server.
        out: The folder for the record; none records nothing, and then a site that is lost ends the run.
        resume: Go on with the run in the folder.
        standardise: Scale features by their mean and deviation over all sites.
        secure_sums: Mask the parts of sums.
        wait: Seconds in which all sites must be there.
        patience: Seconds in which something must come of a site that is waited for.
        listen: Where to listen, host:port; none is as the kit has it.
        track: The trackers that are given what the record holds.
        quorum: The share of the sites that must be there for a round, once all have been.
        deadline: Seconds in which a site that is lost must be back; none is as `wait`.

    Raises:
        ValueError: What cannot be.
    """
    own = _opened(folder)
    if own.served != (own.name == SERVER) or (dataset is None) != own.served:
        raise SettingError(
            f"`kit` must be {'the server' if own.served else 'a site'}'s for this command; got that of {own.name}. "
            f"Use fedtangent {'server' if own.served else 'start'}."
        )
    if resume and out is None:
        raise SettingError("`resume` must have a folder to go on from; got no `out`. Give --out.")
    _check_seconds(wait=wait, patience=patience, deadline=wait if deadline is None else deadline)
    if not 0 < quorum <= 1:
        raise SettingError(f"`quorum` must be a share above 0, up to 1; got {quorum}. Give 1 for all sites.")
    if quorum < 1 and out is None:
        raise SettingError("`quorum` must be 1 without a record, from which all go on; got no `out`. Give --out.")
    plans.check_quorum(quorum, len(own.sites), secure_sums, bool(asked.resolved("method").get("guard")))
    Tracking(track, out, None)  # what is wrong with them is told before anybody is called
    built_device(asked)
    settings = plans.settings(asked)
    plans.check_rule(settings, secure_sums)
    plan = Plan("", _record(out), resume, patience, standardise, secure_sums, quorum, (), -1, None, settings)
    with closing(Doors(own, address(listen), tell)) as doors:
        print(f"{own.name} is ready, and waits for {', '.join(doors.others)}.", flush=True)
        caller = Calling(own, doors, wait, wait if deadline is None else deadline, quorum, tell)
        return led(Place(own, doors, dataset, track, _announce, tell, asked.device), plan, out, caller)


def join(
    folder: str, dataset: Dataset, *, wait: float, listen: str | None, state: str | None, device: str = "cpu"
) -> Result | None:
    """The result of a run that another process proposes; None where it has ended before its time.

    Args:
        folder: Of its kit.
        dataset: Its own rows.
        wait: Seconds in which somebody must be there, and in which a leader that is lost must be back.
        listen: As of `lead`.
        state: The folder for its parts of records; none is one in the kit.
        device: Where this process computes.

    Raises:
        ValueError: What cannot be.
    """
    _check_seconds(wait=wait)
    own = _opened(folder)
    if own.name == SERVER:
        raise SettingError("`kit` must be a site's for this command; got the server's. Use fedtangent server.")
    with closing(Doors(own, address(listen), tell)) as doors:
        print(f"{own.name} is ready, and waits for a plan.", flush=True)
        place = Place(own, doors, dataset, (), _announce, tell, device)
        return joined(place, wait, own.folder / "runs" if state is None else Path(state))


def asked_rows(folder: str, settings: Mapping[str, Any], listen: str | None) -> Dataset:
    """`own_data` of a site; where it cannot take part it says so to the others who are there, who end too.

    Args:
        folder: Of its kit.
        settings: As of `own_data`.
        listen: As of `lead`.

    Raises:
        ValueError: As of `own_data`, or the kit is none.
    """
    try:
        return own_data(settings)
    except (UserError, OSError) as error:
        with suppress(SettingError):  # of the kit, or of a process that has its address
            own = kit(folder)
            with closing(Doors(own, address(listen), tell)) as doors:
                end(own, doors, joining.lines(own), agreement.unable(own.name, str(error)))
        raise


def _announce(own: Kit, lines: Lines, built: Setup, secure: bool) -> None:
    """Says what is about to be sent, to whom, and how much it tells."""
    told, level = built.description, built.method.exposure
    sites = f"{len(own.sites)} sites, {sum(len(data.real) for data in built.data)} rows"
    plan = f"{told['method']} by {lines.name(0)} on {told['dataset']}, {sites}, {built.task.size:,} parameters"
    print(f"{plan}, {told['rounds']} rounds, seed {told['seed']}")
    print(f"{own.name} sends {agreement.sends(built, own)}")
    print(f"Exposure {level}: {MEANING[level]}")
    if secure:
        print("Sums are masked: a receiver sees the sum over sites. What is no sum, it sees as it is.", flush=True)
    elif level == "aggregate":
        print("Without secure sums a receiver sees each site's own sums over its rows.", flush=True)


def _opened(folder: str) -> Kit:
    found = kit(folder)
    if found.warning is not None:
        tell(found.warning)
    return found


def _record(out: str | None) -> str | None:
    """The number of a leader's record; a new one where none is begun."""
    if out is None:
        return None
    path = Path(out) / RECORD
    if (Path(out) / MANIFEST).is_file() and path.is_file():
        return path.read_text().strip()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.urandom(16).hex()
        path.write_text(number)
    except OSError as error:
        raise SettingError(
            f"`out` must be a folder that can be written; got {out} ({error.strerror}). Choose another."
        ) from error
    return number


def _check_seconds(**given: float) -> None:
    """Raises ValueError where a time that something is waited for is none."""
    for name, seconds in given.items():
        if not 0 < seconds < _LONGEST:
            raise SettingError(
                f"`{name}` must be seconds above 0, at most a year; got {seconds}. Give a time such as 300."
            )


def address(text: str | None) -> Address | None:
    """What --listen names.

    Raises:
        ValueError: It is no address.
    """
    if text is None:
        return None
    found = kits.address(text)
    if found is None:
        raise SettingError(f"`listen` must be an address host:port; got {text!r}. Give such an address.")
    return found


def tell(sentence: str) -> None:
    """Says a sentence on stderr."""
    print(f"fedtangent: {printable(sentence)}", file=sys.stderr, flush=True)
