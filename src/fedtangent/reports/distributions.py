"""How accuracy is spread: over the nodes' own models, and over the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedtangent.reports import svg
from fedtangent.reports.figures import Stroke, drawn_line, finish, framed, looks, names_fit, told_apart
from fedtangent.reports.hover import Drawing, Line, answers
from fedtangent.reports.listings import listed
from fedtangent.reports.records import Group, Record
from fedtangent.reports.statistics import number_text

# Classes with a row of their own; of more, their accuracies are drawn from the lowest to the highest.
ROWS = 40
# Points of a line of sorted accuracies.
_POINTS = 250
_WIDTH = 440


def of_nodes(compared: Sequence[Group]) -> Drawing | None:
    """The accuracies of the nodes' own models after the last round that has them, from the lowest to the highest.

    The nodes of all seeds are put together. None where no record has any.
    """
    found = [np.sort([x for record in group.records for x in latest(record, "node_accuracy")]) for group in compared]
    drawing = _sorted(compared, found, "nodes", "over-nodes")
    lacking = [group.label for group, own in zip(compared, found, strict=True) if not len(own)]
    if drawing is None or not lacking:
        return drawing
    verb = "has" if len(lacking) == 1 else "have"
    missing = (
        f"{listed(lacking)} {verb} no accuracies of single nodes: all nodes share one model, or none was measured."
    )
    return drawing._replace(note=" ".join(filter(None, [drawing.note, missing])))


def of_classes(compared: Sequence[Group]) -> Drawing | None:
    """The aggregated model's accuracy on every class after the last round that has them, a mean over seeds.

    None where no record has any.
    """
    found = [_class_means(group) for group in compared]
    count = max(map(len, found))
    if count > ROWS:
        return _sorted(compared, [np.sort(own[np.isfinite(own)]) for own in found], "classes", "over-classes")
    return _rows(compared, found, count) if count else None


def latest(record: Record, key: str) -> list[float]:
    """What the last round that has a list of `key` holds there, NaN for what was not measured; empty where none has."""
    held: list[float | None] = next((row[key] for row in reversed(record.rounds) if row.get(key)), [])
    return [math.nan if value is None else float(value) for value in held]


def _class_means(group: Group) -> np.ndarray:
    """The mean over the seeds of every class's accuracy; seeds with another number of classes are of another task."""
    held: list[list[float]] = [own for record in group.records if (own := latest(record, "class_accuracy"))]
    same = np.array([own for own in held if len(own) == len(held[0])])
    count = np.isfinite(same).sum(axis=0)
    return np.where(count > 0, np.nansum(same, axis=0) / np.maximum(count, 1), np.nan) if len(same) else np.empty(0)


def _sorted(compared: Sequence[Group], values: Sequence[np.ndarray], what: str, name: str) -> Drawing | None:
    if not any(map(len, values)):
        return None
    with svg.style():
        figure, axes = framed()
        strokes: list[Stroke] = []
        for i, (group, own, look) in enumerate(zip(compared, values, looks(compared), strict=True)):
            own = own[np.isfinite(own)]
            if not len(own):
                continue
            share, kept = sorted_points(own)
            say = [number_text(value) for value in kept]
            strokes.append(drawn_line(axes, Line(i, group.label, share, kept, say), look))
        low, high = axes.get_ylim()
        axes.set(xlim=(0, 1), ylim=(max(0.0, low), min(1.0, high) if high < 1.2 else high))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        finish(figure, axes, strokes, names_fit(compared))
        answering = answers(axes, [s.line for s in strokes], lambda share: f"{share:.0%} of the {what} have at most")
        spread = "; ".join(f"{s.line.name} from {s.line.say[0]} to {s.line.say[-1]}" for s in strokes)
        described = f"Accuracy of the {what}, from the lowest to the highest: {spread}."
        return Drawing(svg.inline(figure, name, described), answering, told_apart(axes, strokes))


def sorted_points(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of values from the lowest to the highest some, the last included, and the share of all that are no higher."""
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().astype(int))
    return (kept + 1) / len(values), values[kept]


def class_axes(count: int) -> tuple[Figure, Axes]:
    """A figure with a row a class, and its axes without a frame."""
    height = 40 + max(120, 24 * count)
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    axes = figure.add_axes((44 / _WIDTH, 28 / height, 1 - 58 / _WIDTH, 1 - 36 / height))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=svg.SOFT, linewidth=0.8)
    axes.tick_params(axis="both", colors=svg.SOFT, length=0, pad=6, labelsize=12)
    axes.grid(color=svg.RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set(ylim=(count - 0.5, -0.5), yticks=range(count))
    return figure, axes


def _rows(compared: Sequence[Group], means: Sequence[np.ndarray], count: int) -> Drawing:
    with svg.style():
        figure, axes = class_axes(count)
        lines = []
        for i, (group, own, look) in enumerate(zip(compared, means, looks(compared), strict=True)):
            place = np.arange(len(own), dtype=np.float64)
            style: Any = {"linestyle": "none", "marker": look.marker, "markersize": 7, "gid": svg.of(i), **look.edge}
            axes.plot(own, place, color=look.colour, alpha=0.9, clip_on=False, **style)
            lines.append(Line(i, group.label, own, place, [number_text(value) for value in own]))
        low, high = axes.get_xlim()
        axes.set_xlim(max(0.0, low), min(1.0, high))
        answering = answers(axes, lines, lambda place: f"Class {place:.0f}", along="y", step=False)
        worst = [
            f"{group.label} is least accurate on class {np.nanargmin(own)}, {number_text(float(np.nanmin(own)))}"
            for group, own in zip(compared, means, strict=True)
            if np.isfinite(own).any()
        ]
        return Drawing(svg.inline(figure, "over-classes", f"Accuracy of every class: {'; '.join(worst)}."), answering)
