"""What a recipe measured: its table on the terminal, and one HTML page with figure and table that needs nothing else.

A recipe draws with plain matplotlib; the page gives its figure the page's colours, lines and letters, light and dark.
"""

from __future__ import annotations

import base64
import csv
import inspect
import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation
from rich import box
from rich.table import Table
from rich.text import Text

from fedtangent.experiments import atomic
from fedtangent.reports import svg, template
from fedtangent.reports.listings import plain
from fedtangent.reports.records import flat
from fedtangent.reports.statistics import MISSING

Rows = Sequence[Mapping[str, Any]]

# The page's look for a figure that sets none itself. (Any: matplotlib types the keys one by one.)
_STYLE: Any = {
    **svg.STYLE,
    "axes.prop_cycle": cycler(color=[svg.curve(i) for i in range(8)]),
    "axes.axisbelow": True,
    "axes.edgecolor": svg.SOFT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": svg.SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "figure.dpi": 72,
    "grid.color": svg.RULE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "lines.linewidth": 2,
    "text.color": svg.INK,
    "xtick.color": svg.SOFT,
    "ytick.color": svg.SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def write(
    path: Path,
    summary: str,
    measure: Callable[..., Any],
    manifest: Mapping[str, Any],
    rows: Rows,
    table: Rows,
    figure: Callable[[Any], Figure],
) -> None:
    """Writes the page, all of it or, when something fails, nothing.

    Args:
        path: The HTML file.
        summary: One sentence, the title.
        measure: The recipe's function, whose docstring says what it shows.
        manifest: Of the run.
        rows: What was measured.
        table: Its summary.
        figure: rows -> their figure.

    Raises:
        OSError: The file cannot be written; an older one is still there.
    """
    with matplotlib.rc_context(_STYLE):
        drawn = figure(rows)
        _plain_powers(drawn)
        finding, *notes = _paragraphs(measure)
        drawing = svg.inline(drawn, "recipe", finding)
    text = template.page(
        "recipe.html",
        title=summary[:1].upper() + summary[1:].rstrip("."),
        kicker=f"fedtangent recipe {manifest['recipe']}",
        finding=finding,
        introduction="\n".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        name=escape(manifest["recipe"]),
        width=round(0.75 * 72 * drawn.get_size_inches()[0]),
        drawing=drawing,
        table=_html(table),
        settings=_settings(manifest),
        csv=_csv(rows),
        count=f"{len(rows):,}",
    )
    atomic.replaced(path, text)


def picture(path: Path, rows: Rows, figure: Callable[[Any], Figure]) -> None:
    """Writes the figure alone as a PNG, on white: for a text that cannot hold the page.

    Raises:
        OSError: The file cannot be written; an older one is still there.
    """
    plain_style: Any = {
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "grid.color": "#dddddd",
        "legend.frameon": False,
    }
    with matplotlib.rc_context(plain_style):
        drawn = figure(rows)
        atomic.replaced(path, lambda draft: drawn.savefig(draft, format="png", dpi=100, metadata={"Software": None}))


def terminal(table: Rows) -> Table:
    """The table for the terminal."""
    heads = _heads(table)
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, head in enumerate(heads):
        shown.add_column(Text(head.replace("_", " ")), justify="right" if i else "left", overflow="fold")
    for row in table:
        shown.add_row(*(Text(_cell(row.get(head))) for head in heads))
    return shown


def _html(table: Rows) -> str:
    heads = _heads(table)
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in heads)
    body = []
    for row in table:
        first, *rest = (escape(_cell(row.get(name))) for name in heads)
        body.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _heads(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        whole = 1000 <= abs(value) < 1e7  # 12,300 and not 1.23e+04
        return f"{value:{',.0f' if whole else '.3g'}}" if math.isfinite(value) else MISSING
    return MISSING if value is None else str(value)


def _settings(manifest: Mapping[str, Any]) -> str:
    pairs = flat({key: manifest[key] for key in ("options", "versions", "threads")})
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(plain(v))}</td></tr>' for k, v in pairs.items())
    return f'<table class="pairs"><tbody>{body}</tbody></table>'


def _csv(rows: Rows) -> str:
    """The rows as a link's address that holds the CSV file itself."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _heads(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return f"data:text/csv;base64,{base64.b64encode(file.getvalue().encode()).decode()}"


def _paragraphs(measure: Callable[..., Any]) -> list[str]:
    """What the docstring says before its sections, a paragraph each."""
    before = (inspect.getdoc(measure) or "").split("\nArgs:\n")[0]
    return [" ".join(part.split()) for part in before.split("\n\n") if part.strip()] or ["No description."]


class _Powers(LogFormatterSciNotation):
    """The ticks of a logarithmic axis in plain letters, 10⁻³, since the page sets no mathematics."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        if not super().__call__(x, pos):
            return ""
        power = math.log10(abs(x))
        if abs(power) < 4 or abs(power - round(power)) > 1e-6:
            return f"{x:g}"
        return "10" + str(round(power)).translate(_SUPERSCRIPTS)


def _plain_powers(figure: Figure) -> None:
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
                axis.set_major_formatter(_Powers())
                axis.set_minor_formatter(_Powers())
