"""What the nodes' own models and the aggregated one are worth on test rows, by every measure asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from fedtangent.reports import table
from fedtangent.reports.records import Group, Record, groups
from fedtangent.reports.statistics import Spread, measure_spread_text, spread

Kind = Literal["own", "aggregate"]
MODELS: dict[Kind, str] = {"own": "own models", "aggregate": "aggregated model"}
_WRITTEN = {"auc": "AUC", "f1": "F1"}
_COLUMNS = {"mean": "Mean", "deviation": "Deviation", "worst_tenth": "Worst tenth"}
_LEFT = ("Method", "Measure", "Model")


class Line(NamedTuple):
    """A line of the table: a measure, a group's position, which of its models, and the columns' values over seeds."""

    name: str
    of: int
    kind: Kind
    cells: list[Spread]


def names(compared: Sequence[Group]) -> list[str]:
    """The measures that any record has, in order of appearance."""
    found = (latest(record) for group in compared for record in group.records)
    return list(dict.fromkeys(name for told in found for name in told))


def written(name: str) -> str:
    """A measure's name as it is read."""
    return _WRITTEN.get(name, name.capitalize() if name == "accuracy" else name)


def latest(record: Record) -> dict[str, dict[Kind, Any]]:
    """The measures of the last round in which own models were measured, or of the last one at all; empty without."""
    rows = [row["measures"] for row in record.rounds if row.get("measures")]
    full = [told for told in rows if any(models.get("own") for models in told.values())]
    found: dict[str, dict[Kind, Any]] = [{}, *rows, *full][-1]
    return found


def tables(records: Sequence[Record], target: float | None = None) -> list[Table]:
    """What the terminal shows of these runs: the comparison, and a table of the measures where some were asked for.

    Raises:
        ValueError: As `table.table`.
    """
    own = terminal(records)
    return [table.table(records, target), *([] if own is None else [own])]


def terminal(records: Sequence[Record]) -> Table | None:
    """The table for the terminal; None where nothing was asked for."""
    compared = groups(records)
    if not names(compared):
        return None
    shown = Table(
        title="Own models and the aggregated one", title_justify="left", caption=note(compared), caption_justify="left"
    )
    for title in (*_LEFT, *_COLUMNS.values()):
        shown.add_column(title, justify="left" if title in _LEFT else "right", overflow="fold")
    for line in _lines(compared):
        shown.add_row(Text(compared[line.of].label), Text(written(line.name)), MODELS[line.kind], *_texts(line))
    return shown


def html(compared: Sequence[Group], keys: Sequence[str]) -> str:
    """The same as an HTML element; the key to a group's lines stands before its name."""
    head = "".join(f'<th scope="col">{title}</th>' for title in (*_LEFT, *_COLUMNS.values()))
    rows = []
    for line in _lines(compared):
        cells = "".join(f"<td>{cell}</td>" for cell in (escape(written(line.name)), MODELS[line.kind], *_texts(line)))
        rows.append(f'<tr><th scope="row">{keys[line.of]}{escape(compared[line.of].label)}</th>{cells}</tr>')
    return f'<table class="measures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def note(compared: Sequence[Group]) -> str:
    """What a reader must know of the table."""
    text = "Means, deviations and worst tenths (the mean of the lowest tenth) over the nodes after the last round."
    if any(len(group.records) > 1 for group in compared):
        text += " Mean ± one standard deviation over the seeds."
    return " ".join([text, *(told for name in names(compared) if (told := _lacking(compared, name)))])


def every(group: Group, name: str, kind: Kind, key: str) -> list[float]:
    """The values of a key, such as nodes, by node of all seeds, NaN where there is none."""
    held = [(latest(record).get(name, {}).get(kind) or {}).get(key) or [] for record in group.records]
    return [math.nan if value is None else float(value) for own in held for value in own]


def _lines(compared: Sequence[Group]) -> list[Line]:
    found = []
    for name in names(compared):
        for i, group in enumerate(compared):
            held = [latest(record).get(name, {}) for record in group.records]
            for kind in MODELS:
                if any(models.get(kind) for models in held):
                    cells = [spread([_cell(models, kind, key) for models in held]) for key in _COLUMNS]
                    found.append(Line(name, i, kind, cells))
    return found


def _texts(line: Line) -> list[str]:
    return [measure_spread_text(cell, "accuracy") for cell in line.cells]


def _cell(models: dict[Kind, Any], kind: Kind, key: str) -> float | None:
    """A value of the table; of the aggregated model on all test rows there is one, in the place of the mean."""
    found = models.get(kind) or {}
    value: float | None = found.get("all") if key == "mean" and "all" in found else found.get(key)
    return value


def _lacking(compared: Sequence[Group], name: str) -> str:
    """At how many nodes a measure has no value, where there are some."""
    told = []
    for group in compared:
        nodes = every(group, name, "aggregate", "nodes") or every(group, name, "own", "nodes")
        lacking = sum(math.isnan(value) for value in nodes)
        told += [f"{lacking} of {len(nodes)} nodes"] if lacking else []
    return f"{written(name)} has no value at {', '.join(dict.fromkeys(told))}." if told else ""
