"""Status: what a kit and its records say right now; nothing is written, and no process is asked."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

from fedtangent.errors import SettingError
from fedtangent.experiments import checkpoint, lock
from fedtangent.experiments.folder import MANIFEST
from fedtangent.experiments.record import ROUNDS
from fedtangent.reports import records
from fedtangent.reports.schema import printable
from fedtangent.reports.statistics import number_text, time_text
from fedtangent.sites import agreement
from fedtangent.sites.in_use import RECORDS, RUNS
from fedtangent.sites.kit import SERVER, Kit, consents, kit
from fedtangent.transports._relay import RELAY


class Status(NamedTuple):
    """rows: What there is to say, by subject. wrong: A sentence for everything that is not well."""

    rows: list[tuple[str, str]]
    wrong: list[str]


def status(folder: str | Path) -> Status:
    """What a kit and its records say.

    Raises:
        ValueError: The kit cannot be used.
    """
    own = kit(folder, relay=None)
    wrong = [] if own.warning is None else [own.warning]
    if _revoked(own):
        wrong.append(f"The certificate of {own.name} is revoked. Ask for a new kit.")
    found = [("federation", f"{own.federation}, of which this is {own.name}")]
    found.append(("certificate", f"until {own.expires:%Y-%m-%d %H:%M} UTC, {_days(own)}"))
    found += [("" if number else "address book", text) for number, text in enumerate(_book(own))]
    if own.name in own.sites:
        found.append(("consents to", ", ".join(consents(own))))
    owner = lock.holder(own.folder)
    found.append(("process", "none" if owner is None else printable(owner)))
    if own.name != RELAY:
        run, not_well = _run(own, owner is not None)
        found += run
        wrong += not_well
    return Status(found, wrong)


def _days(own: Kit) -> str:
    days = (own.expires - datetime.now(UTC)).days
    return "one day" if days == 1 else f"{days} days"


def _book(own: Kit) -> Iterator[str]:
    """A line of every process."""
    calls = f"calls the {SERVER}" if own.served else f"is called by the {RELAY}"
    for name, address in own.book.items():
        where = f"at {address}" if address is not None else calls if name != SERVER else f"is called by the {RELAY}"
        yield f"{name} {where}"
    if own.relay is not None:
        yield f"{RELAY} at {own.relay}"


def _run(own: Kit, used: bool) -> tuple[list[tuple[str, str]], list[str]]:
    """The newest run that is recorded, and its newest checkpoint."""
    folder = _newest(own)
    if folder is None:
        return [("run", "none that is recorded")], []
    try:
        told = records.read(folder) if (folder / ROUNDS).is_file() else None
        kept = checkpoint.read(folder) or checkpoint.read(folder, checkpoint.BEFORE)
        signed = agreement.signers(own, folder)
        count = None if kept is None else int(kept[0]["meta"]["round"])
    except (SettingError, OSError, KeyError) as error:
        return [("run", f"damaged, in {folder}")], [str(error)]
    last = "none" if count is None else f"of round {count}"
    found = [("checkpoint", f"{last}, in {folder}")]
    found += [] if signed is None else [("plan", f"signed by {', '.join(signed)}")]
    goes_on = used and lock.holder(folder) is not None
    if told is None or not told.rounds:
        return [("run", "before its first round" if goes_on else "ended before its first round"), *found], []
    row, planned = told.rounds[-1], told.experiment["rounds"]
    early = row["round"] < planned and told.experiment.get("early_stop") is None
    how = "goes on" if goes_on else "has ended" if not early else "waits" if used else "stopped"
    ago = time_text(max(0.0, time.time() - (folder / ROUNDS).stat().st_mtime))
    text = f"{told.experiment['method']} {how}, round {row['round']} of {planned}, {ago} ago"
    for measure in get_args(records.Measure):
        if isinstance(row.get(measure), float):
            text += f", {measure} {number_text(row[measure], measure)}"
    wrong = (
        []
        if used or not early
        else [
            f"The run in {folder} has stopped here. Start this process again by its command; a leader takes --resume."
        ]
    )
    return [("run", text), *found], wrong


def _newest(own: Kit) -> Path | None:
    """The folder of the newest run; None where none is recorded."""
    place = own.folder / RECORDS
    try:
        folder = Path(os.fsdecode(place.read_bytes()))
    except OSError:
        folder = own.folder / RUNS
    if (folder / MANIFEST).is_file():
        return folder
    found = [path.parent for path in folder.glob(f"*/{MANIFEST}")]
    return max(found, key=_changed, default=None)


def _changed(folder: Path) -> float:
    return max((folder / name).stat().st_mtime for name in (MANIFEST, ROUNDS) if (folder / name).exists())


def _revoked(own: Kit) -> bool:
    """Whether the kit's own list names its certificate."""
    from cryptography import x509

    shown = x509.load_pem_x509_certificate(own.identity.certificate.read_bytes())
    revoked = x509.load_pem_x509_crl(own.identity.revoked.read_bytes())
    return revoked.get_revoked_certificate_by_serial_number(shown.serial_number) is not None
