"""What a figure says of itself under the pointer: the values of its lines as text, each at its place in the drawing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes

# Points of a line that answer; of a longer one every so many, and always the last.
_POINTS = 250


class Drawing(NamedTuple):
    """A figure.

    Attributes:
        svg: The element.
        hover: What `answers` gives of it.
        note: What its caption must add; may be empty.
    """

    svg: str
    hover: dict[str, Any]
    note: str = ""


class Line(NamedTuple):
    """What answers: a line of a figure, or a row of marks.

    Attributes:
        of: The position of its group, which can be switched off; -1 of none.
        name: What it is called.
        x: Places in the units of the axes; minus infinity is their left side.
        y: The same.
        say: A text a place.
    """

    of: int
    name: str
    x: np.ndarray
    y: np.ndarray
    say: list[str]


def answers(
    axes: Axes, lines: Sequence[Line], head: Callable[[float], str], along: Literal["x", "y"] = "x", step: bool = True
) -> dict[str, Any]:
    """The lines in the units of the drawing's view box, and what is written above the values at each of their places.

    Args:
        axes: Where they are drawn; its limits and scales are final.
        lines: They and their texts; a place that is not finite is left out.
        head: The title of a place, from its coordinate along the axis.
        along: The axis along which one goes from place to place.
        step: Whether a line answers with its last place before the pointer; else at its own places, all of them.
    """
    height = axes.figure.bbox.height
    box = axes.get_window_extent()

    def placed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        at = axes.transData.transform(np.stack([x, y], axis=1))
        return np.round(np.stack([at[:, 0], height - at[:, 1]], axis=1), 1)

    told: list[dict[str, Any]] = []
    heads: dict[float, str] = {}
    for line in (line._replace(x=np.maximum(line.x, axes.get_xlim()[0])) for line in lines):
        finite = np.flatnonzero(np.isfinite(line.x) & np.isfinite(line.y))
        kept = finite[::-1][:: max(1, -(-len(finite) // _POINTS)) if step else 1][::-1]
        at = placed(line.x[kept], line.y[kept])
        own = (line.x if along == "x" else line.y)[kept]
        heads |= {float(place): head(float(value)) for place, value in zip(at[:, "xy".index(along)], own, strict=True)}
        x, y = at.T.tolist()
        told.append({"of": line.of, "name": line.name, "x": x, "y": y, "say": [line.say[k] for k in kept]})
    at_, texts = zip(*sorted(heads.items()), strict=True) if heads else ((), ())
    sides = [box.x0, height - box.y1, box.x1, height - box.y0]
    return {
        "box": [round(float(side), 1) for side in sides],
        "along": along,
        "step": step,
        "at": list(at_),
        "head": list(texts),
        "lines": told,
    }


def script_data(value: Any) -> str:
    """JSON that may stand inside of a script element: no text in it can end the element, or open a comment."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
