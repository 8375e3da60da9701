"""A matplotlib figure as inline SVG in the page's own colours, the same bytes every time."""

from __future__ import annotations

import html
import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# matplotlib's markers, which with the colours tell curves apart, and the same in a box of 12.
MARKERS = {
    "o": "M6 1.6a4.4 4.4 0 1 0 0 8.8a4.4 4.4 0 1 0 0-8.8z",
    "s": "M2 2h8v8h-8z",
    "^": "M6 1.2 11 10.4H1z",
    "D": "M6 .6 11.4 6 6 11.4.6 6z",
    "v": "M6 10.8 1 1.6h10z",
    "P": "M4.2.8h3.6v3.4h3.4v3.6H7.8v3.4H4.2V7.8H.8V4.2h3.4z",
    "X": "M3.3.8 6 3.5 8.7.8l2.5 2.5L8.5 6l2.7 2.7-2.5 2.5L6 8.5l-2.7 2.7L.8 8.7 3.5 6 .8 3.3z",
    "*": "M6 .4 7.5 4.3l4.2.2-3.3 2.6 1.1 4L6 8.8l-3.5 2.3 1.1-4L.3 4.5l4.2-.2z",
}
INK, SOFT, RULE, PAPER, HEAT = "#010001", "#010002", "#010003", "#010004", "#010005"
_CURVES, _REFERENCES = 8, 2
_VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--paper", HEAT: "--heat"}

# Everything that a user's matplotlibrc could change and that would show. (Any: matplotlib types the keys one by one.)
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 12.5,
    "svg.fonttype": "none",
    "text.usetex": False,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "path.simplify": True,
    "path.sketch": None,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "butt",
    "lines.marker": "None",
    "patch.linewidth": 0.0,
}


def curve(i: int) -> str:
    """The stand-in, inside a matplotlib figure, for the page's i-th colour of curves."""
    return f"#0101{i % _CURVES:02x}"


def reference(i: int) -> str:
    """The stand-in for the i-th grey of the methods that send nothing."""
    return f"#0102{i % _REFERENCES:02x}"


def marker(i: int) -> str:
    """The i-th curve's marker; where the colours begin anew, another one goes with each."""
    return list(MARKERS)[(i + i // _CURVES) % len(MARKERS)]


def of(i: int) -> str:
    """The `gid` of what is drawn for the i-th group: its class in the page, by which it is switched off."""
    return f"of-{i}"


def swatch(stand_in: str, marker: str, hollow: bool) -> str:
    """The key of a curve as an SVG element."""
    colour = variable(stand_in)
    fill = f"fill:none;stroke:{colour};stroke-width:1.5" if hollow else f"fill:{colour}"
    return (
        f'<svg class="swatch" viewBox="0 0 12 12" aria-hidden="true"><path style="{fill}" d="{MARKERS[marker]}"/></svg>'
    )


def variable(stand_in: str) -> str:
    """The CSS colour for which a stand-in stands: another one in the dark."""
    if stand_in in _VARIABLES:
        return f"var({_VARIABLES[stand_in]})"
    kind = {"01": "curve", "02": "reference"}[stand_in[3:5]]
    return f"var(--{kind}-{int(stand_in[5:], 16)})"


def style() -> Any:
    """The context in which a figure is made: these settings and no one else's, put back afterwards."""
    return matplotlib.rc_context(STYLE)


def inline(figure: Figure, name: str, description: str) -> str:
    """The SVG element of a figure; `name` keeps its ids apart from those of others in the same page."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    text = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = text.getvalue()
    start, end = re.search(r"<svg[^>]*>", body), body.rindex("</svg>")
    assert start is not None
    box = re.search(r'viewBox="([^"]*)"', start.group())
    assert box is not None
    drawing = _restyled(_renamed(body[start.end() : end], name))
    label = html.escape(description, quote=True)
    return f'<svg viewBox="{box.group(1)}" role="img" aria-label="{label}">{drawing.strip()}</svg>'


def _renamed(body: str, name: str) -> str:
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="(plain|of-\d+)"', r' class="\1"', body)
    body = re.sub(
        r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body, flags=re.ASCII
    )
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    return re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{name}-\1"', body)


def _restyled(body: str) -> str:
    # matplotlib's own style sheet would apply to the whole page, and its metadata only names itself.
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", body, flags=re.S)
    body = re.sub(r"#01[0-9a-f]{4}\b", lambda found: variable(found[0]), body)
    # The page's font takes the place of the one that measured the text.
    body = re.sub(r"font: (?:[a-z0-9]+ )*([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]).replace("\n", ""), body)
    return re.sub(r"\n\s*", "\n", body)
