"""Plan: what a run of a federation is to do, as one process proposes it and every other checks it.

It names parts of the package and holds plain values; it can name no file, nor anything of a site's data.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from fedtangent import catalog
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.parts import PARTS
from fedtangent.federation.disclosure import OWNERS
from fedtangent.parsers import LOCAL, WITHOUT
from fedtangent.training import losses

_NAMED = ("method", "host", "model", "augment", "topology", "channel", "rule")
# What would change a run, and is no matter of where the rows are: it is never passed over without a word.
_REFUSED = {
    "attack": "whose sites do not play",
    "class_weights": "whose sites do not tell how many rows each class has",
}
_RUN = re.compile(r"[0-9a-f]{32}")


class Plan(NamedTuple):
    """A run that is proposed.

    Attributes:
        run: 32 hexadecimal digits that no other sitting has.
        record: The same of the record, where there is one; it stays when a run is resumed.
        resume: Whether the record is gone on with.
        patience: Seconds in which something must come of a site that is waited for.
        standardise: Whether features are scaled by their mean and deviation over all sites.
        secure_sums: Whether the parts of sums are masked.
        quorum: The share of the sites that must be present for a round.
        present: The names of the processes that take part in this sitting.
        over: How many rounds are over; -1 where none has begun.
        profiles: What the sites have told of their data when the run began; None where it begins.
        settings: Of an Experiment, but what is a site's own.
    """

    run: str
    record: str | None
    resume: bool
    patience: float
    standardise: bool
    secure_sums: bool
    quorum: float
    present: tuple[str, ...]
    over: int
    profiles: dict[str, Any] | None
    settings: dict[str, Any]


def settings(asked: Experiment) -> dict[str, Any]:
    """What a plan tells of an experiment.

    Raises:
        ValueError: It has what a federation has not, or a part of one's own, which other sites do not have.
    """
    for name in _REFUSED:
        if getattr(asked, name) is not None:
            raise refused(name)
    names = [field.name for field in fields(Experiment) if field.name not in (*LOCAL, *WITHOUT)]
    found = {name: getattr(asked, name) for name in names}
    return checked({name: value for name, value in found.items() if value not in (None, {})})


def refused(name: str) -> SettingError:
    """Why a setting is left out that only a simulation has."""
    why = _REFUSED.get(name, "which has its sites, rows and processes as they are")
    return SettingError(f"`{name}` must be left out of a real federation, {why}; got one. Drop it.")


def plan(told: Any) -> Plan:
    """The plan that another process proposes.

    Raises:
        ValueError: It is none.
    """
    try:
        found = Plan(**told)
        good = all(_RUN.fullmatch(name) for name in (found.run, found.record or found.run))
        good = good and all(isinstance(word, bool) for word in (found.resume, found.standardise, found.secure_sums))
        good = good and 1 <= float(found.patience) <= 10**6 and 0 < float(found.quorum) <= 1
        good = good and isinstance(found.over, int) and all(isinstance(name, str) for name in found.present)
        good = good and (found.profiles is None or isinstance(found.profiles, dict))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise SettingError("`plan` must be one of this version; got another. Run the same code at all sites.")
    check_rule(found.settings, found.secure_sums)
    return found._replace(settings=checked(found.settings))


def check_rule(told: Any, secure_sums: bool) -> None:
    """Raises ValueError where a rule would have to see what masks hide."""
    if not secure_sums or not isinstance(told, Mapping) or told.get("rule") is None:
        return
    given = told.get("rule_options")
    groups = given.get("groups", 1) if isinstance(given, Mapping) else 1
    if not isinstance(groups, int) or groups < OWNERS:
        raise SettingError(
            f"`secure_sums` must be off under a rule, which sees the single messages that masks hide; got the rule "
            f"{str(told['rule'])[:60]!r}. Drop either, or let a server add messages up by --groups {OWNERS} or more."
        )


def check_quorum(quorum: float, sites: int, secure_sums: bool, guard: bool) -> None:
    """Raises ValueError where the fewest sites of a round are too few for a sum that is to hide each of them."""
    fewest = math.ceil(quorum * sites - 1e-9)
    if fewest >= OWNERS or not (secure_sums or guard):
        return
    hides = "secure sums" if secure_sums else "the method's guard"
    if sites < OWNERS:
        name = "secure_sums" if secure_sums else "guard"
        raise SettingError(f"`{name}` must have at least {OWNERS} sites in a sum; got {sites}. Add sites, or drop it.")
    raise SettingError(
        f"`quorum` must keep at least {OWNERS} sites in a round under {hides}; got {quorum:g} of {sites}, which is "
        f"{fewest}. Give {math.ceil(100 * OWNERS / sites) / 100:g} or more."
    )


def checked(told: Any) -> dict[str, Any]:
    """Settings that name parts of the package alone, lists as tuples.

    Raises:
        ValueError: A setting that a plan cannot have.
    """
    known = {field.name for field in fields(Experiment)} - {*LOCAL, *WITHOUT}
    if not isinstance(told, Mapping) or not {*told} <= known:
        names = ", ".join(sorted(map(str, {*told} - known))) if isinstance(told, Mapping) else type(told).__name__
        raise SettingError(f"`plan` must hold settings that a federation has; got {names[:100]}. Drop them.")
    for part in _NAMED:
        if (value := told.get(part)) is not None:
            _check_name(part, value)
    if told.get("metric") is not None:
        _check_name("metric", told["metric"])
    if told.get("loss") is not None and told["loss"] not in losses.NAMES:
        raise SettingError(
            f"`loss` must be one of {', '.join(losses.NAMES)} in a plan; got {told['loss']!r}. Choose one."
        )
    return {name: _plain(name, value, 6) for name, value in told.items()}


def _check_name(part: str, value: Any) -> None:
    known = catalog.names(PARTS[part].folder if part in PARTS else f"{part}s")
    several = part in ("channel", "metric")
    names = value.split(",") if several and isinstance(value, str) else [value]
    names = list(value) if several and isinstance(value, (list, tuple)) else names
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise SettingError(
                f"`{part}` must be one of {', '.join(known)} in a plan, which all sites have; got {str(name)[:60]!r}. "
                "Install a file of your own at all sites as a part of the package."
            )


def _plain(name: str, value: Any, levels: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if levels and isinstance(value, (list, tuple)):
        return tuple(_plain(name, part, levels - 1) for part in value)
    if levels and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(name, part, levels - 1) for key, part in value.items()}
    raise SettingError(f"`{name}` must be plain in a plan; got {type(value).__name__}. Give numbers and texts.")


def code() -> str:
    """A digest of this package's own files: sites run the same, whatever its version says."""
    root = Path(catalog.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]
