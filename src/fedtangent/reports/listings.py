"""What stands in a page beside its figures: exposure, settings, and every round as a table and as CSV."""

from __future__ import annotations

import base64
import csv as comma_separated
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedtangent.reports import measures
from fedtangent.reports.records import Group, Record, flat
from fedtangent.reports.statistics import MISSING

# What each level of exposure means.
MEANING = {
    "raw-equivalent": "who receives the messages can read the training inputs out of them, as if the data were sent.",
    "kernel": "the messages hold similarities between samples, from which membership of a known sample can be told.",
    "aggregate": "the messages hold only sums over a node's samples, which leak less, though not nothing.",
    "none": "nothing is sent: the method is a reference that does not federate.",
}
_COLUMNS = ("round", "accuracy", "mean_node_accuracy", "worst_tenth_accuracy", "loss", "sent_bytes", "seconds")
# A browser is slow with larger tables; the CSV file holds every round in any case.
_LISTED_ROUNDS = 3000


def exposure(group: Group) -> str:
    """The level at which a group's messages give its data away, and what the level means, as an entry of a list."""
    levels = list(dict.fromkeys(str(record.manifest.get("exposure") or "not recorded") for record in group.records))
    meanings = "".join(
        f'<p class="plain"><span class="level">{escape(level)}</span>: '
        f"{escape(MEANING.get(level, 'this report does not know the level; see the manual of the method.'))}</p>"
        for level in levels
    )
    return f"<dt>{escape(group.label)}</dt><dd>{meanings}</dd>"


def settings(group: Group) -> str:
    """Everything that a group's runs were set to, folded away."""
    seeds = ", ".join(str(record.experiment.get("seed")) for record in group.records)
    manifest = group.records[0].manifest
    pairs: dict[str, Any] = flat({**group.experiment, "seed": seeds})
    pairs |= flat(
        {
            key: manifest[key]
            for key in ("exposure", "rule_sees", "liars", "machine", "versions", "threads")
            if key in manifest
        }
    )
    pairs["folder"] = ", ".join(record.folder.name for record in group.records)
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(plain(v))}</td></tr>' for k, v in pairs.items())
    return _folded(group.label, "Settings", f'<table class="pairs"><tbody>{rows}</tbody></table>')


def plain(value: object) -> str:
    """A setting's value as text: a name as it is, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def listed(names: Sequence[str]) -> str:
    """The names as one reads them out: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def csv(compared: Sequence[Group]) -> str:
    """Every round of every run as a link's address that holds the CSV file itself."""
    file = io.StringIO()
    writer = comma_separated.writer(file, lineterminator="\n")
    measured = _measured(compared)
    writer.writerow(["run", "seed", *_COLUMNS, *measured])
    for group in compared:
        for record in group.records:
            # A table calculator runs a cell that begins so.
            start = [f"'{group.label}" if group.label[0] in "=+-@" else group.label, record.experiment.get("seed")]
            for row in record.rounds:
                writer.writerow([*start, *(row.get(key) for key in _COLUMNS), *(_of(row, key) for key in measured)])
    return f"data:text/csv;base64,{base64.b64encode(file.getvalue().encode()).decode()}"


def data(compared: Sequence[Group]) -> str:
    """Every round of every run as tables, one a group, folded away; only a remark when they would be too long."""
    count = sum(len(record.rounds) for group in compared for record in group.records)
    if count > _LISTED_ROUNDS:
        return f'<p class="note">The {count:,} rounds are too many to list here; the CSV file has them all.</p>'
    return "\n".join(_rounds(group) for group in compared)


def _measured(compared: Sequence[Group]) -> list[str]:
    """The columns of measures, such as own_f1 and aggregate_f1, where they were asked for: the means over the nodes."""
    return [f"{kind}_{name}" for name in measures.names(compared) for kind in measures.MODELS]


def _of(row: Mapping[str, Any], key: str) -> float | None:
    """What a round has in a column of measures; of an aggregated model on all test rows its one value."""
    kind, _, name = key.partition("_")
    found = ((row.get("measures") or {}).get(name) or {}).get(kind) or {}
    value: float | None = found.get("mean", found.get("all"))
    return value


def _rounds(group: Group) -> str:
    measured = _measured([group])
    head = "".join(f'<th scope="col">{escape(key.replace("_", " "))}</th>' for key in (*_COLUMNS, *measured))
    tables = "".join(
        f"<table><caption>Seed {escape(str(record.experiment.get('seed')))}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{_body(record, measured)}</tbody></table>"
        for record in group.records
    )
    return _folded(group.label, "Rounds", tables)


def _body(record: Record, measured: Sequence[str]) -> str:
    lines = []
    for row in record.rounds:
        first, *rest = (_cell(key, row.get(key)) for key in _COLUMNS)
        rest += [_cell(key, _of(row, key)) for key in measured]
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    return "".join(lines)


def _cell(key: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    if key in ("round", "sent_bytes"):
        return f"{value:,}"
    return f"{value:.3f}" if key == "seconds" else f"{value:.4f}"


def _folded(label: str, what: str, content: str) -> str:
    name = escape(label)
    return (
        f'<details><summary>{name}</summary><div class="scroll" role="region" aria-label="{what} of {name}" '
        f'tabindex="0">{content}</div></details>'
    )
