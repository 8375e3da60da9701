"""The curves of the runs: accuracy, or loss, against rounds and against bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from fedtangent.reports import statistics, svg
from fedtangent.reports.hover import Drawing, Line, answers
from fedtangent.reports.listings import listed
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
_DASH = 3  # widths of a line, where lines cover one another
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


class Stroke(NamedTuple):
    """A group's line as it is drawn: its end, where its name goes; and, unless it is a level, path and marks."""

    line: Line
    colour: str
    end: tuple[float, float]
    path: Line2D | None = None
    marks: Line2D | None = None


class Look(NamedTuple):
    """How a group is drawn: its stand-in colour, its marker, hollow where it is a grey reference."""

    colour: str
    marker: str
    reference: bool

    @property
    def edge(self) -> dict[str, Any]:
        """How matplotlib draws the rim of its markers."""
        return {"markerfacecolor": svg.PAPER, "markeredgewidth": 1.4} if self.reference else {"markeredgewidth": 0}

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
    """The figure of `drawn` as inline SVG alone."""
    return drawn(compared, kind, target, against).svg


def drawn(compared: Sequence[Group], kind: Measure, target: float | None, against: Against) -> Drawing:
    """The figure: the mean over seeds as a line, its deviation as a band, the nodes' own mean dashed.

    On the axis of bytes a method that does not send round after round is a horizontal line at its last value. Lines
    that cover one another are dashed in turns, and the note names them.
    """
    with svg.style():
        figure, axes = framed()
        every = zip(range(len(compared)), compared, looks(compared), strict=True)
        strokes = [stroke for one in every if (stroke := _draw(axes, *one, kind, against)) is not None]
        _scales(axes, kind, against, [group for group in compared if group.sends], target)
        finish(figure, axes, strokes, names_fit(compared), target)
        note = told_apart(axes, strokes)
        head = _round_text if against == "round" else lambda value: f"At most {statistics.bytes_text(value)}"
        name = f"curve-{against.replace('_', '-')}"
        answering = answers(axes, [stroke.line for stroke in strokes], head)
        return Drawing(svg.inline(figure, name, _description(compared, kind, against)), answering, note)


def framed() -> tuple[Figure, Axes]:
    """A figure of the page's size, and its axes without a frame."""
    figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=svg.SOFT, linewidth=0.8)
    axes.tick_params(axis="both", colors=svg.SOFT, length=0, pad=6, labelsize=12)
    axes.grid(axis="y", color=svg.RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def drawn_line(axes: Axes, line: Line, look: Look) -> Stroke:
    """A group's line in its look, with a marker at its end and some before it."""
    gid, last = svg.of(line.of), len(line.x) - 1
    stroke: Any = {"linewidth": 2.2, "dashes": (6, 1.5, 1, 1.5) if look.reference else (), "gid": gid}
    path = axes.plot(line.x, line.y, color=look.colour, **stroke)[0]
    marked = np.arange(last, -1, -max(1, -(-(last + 1) // _MARKS)))
    style: Any = {
        "linestyle": "none",
        "marker": look.marker,
        "markersize": 6,
        "gid": gid,
        "clip_on": False,
        **look.edge,
    }
    marks = axes.plot(line.x[marked], line.y[marked], color=look.colour, **style)[0]
    return Stroke(line, look.colour, (float(line.x[last]), float(line.y[last])), path, marks)


def finish(figure: Figure, axes: Axes, strokes: Sequence[Stroke], names: bool, target: float | None = None) -> None:
    """Gives the axes their final place, and the lines their names where these fit."""
    shown = strokes if names else []
    right = 14 + max((_LETTER * len(stroke.line.name) for stroke in shown), default=0)
    sides = (_LEFT / _WIDTH, _BOTTOM / _HEIGHT, (_WIDTH - _LEFT - right) / _WIDTH, (_HEIGHT - _BOTTOM - _TOP) / _HEIGHT)
    axes.set_position(sides)
    _name(figure, axes, shown, target)


def told_apart(axes: Axes, strokes: Sequence[Stroke]) -> str:
    """Dashes lines that cover one another in turns, puts their marks into one another, and names them in a sentence."""
    alike: list[list[Stroke]] = []
    for stroke in strokes:
        mine = stroke.path and next((others for others in alike if _cover(axes, others[0], stroke)), None)
        if mine:
            mine.append(stroke)
        elif stroke.path is not None:
            alike.append([stroke])
    told = []
    for group in (group for group in alike if len(group) > 1):
        for k, stroke in enumerate(group):
            assert stroke.path is not None and stroke.marks is not None
            stroke.path.set_linestyle((_DASH * k, (_DASH, _DASH * (len(group) - 1))))
            stroke.path.set_dash_capstyle("butt")
            stroke.marks.set(markersize=6 + 4 * k, markeredgewidth=1.4, zorder=2.5 - 0.01 * k)
            if k:
                stroke.marks.set_markerfacecolor(svg.PAPER)
        names = listed([stroke.line.name for stroke in group])
        told.append(f"The lines of {names} lie on one another; their dashes take turns.")
    return " ".join(told)


def _cover(axes: Axes, a: Stroke, b: Stroke) -> bool:
    """Whether two lines are, as far as the shorter one goes, at most a point apart everywhere."""
    count = min(len(a.line.x), len(b.line.x))
    places = [axes.transData.transform(np.stack([s.line.x[:count], s.line.y[:count]], axis=1)) for s in (a, b)]
    apart = np.abs(places[0] - places[1])
    return bool(np.isfinite(apart).any() and np.nanmax(apart) <= 1)


def _draw(axes: Axes, i: int, group: Group, look: Look, kind: Measure, against: Against) -> Stroke | None:
    if not any(record.rounds for record in group.records):
        return None
    colour, gid, line = look.colour, svg.of(i), statistics.series(group, kind)
    if not np.isfinite(line.mean).any():
        return None
    last = np.flatnonzero(np.isfinite(line.mean))[-1]
    pairs = zip(line.mean.tolist(), line.deviation.tolist(), strict=True)
    values = [statistics.measure_spread_text(statistics.Spread(*pair, 2, 2), kind) for pair in pairs]
    if against == "sent_bytes" and not group.sends:
        axes.axhline(line.mean[last], color=colour, linewidth=1.6, linestyle=(0, (6, 2, 1, 2)), gid=gid)
        level = Line(i, group.label, np.array([-math.inf]), line.mean[[last]], [values[last]])
        return Stroke(level, colour, (math.inf, float(line.mean[last])))
    x = statistics.series(group, against).mean
    # A logarithmic axis has no place for the rounds before the first byte.
    x = np.where(x > 0, x, np.nan)
    if np.any(line.deviation > 0):
        low, high = line.mean - line.deviation, line.mean + line.deviation
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, gid=gid)
    if kind == "accuracy" and group.sends:
        own = statistics.series(group, "mean_node_accuracy").mean
        axes.plot(x, own, color=colour, linewidth=1.1, dashes=(4, 2.5), gid=gid)
    say = [f"{value}, {more}" for value, more in zip(values, _beside(group, against), strict=True)]
    return drawn_line(axes, Line(i, group.label, x[: last + 1], line.mean[: last + 1], say[: last + 1]), look)


def _beside(group: Group, against: Against) -> list[str]:
    """What is told beside a value: the bytes of a round, or the round of some bytes."""
    rounds, sent = (statistics.series(group, key).mean for key in ("round", "sent_bytes"))
    return [_round_text(k) for k in rounds] if against == "sent_bytes" else list(map(statistics.bytes_text, sent))


def _round_text(value: float) -> str:
    return f"round {value:,.0f}"


def _scales(axes: Axes, kind: Measure, against: Against, senders: Sequence[Group], target: float | None) -> None:
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


def _name(figure: Figure, axes: Axes, strokes: Sequence[Stroke], target: float | None) -> None:
    box = axes.get_window_extent()
    ink = _ink(axes)
    placed = []
    for stroke in strokes:
        x, y = stroke.end
        across = box.x1 if math.isinf(x) else axes.transData.transform((x, y))[0]
        up = axes.transData.transform((axes.get_xlim()[0], y))[1]
        end = End(stroke.line.name, stroke.colour, float(across) + _GAP, float(up))
        placed.append(min((end._replace(y=end.y + step) for step in _STEPS), key=lambda e: _covered(e, ink)))
    placed = spaced(placed, box.y0, box.y1)
    for end, stroke in zip(placed, strokes, strict=True):
        _write(figure, end, weight="bold", gid=svg.of(stroke.line.of))
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
