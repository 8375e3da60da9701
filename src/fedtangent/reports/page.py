"""The report of some runs as one HTML page that needs nothing else: no network and no other file.

Without its script it shows the same; with it, values under the pointer and by the arrow keys, methods that are switched
off, and sorted columns.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from fedtangent.errors import SettingError
from fedtangent.experiments import atomic
from fedtangent.reports import (
    distributions,
    figures,
    listings,
    measure_figures,
    measures,
    nodes,
    statistics,
    svg,
    table,
    template,
)
from fedtangent.reports import records as records_of
from fedtangent.reports.finding import finding
from fedtangent.reports.hover import Drawing, script_data
from fedtangent.reports.records import Group, Measure, Record, groups, measure

_NAMED = 6  # methods in the title; more are counted
_KICKER = "fedtangent report"  # by which an earlier page is known, too


def page(records: Sequence[Record], target: float | None = None) -> str:
    """The page; the same records give the same text. Without a target, that of `statistics.common_target`.

    Raises:
        ValueError: A target that is no accuracy, or records that cannot be compared.
    """
    compared = groups(records)
    kind = measure(records)
    target = statistics.common_target(compared, kind) if target is None else table.checked_target(target, kind)
    looks = figures.looks(compared)
    keys = [look.key for look in looks]
    curves, of_nodes, measured = _curves(compared, kind, target), _nodes(compared), _measures(compared)
    told = {figure.name: figure.drawing.hover for figure in [*curves, *measured, *of_nodes] if figure.drawing.hover}
    return template.page(
        "report.html",
        script="page.js",
        title=_title(compared),
        kicker=_KICKER,
        finding=finding(compared, kind, target),
        introduction=f'<p class="setting">{escape(_setting(compared))}</p>',
        table=table.html(compared, kind, target, keys),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in table.notes(compared)),
        heading="Accuracy" if kind == "accuracy" else "Loss",
        legend=escape(_legend(compared, kind)),
        names=_names(compared, keys),
        curves="".join(map(_html, curves)),
        measures=_measured(compared, keys, measured),
        nodes=_section("nodes", "The nodes", of_nodes),
        exposure="\n".join(listings.exposure(group) for group in compared),
        settings="\n".join(listings.settings(group) for group in compared),
        csv=listings.csv(compared),
        data=listings.data(compared),
        answers=script_data({"colours": [svg.variable(look.colour) for look in looks], "figures": told}),
    )


def of_run(folder: Path) -> Path:
    """The path of a run's page, which is written into its folder.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / "report.html"
    write([records_of.read(folder)], path)
    return path


def write(records: Sequence[Record], path: str | Path, target: float | None = None) -> None:
    """Writes the page to a file, all of it or, when something fails, nothing; its folder is made.

    Raises:
        ValueError: As `page`, and as `ready`.
        OSError: The file cannot be written; an older one is still there.
    """
    path, text = Path(path), page(records, target)
    ready(path)
    # Nobody locks a page's folder, so that two reports may be written at once, each by a process of its own.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    atomic.replaced(path, text, draft=draft, explained=_explained)


def ready(path: str | Path) -> None:
    """Makes the folder of a page, whose place must be free, or held by an empty file or by an earlier report.

    Raises:
        ValueError: There is another file in the place of the page.
        OSError: The folder cannot be made, or what is there cannot be read, such as a folder.
    """
    path = Path(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = b""
        if path.is_file():
            with path.open("rb") as file:
                held = file.read(2**20)
        elif path.exists():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR) if path.is_dir() else "Not a regular file")
    if held and f'<p class="kicker">{_KICKER}</p>'.encode() not in held:
        raise SettingError(
            f"`out` must not be a file that is no report of fedtangent's; got {str(path)!r}. Name another by --out, or "
            "move that file away."
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns a failure to write into a sentence with a remedy."""
    try:
        yield
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"`out` must be a file that can be written; got {str(path)!r} ({reason}). Name another."
        ) from error


def _title(compared: Sequence[Group]) -> str:
    data = _shared(compared, "dataset") or "several data sets"
    count = _shared(compared, "nodes")
    methods = list(dict.fromkeys(group.experiment["method"] for group in compared))
    names = listings.listed(methods) if len(methods) <= _NAMED else f"{len(methods)} methods"
    return f"{names} on {data}" + (f", {count} nodes" if count else "")


def _setting(compared: Sequence[Group]) -> str:
    parts = []
    for key in ("partition", "topology", "model"):
        name, options = _shared(compared, key), _shared(compared, f"{key}_options")
        if name:
            more = " ".join(f"{option}={listings.plain(value)}" for option, value in (options or {}).items())
            parts.append(f"{key} {listings.plain(name)}" + (f" ({more})" if more else ""))
    seeds = sorted(
        {
            str(record.experiment["seed"])
            for group in compared
            for record in group.records
            if "seed" in record.experiment
        }
    )
    parts += [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"] if seeds else []
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _shared(compared: Sequence[Group], key: str) -> Any:
    """The value that all groups which have one agree on, or None."""
    values = [group.experiment[key] for group in compared if group.experiment.get(key)]
    return values[0] if values and all(value == values[0] for value in values) else None


def _legend(compared: Sequence[Group], kind: Measure) -> str:
    what = "its accuracy on the test set" if kind == "accuracy" else "its loss on the test set"
    lines = [f"Solid: the aggregated model, {what}."]
    if kind == "accuracy":
        lines.append("Dashed: the mean over the nodes' own models.")
    if any(len(group.records) > 1 for group in compared):
        lines.append("Band: one standard deviation over the seeds.")
    return " ".join(lines)


def _names(compared: Sequence[Group], keys: Sequence[str]) -> str:
    """The legend, which the script makes switches of: without it, one is needed where the lines carry no names."""
    entries = (
        f'<li>{key}<span class="name">{escape(group.label)}</span></li>'
        for group, key in zip(compared, keys, strict=True)
    )
    needed = "names spare" if figures.names_fit(compared) else "names"
    return f'<ul class="{needed}">{"".join(entries)}</ul>'


class _Figure(NamedTuple):
    """A figure of the page: what its ids begin with, its title, drawing and caption."""

    name: str
    title: str
    drawing: Drawing
    caption: str


def _curves(compared: Sequence[Group], kind: Measure, target: float | None) -> list[_Figure]:
    silent = [group.label for group in compared if not group.sends]
    by_bytes = "Payload of all nodes and the server since round 1, on a logarithmic axis."
    if silent:
        verb, line = ("does", "a horizontal line at its") if len(silent) == 1 else ("do", "horizontal lines at their")
        by_bytes += f" {listings.listed(silent)} {verb} not send round after round: {line} last value."
    by_round, sent = (figures.drawn(compared, kind, target, against) for against in ("round", "sent_bytes"))
    found = [
        _Figure("curve-round", "Against rounds", by_round, "Communication rounds."),
        _Figure("curve-sent-bytes", "Against bytes sent", sent, by_bytes),
    ]
    if (nodes_ := distributions.of_nodes(compared)) is not None:
        caption = "Accuracy of the nodes' own models after the last round, from the lowest to the highest."
        found.append(_Figure("over-nodes", "Over the nodes", nodes_, caption))
    if (classes := distributions.of_classes(compared)) is not None:
        caption = "Accuracy of the aggregated model on the test rows of every class, after the last round."
        found.append(_Figure("over-classes", "Over the classes", classes, caption))
    return found


def _measures(compared: Sequence[Group]) -> list[_Figure]:
    found = []
    for i, name in enumerate(measures.names(compared)):
        if (drawing := measure_figures.over_nodes(compared, name, f"measure-{i}")) is not None:
            caption = f"{measures.written(name)} at every node, from the lowest to the highest: own models solid, the "
            found.append(_Figure(f"measure-{i}", measures.written(name), drawing, f"{caption}aggregated model dashed."))
    if found and (drawing := measure_figures.over_classes(compared)) is not None:
        caption = "Accuracy on the test rows of every class: own models filled, the aggregated model hollow."
        found.append(_Figure("measure-classes", "Every class", drawing, caption))
    return found


def _measured(compared: Sequence[Group], keys: Sequence[str], found: Sequence[_Figure]) -> str:
    """The section of the measures that were asked for; empty without."""
    if not measures.names(compared):
        return ""
    table_ = (
        f'<div class="scroll" role="region" aria-labelledby="measures" tabindex="0">\n{measures.html(compared, keys)}'
    )
    note = f'<p class="note">{escape(measures.note(compared))}</p>'
    pair = f'<div class="pair">\n{"".join(map(_html, found))}</div>' if found else ""
    title = '<h2 id="measures">Own models and the aggregated one</h2>'
    return f'<section aria-labelledby="measures">\n{title}\n{table_}\n</div>\n{note}\n{pair}\n</section>'


def _nodes(compared: Sequence[Group]) -> list[_Figure]:
    found = []
    for i, (name, record) in enumerate(
        _distinct(compared, "labels", ("dataset", "partition", "partition_options", "nodes"))
    ):
        drawing = nodes.skew(record.manifest["labels"], f"skew-{i}")
        found.append(_Figure(f"skew-{i}", f"Labels of the nodes{name}", drawing, ""))
    for i, (name, record) in enumerate(_distinct(compared, "edges", ("nodes", "topology", "topology_options"))):
        drawing = nodes.graph(record.manifest["edges"], record.experiment["nodes"], f"graph-{i}")
        found.append(_Figure(f"graph-{i}", f"Graph of round 1{name}", drawing, ""))
    return found


def _section(name: str, title: str, found: Sequence[_Figure]) -> str:
    if not found:
        return ""
    pair = f'<div class="pair">\n{"".join(map(_html, found))}</div>'
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{pair}\n</section>'


def _html(figure: _Figure) -> str:
    caption = escape(" ".join(filter(None, [figure.caption, figure.drawing.note])))
    plot = f'<div class="plot" id="plot-{figure.name}">{figure.drawing.svg}</div>'
    return f"<figure><h3>{escape(figure.title)}</h3>{plot}<figcaption>{caption}</figcaption></figure>\n"


def _distinct(compared: Sequence[Group], key: str, settings: Sequence[str]) -> list[tuple[str, Record]]:
    """One record a setting that has `key`, the first, and how to name it when there are several."""
    first: dict[str, tuple[Group, Record]] = {}
    for group in compared:
        for record in group.records:
            if record.manifest.get(key):
                setting = json.dumps([record.experiment.get(name) for name in settings], sort_keys=True)
                first.setdefault(setting, (group, record))
    several = len(first) > 1
    return [(f" in {group.label}" if several else "", record) for group, record in first.values()]
