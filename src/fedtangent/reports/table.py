"""The comparison of runs in one table: accuracy, rounds and bytes to a target, bytes, work and seconds."""

from __future__ import annotations

import html as markup
import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from fedtangent.errors import SettingError
from fedtangent.experiments import early
from fedtangent.reports import statistics
from fedtangent.reports.records import Group, Measure, Record, groups, measure
from fedtangent.reports.statistics import Spread

WORK = "Multiply-adds"


class Column(NamedTuple):
    """One column: a cell a group, and which of the cells are the best.

    Attributes:
        title: The head of the column.
        cells: One text a group.
        best: The positions of the best among the methods that send; empty when there is nothing to compare.
        values: One number a group, by which the column is sorted; NaN where there is none.
    """

    title: str
    cells: list[str]
    best: frozenset[int]
    values: tuple[float, ...]


def table(records: Sequence[Record], target: float | None = None) -> Table:
    """The table of these runs for the terminal; without a target, that of `statistics.common_target`.

    Raises:
        ValueError: A target that is no accuracy, or records that cannot be compared.
    """
    compared = groups(records)
    kind = measure(records)
    target = statistics.common_target(compared, kind) if target is None else checked_target(target, kind)
    body = columns(compared, kind, target)
    work = next((body.pop(i) for i, column in enumerate(body) if column.title == WORK), None)  # a terminal is narrow
    told = [f"{group.label} {cell}" for group, cell in zip(compared, work.cells, strict=True)] if work else []
    caption = "\n".join([f"{WORK} in all: {', '.join(told)}."] * bool(told) + notes(compared))
    shown = Table(caption=Text(caption) if caption else None, caption_justify="left", caption_style="dim")
    shown.add_column("Method", overflow="fold")
    for column in body:
        shown.add_column(column.title, justify="right", overflow="fold")  # where it is narrow nothing is left out
    for i, group in enumerate(compared):
        cells = [Text(column.cells[i], style="bold" if i in column.best else "") for column in body]
        shown.add_row(Text(group.label), *cells)
    return shown


def html(compared: Sequence[Group], kind: Measure, target: float | None, keys: Sequence[str]) -> str:
    """The same table as an HTML element; an element that is the key to its curve stands before the name of a group."""
    body = columns(compared, kind, target)
    head = "".join(f'<th scope="col">{markup.escape(column.title)}</th>' for column in body)
    rows = []
    for i, (group, key) in enumerate(zip(compared, keys, strict=True)):
        cells = "".join(_cell(i, column) for column in body)
        rows.append(f'<tr><th scope="row">{key}{markup.escape(group.label)}</th>{cells}</tr>')
    return (
        f'<table class="summary"><thead><tr><th scope="col">Method</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def columns(compared: Sequence[Group], kind: Measure, target: float | None) -> list[Column]:
    """The table's columns after the methods' names."""

    def measured(spread: Spread) -> str:
        return statistics.measure_spread_text(spread, kind) + _some(spread)

    top = "highest" if kind == "accuracy" else "lowest"
    sign = -1 if kind == "accuracy" else 1
    last = [statistics.final(group, kind) for group in compared]
    best = [statistics.best(group, kind) for group in compared]
    total = [statistics.final(group, "sent_bytes") for group in compared]
    time = [statistics.seconds(group) for group in compared]
    body = [
        _column(f"Final {kind}", last, measured, compared, sign),
        _column(top.title(), best, measured, compared, sign),
    ]
    if target is not None:
        rounds = [statistics.rounds_until(group, target) for group in compared]
        sent = [statistics.bytes_until(group, target) for group in compared]
        goal = target_text(target)
        body.append(_column(f"Rounds to {goal}", rounds, _counted, compared, 1))
        body.append(_column(f"Bytes to {goal}", sent, statistics.bytes_spread_text, compared, 1))
    body.append(_plain("Bytes in all", total, statistics.bytes_spread_text))
    work = [statistics.final(group, "multiply_adds") for group in compared]
    if any(spread.measured for spread in work):  # records of before hold none
        body.append(_plain(WORK, work, statistics.work_spread_text))
    body.append(_plain("Seconds a round", time, statistics.seconds_spread_text))
    return body


def notes(compared: Sequence[Group]) -> list[str]:
    """What a reader must know of the table: what ± means, and which runs stopped early."""
    counts = {len(group.records) for group in compared}
    lines = []
    if counts != {1}:
        seeds = f"{max(counts)} seeds" if len(counts) == 1 else "the seeds: "
        each = "" if len(counts) == 1 else ", ".join(f"{group.label} {len(group.records)}" for group in compared)
        lines.append(f"Mean ± one standard deviation over {seeds}{each}.")
    for group in compared:
        for record in group.records:
            planned = record.experiment.get("rounds")
            done = record.rounds[-1]["round"] if record.rounds else 0
            if isinstance(planned, int) and done < planned:
                patience, run = (
                    record.experiment.get("early_stop"),
                    f"{group.label}, seed {record.experiment.get('seed')}",
                )
                if isinstance(patience, int) and early.ends(record.rounds, patience):
                    best = early.best(record.rounds)
                    lines.append(f"{run}: ended early, after round {done}; its model is that of round {best}.")
                else:
                    lines.append(f"{run}: {done} of {planned} rounds are done.")
    return lines + [note for group in compared for note in _attendance(group)]


def _attendance(group: Group) -> list[str]:
    """Who was there, where that is on the record: nodes and links of a mean round, and the rounds that were skipped."""
    rows = [row for record in group.records for row in record.rounds if row.get("present") is not None]
    links = [row["links"] for row in rows if row.get("links") is not None]
    if not rows:
        return []
    mean = statistics.count_text(fmean(row["present"] for row in rows))
    text = f"{group.label}: {mean} of {group.experiment.get('nodes')} nodes were present in a mean round"
    text += f", and {statistics.count_text(fmean(links))} links held" if links else ""
    skipped = sum(bool(row.get("skipped")) for row in rows)
    return [f"{text}; {skipped} of {len(rows)} rounds were skipped." if skipped else f"{text}."]


def checked_target(target: float, kind: Measure) -> float:
    """The target itself.

    Raises:
        ValueError: It is not within the values that the measure can take.
    """
    if not math.isfinite(target) or target <= 0 or (kind == "accuracy" and target > 1):
        rule = "above 0 and at most 1" if kind == "accuracy" else "above 0"
        example = "an accuracy as a fraction, such as 0.85" if kind == "accuracy" else "a loss"
        raise SettingError(f"`target` must be {rule}; got {target}. Give {example}.")
    return float(target)


def target_text(target: float) -> str:
    """A target as it was given: 0.85, not 0.850."""
    return f"{target:.6g}"


def _plain(title: str, spreads: Sequence[Spread], write: Callable[[Spread], str]) -> Column:
    return Column(title, list(map(write, spreads)), frozenset(), tuple(spread.mean for spread in spreads))


def _column(
    title: str, spreads: Sequence[Spread], write: Callable[[Spread], str], compared: Sequence[Group], sign: int
) -> Column:
    column = _plain(title, spreads, write)
    rivals = [i for i, group in enumerate(compared) if group.sends]
    values = {i: sign * spreads[i].mean for i in rivals if spreads[i].measured and spreads[i].complete}
    lead = [i for i in values if column.cells[i] == column.cells[min(values, key=lambda i: values[i])]]
    return column._replace(best=frozenset(lead if len(rivals) > 1 else ()))


def _counted(spread: Spread) -> str:
    return statistics.count_spread_text(spread) + _some(spread)


def _some(spread: Spread) -> str:
    """Says so where a mean is not that of all seeds, as where one diverged."""
    return f" ({spread.measured} of {spread.runs} seeds)" if spread.measured and not spread.complete else ""


def _cell(i: int, column: Column) -> str:
    rank, title = "best" if i in column.best else "usual", markup.escape(column.title)
    text, *remark = column.cells[i].split(" (")
    unbroken = " (".join([text.replace(" ", "\N{NO-BREAK SPACE}"), *remark])
    value = "" if math.isnan(column.values[i]) else f"{column.values[i]:.9g}"
    return f'<td class="{rank}" data-label="{title}" data-value="{value}">{markup.escape(unbroken)}</td>'
