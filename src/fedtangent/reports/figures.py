"""The curves of the runs: accuracy, or loss, against rounds and against bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from fedtangent.reports import statistics, svg
from fedtangent.reports.records import Group, Measure
from fedtangent.reports.table import target_text

Against = Literal["round", "sent_bytes"]

_WIDTH, _HEIGHT = 440, 300
_LEFT, _BOTTOM, _TOP, _GAP = 44, 28, 14, 8
# Wide enough for any sans-serif font at the size of the labels.
_LETTER, LINE = 7.4, 15.5
# Names longer than this, or more than this many, go into a legend above the figures instead.
_LONGEST_NAME, _MOST_NAMES = 20, 6
# Markers of a curve, the last one at its end.
_MARKS = 6
# Where a label may go, up or down from the end of its line, when that lies on another curve: the nearest first.
_STEPS = (0, -9, 9, -16, 16, -24, 24)


class End(NamedTuple):
    """A name beside the end of a line, its place in points from the figure's lower left corner."""

    text: str
    colour: str
    x: float
    y: float

    @property
    def width(self) -> float:
        """The room that the name takes, in points."""
        return _LETTER * len(self.text)


class Look(NamedTuple):
    """How a group is drawn: its stand-in colour, its marker, hollow where it is a grey reference."""

    colour: str
    marker: str
    reference: bool

    @property
    def key(self) -> str:
        """What stands before the group's name, as an SVG element."""
        return svg.swatch(self.colour, self.marker, self.reference)


def looks(compared: Sequence[Group]) -> list[Look]:
    """One look a group, the same in every figure: grey for the methods that send nothing."""
    senders = silent = 0
    chosen = []
    for group in compared:
        if group.sends:
            chosen.append(Look(svg.curve(senders), svg.marker(senders), False))
        else:
            chosen.append(Look(svg.reference(silent), svg.marker(silent), True))
        senders, silent = senders + group.sends, silent + (not group.sends)
    return chosen


def names_fit(compared: Sequence[Group]) -> bool:
    """Whether each curve can carry its name at its end."""
    return len(compared) <= _MOST_NAMES and all(len(group.label) <= _LONGEST_NAME for group in compared)


def curves(compared: Sequence[Group], kind: Measure, target: float | None, against: Against) -> str:
    """The figure as inline SVG: the mean over seeds as a line, its deviation as a band, the nodes' own mean dashed.

    On the axis of bytes a method that does not send round after round is a horizontal line at its last value.
    """
    with svg.style():
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
        drawn = [
            (group.label, look.colour, _draw(axes, group, kind, against, look))
            for group, look in zip(compared, looks(compared), strict=True)
            if any(record.rounds for record in group.records)
        ]
        _scales(axes, kind, against, [group for group in compared if group.sends], target)
        ends = [(label, colour, end) for label, colour, end in drawn if end is not None and names_fit(compared)]
        right = 14 + max((_LETTER * len(label) for label, *_ in ends), default=0)
        axes.set_position(
            (
                _LEFT / _WIDTH,
                _BOTTOM / _HEIGHT,
                (_WIDTH - _LEFT - right) / _WIDTH,
                (_HEIGHT - _BOTTOM - _TOP) / _HEIGHT,
            )
        )
        _name(figure, axes, ends, target)
        return svg.inline(figure, f"curve-{against.replace('_', '-')}", _description(compared, kind, against))


def _draw(axes: Axes, group: Group, kind: Measure, against: Against, look: Look) -> tuple[float, float] | None:
    colour = look.colour
    line = statistics.series(group, kind)
    if not np.isfinite(line.mean).any():
        return None
    last = np.flatnonzero(np.isfinite(line.mean))[-1]
    if against == "sent_bytes" and not group.sends:
        axes.axhline(line.mean[last], color=colour, linewidth=1.6, linestyle=(0, (6, 2, 1, 2)))
        return math.inf, float(line.mean[last])
    x = statistics.series(group, against).mean
    # A logarithmic axis has no place for the rounds before the first byte.
    x = np.where(x > 0, x, np.nan)
    if np.any(line.deviation > 0):
        low, high = line.mean - line.deviation, line.mean + line.deviation
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    if kind == "accuracy" and group.sends:
        axes.plot(x, statistics.series(group, "mean_node_accuracy").mean, color=colour, linewidth=1.1, dashes=(4, 2.5))
    axes.plot(x, line.mean, color=colour, linewidth=2.2, dashes=(6, 1.5, 1, 1.5) if look.reference else ())
    every = -(-int(last + 1) // _MARKS)
    marked = np.arange(last, -1, -every)
    edge = {"markerfacecolor": svg.PAPER, "markeredgewidth": 1.4} if look.reference else {"markeredgewidth": 0}
    axes.plot(x[marked], line.mean[marked], color=colour, linestyle="none", marker=look.marker, markersize=6, **edge)
    return float(x[last]), float(line.mean[last])


def _scales(axes: Axes, kind: Measure, against: Against, senders: Sequence[Group], target: float | None) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=svg.SOFT, linewidth=0.8)
    axes.tick_params(axis="both", colors=svg.SOFT, length=0, pad=6, labelsize=12)
    axes.grid(axis="y", color=svg.RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    low, high = axes.get_ylim()
    if kind == "accuracy":
        axes.set_ylim(max(0.0, low), min(1.0, high) if high < 1.2 else high)
    elif low > 0 and high > 20 * low:
        axes.set_yscale("log")
    if target is not None and axes.get_ylim()[0] < target < axes.get_ylim()[1]:
        axes.axhline(target, color=svg.INK, linewidth=0.9, linestyle=(0, (1, 2.5)))
    if against == "round":
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    elif senders:
        _byte_axis(axes)
    else:
        axes.xaxis.set_major_locator(NullLocator())


def _byte_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: statistics.bytes_tick(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name(
    figure: Figure, axes: Axes, ends: Sequence[tuple[str, str, tuple[float, float]]], target: float | None
) -> None:
    box = axes.get_window_extent()
    ink = _ink(axes)
    placed = []
    for label, colour, (x, y) in ends:
        across = box.x1 if math.isinf(x) else axes.transData.transform((x, y))[0]
        up = axes.transData.transform((axes.get_xlim()[0], y))[1]
        end = End(label, colour, float(across) + _GAP, float(up))
        placed.append(min((end._replace(y=end.y + step) for step in _STEPS), key=lambda e: _covered(e, ink)))
    placed = spaced(placed, box.y0, box.y1)
    for end in placed:
        _write(figure, end, weight="bold")
    if target is not None and axes.get_ylim()[0] < target < axes.get_ylim()[1]:
        up = axes.transData.transform((axes.get_xlim()[0], target))[1]
        text = f"target {target_text(target)}"
        places = [
            End(text, svg.SOFT, float(box.x0 + part * box.width), float(up + side))
            for part in (0.72, 0.02, 0.4, 0.55, 0.2)
            for side in (-9, 9)
        ]
        blocked = np.concatenate([ink, *(_corners(end) for end in placed)])
        _write(figure, min(places, key=lambda end: _covered(end, blocked)), fontsize=11.5)


def _write(figure: Figure, end: End, **style: Any) -> None:
    figure.text(end.x / _WIDTH, end.y / _HEIGHT, end.text, color=end.colour, va="center", **style)


def _ink(axes: Axes) -> np.ndarray:
    """Points along the curves, some pixels apart."""
    points = [np.empty((0, 2))]
    for line in axes.get_lines():
        at = np.asarray(line.get_xydata(), dtype=np.float64)
        at = at[np.isfinite(at).all(axis=1)]  # none of a curve that was never measured
        if line.get_transform() == axes.transData and len(at) > 1:
            at = axes.transData.transform(at)
            fine = np.linspace(0, len(at) - 1, 40 * len(at))
            points.append(np.stack([np.interp(fine, np.arange(len(at)), at[:, k]) for k in (0, 1)], axis=1))
    return np.concatenate(points)


def _covered(end: End, points: np.ndarray) -> int:
    across = (points[:, 0] > end.x - 2) & (points[:, 0] < end.x + end.width)
    return int((across & (abs(points[:, 1] - end.y) < LINE / 2)).sum())


def _corners(end: End) -> np.ndarray:
    grid = np.meshgrid(np.linspace(0, end.width, 9), np.linspace(-LINE / 2, LINE / 2, 5))
    # Repeated: a label on a label is worse than a label on a curve.
    return np.repeat(np.stack([end.x + grid[0].ravel(), end.y + grid[1].ravel()], axis=1), 9, axis=0)


def spaced(ends: Sequence[End], low: float, high: float) -> list[End]:
    """The labels, moved up or down by what keeps those that share a stretch of x apart, from `low` to `high`."""
    y = np.array([end.y for end in ends])
    order = sorted(range(len(ends)), key=lambda i: (ends[i].y, -i))
    for _ in range(200):
        for a, i in enumerate(order):
            for j in order[a + 1 :]:
                if ends[i].x + ends[i].width < ends[j].x or ends[j].x + ends[j].width < ends[i].x:
                    continue
                push = LINE - (y[j] - y[i])
                if push > 0:
                    y[i], y[j] = y[i] - push / 2, y[j] + push / 2
        y = np.clip(y, low, high)
    return [end._replace(y=cast(float, y[i])) for i, end in enumerate(ends)]


def _description(compared: Sequence[Group], kind: Measure, against: Against) -> str:
    parts = []
    for group in compared:
        last, sent = statistics.final(group, kind), statistics.final(group, "sent_bytes")
        if last.measured:
            rounds = max(len(record.rounds) for record in group.records)
            cost = f"after {rounds} rounds" if against == "round" else f"having sent {statistics.bytes_text(sent.mean)}"
            parts.append(f"{group.label} ends at {statistics.number_text(last.mean, kind)} {cost}")
    axis = "rounds" if against == "round" else "bytes sent, on a logarithmic axis"
    return f"{kind.title()} against {axis}: {'; '.join(parts) or 'no finished round'}."
