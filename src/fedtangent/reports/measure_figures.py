"""How measures are spread: over the nodes, and over the classes, of own models and of the aggregated one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fedtangent.reports import svg
from fedtangent.reports.distributions import ROWS, class_axes, sorted_points
from fedtangent.reports.figures import Look, drawn_line, finish, framed, looks, names_fit, told_apart
from fedtangent.reports.hover import Drawing, Line, answers
from fedtangent.reports.measures import MODELS, Kind, every, latest, written
from fedtangent.reports.records import Group
from fedtangent.reports.statistics import number_text


def over_nodes(compared: Sequence[Group], name: str, drawing: str) -> Drawing | None:
    """A measure of every node's rows, from the lowest to the highest: own models solid, the aggregated one dashed.

    The nodes of all seeds are put together. None where no record has any.

    Args:
        compared: The groups.
        name: The measure.
        drawing: What the drawing is called.
    """
    found = {kind: [_pooled(group, name, kind, "nodes") for group in compared] for kind in MODELS}
    return _sorted(compared, found, "nodes", f"{written(name)} of the nodes", drawing)


def over_classes(compared: Sequence[Group]) -> Drawing | None:
    """The accuracy on the nodes' rows of every class: own models filled, the aggregated one hollow. None without."""
    found = {kind: [_class_means(group, kind) for group in compared] for kind in MODELS}
    count = max((len(own) for each in found.values() for own in each), default=0)
    if count > ROWS:
        return _sorted(
            compared,
            {kind: [np.sort(own[np.isfinite(own)]) for own in each] for kind, each in found.items()},
            "classes",
            "Accuracy of the classes",
            "measure-classes",
        )
    return _by_class(compared, found, count) if count else None


def _pooled(group: Group, name: str, kind: Kind, key: str) -> np.ndarray:
    found = np.sort(np.array(every(group, name, kind, key), dtype=np.float64))
    return found[np.isfinite(found)]


def _class_means(group: Group, kind: Kind) -> np.ndarray:
    """The mean over the seeds of every class's accuracy; seeds with another number of classes are of another task."""
    held = [(latest(record).get("accuracy", {}).get(kind) or {}).get("classes") or [] for record in group.records]
    held = [own for own in held if own and len(own) == len(held[0])]
    same = np.array([[math.nan if value is None else value for value in own] for own in held], dtype=np.float64)
    count = np.isfinite(same).sum(axis=0)
    if not count.any():
        return np.empty(0)
    return np.where(count > 0, np.nansum(same, axis=0) / np.maximum(count, 1), np.nan)


def _sorted(
    compared: Sequence[Group], found: dict[Kind, list[np.ndarray]], what: str, title: str, name: str
) -> Drawing | None:
    if not any(len(own) for each in found.values() for own in each):
        return None
    with svg.style():
        figure, axes = framed()
        strokes, dashed = [], []
        for i, (group, look) in enumerate(zip(compared, looks(compared), strict=True)):
            own, aggregate = found["own"][i], found["aggregate"][i]
            alike = np.array_equal(own, aggregate)
            if len(own):
                strokes.append(drawn_line(axes, _line(i, group.label, own), look))
            if len(aggregate) and not alike:
                dashed.append(_dashed(axes, _line(i, f"{group.label}, aggregated", aggregate), look))
        axes.set(xlim=(0, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        finish(figure, axes, strokes, names_fit(compared))
        lines = [*(stroke.line for stroke in strokes), *dashed]
        answering = answers(axes, lines, lambda share: f"{share:.0%} of the {what} have at most")
        spread_ = "; ".join(f"{line.name} from {line.say[0]} to {line.say[-1]}" for line in lines)
        described = f"{title}, from the lowest to the highest: {spread_}."
        return Drawing(svg.inline(figure, name, described), answering, told_apart(axes, strokes))


def _line(i: int, label: str, values: np.ndarray) -> Line:
    share, kept = sorted_points(values)
    return Line(i, label, share, kept, [number_text(value) for value in kept])


def _dashed(axes: Axes, line: Line, look: Look) -> Line:
    axes.plot(line.x, line.y, color=look.colour, linewidth=1.4, dashes=(4, 2.5), gid=svg.of(line.of))
    return line


def _by_class(compared: Sequence[Group], found: dict[Kind, list[np.ndarray]], count: int) -> Drawing:
    with svg.style():
        figure, axes = class_axes(count)
        lines = []
        kinds: tuple[Kind, ...] = ("aggregate", "own")  # the filled ones are drawn over the hollow ones
        for kind in kinds:
            for i, (group, look) in enumerate(zip(compared, looks(compared), strict=True)):
                own = found[kind][i]
                if len(own):
                    lines.append(_marks(axes, i, f"{group.label}, {MODELS[kind]}", own, look, kind == "aggregate"))
        axes.set_xlim(max(0.0, axes.get_xlim()[0]), min(1.0, axes.get_xlim()[1]))
        answering = answers(axes, lines, lambda place: f"Class {place:.0f}", along="y", step=False)
        worst = [f"{line.name} at least {number_text(float(np.nanmin(line.x)))}" for line in lines]
        described = f"Accuracy of every class on the test rows: {'; '.join(worst)}."
        return Drawing(svg.inline(figure, "measure-classes", described), answering)


def _marks(axes: Axes, i: int, name: str, values: np.ndarray, look: Look, hollow: bool) -> Line:
    place = np.arange(len(values), dtype=np.float64)
    edge: Any = {"markerfacecolor": svg.PAPER, "markeredgewidth": 1.4} if hollow else look.edge
    style: Any = {"linestyle": "none", "marker": look.marker, "markersize": 7, "gid": svg.of(i), "clip_on": False}
    axes.plot(values, place, color=look.colour, alpha=0.9, **style, **edge)
    return Line(i, name, values, place, [number_text(value) for value in values])
