"""Session: one run of a federation, from the first connection to the last word, whatever happens in between."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedtangent import __version__
from fedtangent.errors import SettingError
from fedtangent.experiments.build import built_dataset
from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.experiments.folder import MANIFEST
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import Setup
from fedtangent.experiments.tracking import Tracking
from fedtangent.reports import progress
from fedtangent.reports.listings import MEANING
from fedtangent.reports.page import of_run
from fedtangent.reports.schema import printable
from fedtangent.shard import Dataset
from fedtangent.sites import agreement, joining
from fedtangent.sites import plan as plans
from fedtangent.sites.kit import SERVER, Kit, kit
from fedtangent.sites.plan import Plan
from fedtangent.transports._lines import Gone, Lines
from fedtangent.transports._tls import Address
from fedtangent.transports.network import everybody

RECORD = ".run"  # beside a leader's record: its number, by which sites find their part


def own_data(settings: Mapping[str, Any]) -> Dataset:
    """The rows of a site, by dataset, data_dir and the data set's options.

    Raises:
        ValueError: They cannot be read, or would be read in a way that hangs on this site's rows.
    """
    asked = experiment("local", **settings)
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
    return built_dataset(asked)


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
) -> Result | None:
    """The result of a run that this process proposes; None where another process has ended.

    Args:
        folder: Of its kit.
        asked: What is to be done.
        dataset: Its own rows; None for a server.
        out: The folder for the record; none records nothing.
        resume: Go on with the run in the folder.
        standardise: Scale features by their mean and deviation over all sites.
        secure_sums: Mask the parts of sums.
        wait: Seconds in which all sites must be there.
        patience: Seconds in which something must come of a site that is waited for.
        listen: Where to listen, host:port; none is as the kit has it.
        track: The trackers that are given what the record holds.

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
    Tracking(track, out, None)  # what is wrong with them is told before anybody is called
    number = os.urandom(16).hex()
    proposed = Plan(number, _record(out), resume, patience, standardise, secure_sums, plans.settings(asked))
    plans.check_rule(proposed.settings, secure_sums)
    lines = joining.lines(own, _address(listen), wait, _tell)
    with _Ending(own, lines) as ending:
        lines.say(proposed._asdict() | {"version": __version__})
        lines.lead(list(own.book).index(own.name))
        ending.result = _played(own, lines, proposed, dataset, out, track)
    return ending.result


def join(folder: str, dataset: Dataset, *, wait: float, listen: str | None, state: str | None) -> Result | None:
    """The result of a run that another process proposes; None where another process has ended.

    Args:
        folder: Of its kit.
        dataset: Its own rows.
        wait: As of `lead`.
        listen: As of `lead`.
        state: The folder for its parts of records; none is one in the kit.

    Raises:
        ValueError: What cannot be.
    """
    own = _opened(folder)
    if own.name == SERVER:
        raise SettingError("`kit` must be a site's for this command; got the server's. Use fedtangent server.")
    lines = joining.lines(own, _address(listen), wait, _tell)
    with _Ending(own, lines) as ending:
        print(f"{own.name} is ready, and waits for a plan.", flush=True)
        leader, told = lines.hear()
        version = told.pop("version", None) if isinstance(told, dict) else None
        if version != __version__:
            raise SettingError(
                f"`plan` must be of version {__version__}; got {str(version)[:20]!r}. Install the same at all sites."
            )
        proposed = plans.plan(told)
        lines.lead(leader)
        out = None
        if proposed.record is not None:
            out = str((own.folder / "runs" if state is None else Path(state)) / proposed.record)
        ending.result = _played(own, lines, proposed, dataset, out)
    return ending.result


class _Ending:
    """A context that ends the run of all when this process ends before its time, and says why another has."""

    def __init__(self, own: Kit, lines: Lines) -> None:
        self._name, self._lines = own.name, lines
        self.result: Result | None = None

    def __enter__(self) -> "_Ending":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self._lines.end()
            return False
        if isinstance(error, Gone):
            self._lines.abort(str(error))
            told = f"fedtangent: {printable(str(error))} The run has ended at all sites. Go on with --resume."
            print(told, file=sys.stderr, flush=True)
            return True
        how = "was stopped" if isinstance(error, KeyboardInterrupt) else "has failed, and says why there"
        self._lines.abort(f"{self._name} {how}.")
        return False


def _played(
    own: Kit, lines: Lines, plan: Plan, dataset: Dataset | None, out: str | None, track: Sequence[str] = ()
) -> Result:
    lines.run, lines.patience = bytes.fromhex(plan.run), plan.patience
    built = agreement.agreed(own, lines, plan, dataset)
    _announce(own, lines, built, plan.secure_sums)
    with progress.rounds(built) as show:
        result = run(built, out, resume=plan.resume, on_round=show, track=track, page=of_run)
    lines.parting = True
    everybody(lines, 3, None)
    return result


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
        _tell(found.warning)
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


def _address(text: str | None) -> Address | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) >= 2**16:
        raise SettingError(f"`listen` must be an address host:port; got {text!r}. Give such an address.")
    return Address(host.strip("[]"), int(port))


def _tell(sentence: str) -> None:
    print(f"fedtangent: {printable(sentence)}", file=sys.stderr, flush=True)
