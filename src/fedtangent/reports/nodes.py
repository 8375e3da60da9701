"""The nodes of a run: which labels each of them holds, and who talks to whom."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline

from fedtangent.reports import svg

# Upper ends of the shades of a share, and the opacity of each.
_SHADES = ((0.02, 0.10), (0.10, 0.24), (0.25, 0.42), (0.50, 0.62), (0.75, 0.80), (1.0, 1.0))
_WIDTH = 440
# Beyond these a layout takes too long, a drawing is a blot, and a distance is dear.
_STIFF_LAYOUT, _DRAWN_EDGES, _NAMED_NODES, _MEASURED_NODES, _LAID_OUT = 300, 3000, 40, 500, 1000
# Columns of the heat map, and cells: more are neither seen nor loaded in a moment.
_COLUMNS, _CELLS = 1500, 100_000


def skew(labels: Sequence[Sequence[int]], name: str) -> tuple[str, str]:
    """The heat map of the nodes' labels as inline SVG, and its caption.

    A column is a node, a row a class, the shade a class's share of the node's rows; the strip above is the node's rows.
    Nodes stand in the order of their most frequent class, so that the skew is seen at three hundred nodes too.
    """
    counts = np.asarray(labels, dtype=np.float64)
    rows = counts.sum(axis=1)
    share = counts / np.maximum(rows, 1)[:, None]
    order = sorted(range(len(share)), key=lambda node: (share[node].argmax(), -share[node].max(), node))
    caption = _skew_caption(share, rows)
    every = max(-(-len(order) // _COLUMNS), -(-int((share > 0).sum()) // _CELLS))
    if every > 1:
        order = order[::every]
        caption += f" One node in {every} is drawn."
    with svg.style():
        classes = counts.shape[1]
        height = 124 + min(300, max(120, 19 * classes))
        figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
        top = figure.add_axes((44 / _WIDTH, 1 - 72 / height, 1 - 50 / _WIDTH, 54 / height))
        body = figure.add_axes((44 / _WIDTH, 44 / height, 1 - 50 / _WIDTH, 1 - 124 / height))
        _sizes(top, rows[order])
        _heat(body, share[order])
        nodes = len(order)
        for axes, limit in ((top, rows.max() * 1.02), (body, classes)):
            axes.set(xlim=(0, nodes), ylim=(0, max(limit, 1)))
            axes.tick_params(colors=svg.SOFT, length=0, pad=5, labelsize=11.5)
            for spine in axes.spines.values():
                spine.set_visible(False)
        top.set_xticks([])
        top.set_yticks([rows.max()], [f"{rows.max():,.0f}"])
        body.invert_yaxis()
        step = max(1, -(-classes // 20))
        body.set_yticks(np.arange(0, classes, step) + 0.5, [str(c) for c in range(0, classes, step)])
        body.set_xticks([])
        figure.text(44 / _WIDTH, 1 - 4 / height, "rows of the node", color=svg.SOFT, va="top", fontsize=11.5)
        _key(figure, height)
        return svg.inline(figure, name, f"Labels of the nodes. {caption}"), caption


def graph(edges: Sequence[Sequence[int]], nodes: int, name: str) -> tuple[str, str]:
    """The graph as inline SVG, laid out by networkx, and its caption; a caption alone of too many nodes to lay out."""
    g = nx.empty_graph(nodes)
    g.add_edges_from((int(i), int(j)) for i, j in edges)
    caption = _graph_caption(g)
    if nodes > _LAID_OUT:
        return "", f"{caption} So many are not drawn."
    at = _layout(g)
    pairs = list(g.edges())
    drawn = pairs[:: -(-len(pairs) // _DRAWN_EDGES)] if len(pairs) > _DRAWN_EDGES else pairs
    if len(drawn) < len(pairs):
        caption += f" {len(drawn):,} of the {len(pairs):,} edges are drawn."
    with svg.style():
        figure = Figure(figsize=(_WIDTH / 72, 380 / 72), dpi=72)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        axes.set_axis_off()
        axes.set_aspect("equal")
        corners = [at[i] for pair in drawn for i in pair]
        if corners:
            outline = Outline(corners, [Outline.MOVETO, Outline.LINETO] * len(drawn))
            width = 0.6 if len(drawn) > 200 else 1.1
            axes.add_patch(PathPatch(outline, fill=False, edgecolor=svg.SOFT, alpha=0.5, linewidth=width))
        named = nodes <= _NAMED_NODES
        size = 300 if named else max(14.0, 4500 / nodes)
        x, y = np.array([at[i] for i in range(nodes)]).T
        axes.scatter(x, y, s=size, color=svg.HEAT, edgecolors=svg.PAPER, linewidths=1.5 if named else 0.5, zorder=2)
        for i in range(nodes if named else 0):
            axes.text(x[i], y[i], str(i), color=svg.PAPER, ha="center", va="center_baseline", fontsize=9.5, gid="plain")
        return svg.inline(figure, name, f"Graph of round 1. {caption}"), caption


def _sizes(axes: Axes, rows: np.ndarray) -> None:
    gap = _gap(len(rows))
    boxes = [(i + gap, 0.0, i + 1 - gap, size) for i, size in enumerate(rows)]
    axes.add_patch(PathPatch(_boxes(boxes), facecolor=svg.SOFT, alpha=0.5))


def _heat(axes: Axes, share: np.ndarray) -> None:
    gap, low = _gap(len(share)), 0.0
    for high, opacity in _SHADES:
        cells = np.argwhere((share > low) & (share <= high))
        boxes = [(i + gap, c + 0.05, i + 1 - gap, c + 0.95) for i, c in cells]
        axes.add_patch(PathPatch(_boxes(boxes), facecolor=svg.HEAT, alpha=opacity))
        low = high


def _boxes(boxes: Sequence[tuple[float, float, float, float]]) -> Outline:
    corners = [[(x, y), (x, z), (w, z), (w, y), (x, y)] for x, y, w, z in boxes]
    codes = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY] * len(boxes)
    return Outline(np.array(corners).reshape(-1, 2), codes)


def _gap(nodes: int) -> float:
    return 0.05 if nodes <= 60 else 0.0


def _key(figure: Figure, height: float) -> None:
    figure.text(44 / _WIDTH, 12 / height, "share of the node's rows", color=svg.SOFT, va="center", fontsize=11.5)
    right, wide = _WIDTH - 6, 36
    for i, (high, opacity) in enumerate(_SHADES):
        left = right - wide * (len(_SHADES) - i)
        box = Rectangle((left, 18), wide, 8, facecolor=svg.HEAT, alpha=opacity, transform=None)
        figure.add_artist(box)
        text = f"{high:.0%}"
        figure.text((left + wide) / _WIDTH, 8 / height, text, color=svg.SOFT, ha="right", va="center", fontsize=11)


def _skew_caption(share: np.ndarray, rows: np.ndarray) -> str:
    top = share.max(axis=1).mean()
    spread = f"{rows.min():,.0f}" if rows.min() == rows.max() else f"{rows.min():,.0f} to {rows.max():,.0f}"
    held = (share > 0).sum(axis=1).mean()
    return (
        f"{len(share)} nodes with {spread} rows each. A node holds {held:.2g} of the {share.shape[1]} classes "
        f"on average, and its most frequent class makes up {top:.0%} of its rows."
    )


def _layout(g: nx.Graph) -> dict[int, np.ndarray]:
    if g.number_of_nodes() <= _STIFF_LAYOUT and g.number_of_nodes() > 2 and nx.is_connected(g):
        found = nx.kamada_kawai_layout(g)
    else:
        found = nx.spring_layout(g, seed=0)
    return {node: np.asarray(place) for node, place in found.items()}


def _graph_caption(g: nx.Graph) -> str:
    degrees = [degree for _, degree in g.degree()]
    low, high = min(degrees), max(degrees)
    each = f"{low}" if low == high else f"{low} to {high}"
    nodes, edges = (_counted(count, what) for count, what in ((len(g), "node"), (g.number_of_edges(), "edge")))
    text = f"{nodes} and {edges}; a node has {each} neighbour{'' if each == '1' else 's'}."
    if not nx.is_connected(g):
        return f"{text} The graph falls into {nx.number_connected_components(g)} parts."
    if 1 < g.number_of_nodes() <= _MEASURED_NODES:
        hops = nx.diameter(g)
        text += f" From any node to any other it takes {'one hop' if hops == 1 else f'at most {hops} hops'}."
    return text


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
