"""The nodes of a run: which labels each of them holds, and who talks to whom."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
import scipy.sparse
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from scipy.sparse import csgraph

from fedtangent.reports import svg
from fedtangent.reports.hover import Drawing, Line, answers

# Upper ends of the shades of a share, and the opacity of each.
_SHADES = ((0.02, 0.10), (0.10, 0.24), (0.25, 0.42), (0.50, 0.62), (0.75, 0.80), (1.0, 1.0))
_WIDTH = 440
# Beyond these a layout takes too long, a drawing is a blot, and the distances of all pairs are dear.
_STIFF_LAYOUT, _SPRING_LAYOUT, _DRAWN_EDGES, _DRAWN_NODES, _NAMED_NODES, _MEASURED_NODES = 100, 400, 3000, 1500, 40, 500
_PIVOTS = 10
# Columns of the heat map, and cells: more are neither seen nor loaded in a moment.
_COLUMNS, _CELLS = 1500, 100_000
# Cells of which each says its rows under the pointer; more would make the page heavy.
_ANSWERING = 6000


def skew(labels: Sequence[Sequence[int]], name: str) -> Drawing:
    """The heat map of the nodes' labels as inline SVG, its caption as the note.

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
        told = {}
        if np.count_nonzero(counts) <= _ANSWERING:
            told = answers(body, _labels_lines(counts[order]), lambda x: _label_head(order, rows, int(x)), step=False)
        return Drawing(svg.inline(figure, name, f"Labels of the nodes. {caption}"), told, caption)


def graph(edges: Sequence[Sequence[int]], nodes: int, name: str) -> Drawing:
    """The graph as inline SVG, its caption as the note; of many nodes and edges some are drawn, in bounded time."""
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    ones = np.ones(len(pairs), dtype=np.int8)
    links = scipy.sparse.csr_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(nodes, nodes))
    links = links + links.T
    caption, at = _graph_caption(links), _layout(links)
    drawn = pairs[:: max(1, -(-len(pairs) // _DRAWN_EDGES))]
    if len(drawn) < len(pairs):
        caption += f" {len(drawn):,} of the {len(pairs):,} edges are drawn."
    every = -(-nodes // _DRAWN_NODES)
    if every > 1:
        caption += f" One node in {every} is drawn."
    with svg.style():
        figure = Figure(figsize=(_WIDTH / 72, 380 / 72), dpi=72)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        axes.set_axis_off()
        axes.set_aspect("equal")
        if len(drawn):
            outline = Outline(at[drawn].reshape(-1, 2), [Outline.MOVETO, Outline.LINETO] * len(drawn))
            width = 0.6 if len(drawn) > 200 else 1.1
            axes.add_patch(PathPatch(outline, fill=False, edgecolor=svg.SOFT, alpha=0.5, linewidth=width))
        named = nodes <= _NAMED_NODES
        x, y = at[::every].T
        size = 300 if named else max(6.0, 4500 / len(x))
        axes.scatter(x, y, s=size, color=svg.HEAT, edgecolors=svg.PAPER, linewidths=1.5 if named else 0.5, zorder=2)
        for i in range(nodes if named else 0):
            axes.text(x[i], y[i], str(i), color=svg.PAPER, ha="center", va="center_baseline", fontsize=9.5, gid="plain")
        return Drawing(svg.inline(figure, name, f"Graph of round 1. {caption}"), {}, caption)


def _labels_lines(counts: np.ndarray) -> list[Line]:
    """A line a class, with the rows that each node holds of it."""
    lines = []
    for c in range(counts.shape[1]):
        holders = np.flatnonzero(counts[:, c])
        say = [f"{count:,.0f}" for count in counts[holders, c]]
        lines.append(Line(-1, f"class {c}", holders + 0.5, np.full(len(holders), c + 0.5), say))
    return lines


def _label_head(order: Sequence[int], rows: np.ndarray, place: int) -> str:
    return f"Node {order[place]}, {_counted(int(rows[order[place]]), 'row')}"


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


def _layout(links: scipy.sparse.csr_array) -> np.ndarray:
    """A place a node, (nodes, 2): by all distances or by springs where there are few, else by some distances."""
    nodes = links.shape[0]
    if nodes > _SPRING_LAYOUT:
        return _by_pivots(links)
    g = nx.from_scipy_sparse_array(links)
    stiff = 2 < nodes <= _STIFF_LAYOUT and nx.is_connected(g)
    found = nx.kamada_kawai_layout(g) if stiff else nx.spring_layout(g, seed=0)
    return np.array([found[node] for node in range(nodes)])


def _by_pivots(links: scipy.sparse.csr_array) -> np.ndarray:
    """The two main directions of the hops from ten nodes, each chosen far from those before.

    Brandes and Pich. Eigensolver Methods for Progressive Multidimensional Scaling of Large Data. Graph Drawing 2006. It
    takes time proportional to nodes and edges.
    """
    hops = np.empty((links.shape[0], _PIVOTS))
    pivot, nearest = 0, np.full(links.shape[0], np.inf)
    for k in range(_PIVOTS):
        hops[:, k] = csgraph.dijkstra(links, unweighted=True, indices=pivot)
        nearest = np.minimum(nearest, hops[:, k])
        pivot = int(nearest.argmax())
    hops[~np.isfinite(hops)] = 1 + hops[np.isfinite(hops)].max()
    squared = hops**2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    _, directions = np.linalg.eigh(centred.T @ centred)
    at = centred @ directions[:, :-3:-1]
    # Nodes at the same distances from all pivots would lie on one another.
    spread = 0.02 * at.std(axis=0).max() or 1.0
    return np.asarray(at + np.random.default_rng(0).normal(scale=spread, size=at.shape))


def _graph_caption(links: scipy.sparse.csr_array) -> str:
    nodes, degrees = links.shape[0], np.diff(links.indptr)
    low, high = degrees.min(), degrees.max()
    each = f"{low}" if low == high else f"{low} to {high}"
    count, edges = _counted(nodes, "node"), _counted(int(degrees.sum()) // 2, "edge")
    text = f"{count} and {edges}; a node has {each} neighbour{'' if each == '1' else 's'}."
    parts, _ = csgraph.connected_components(links, directed=False)
    if parts > 1:
        return f"{text} The graph falls into {parts:,} parts."
    if 1 < nodes <= _MEASURED_NODES:
        hops = int(csgraph.shortest_path(links, unweighted=True).max())
        text += f" From any node to any other it takes {'one hop' if hops == 1 else f'at most {hops} hops'}."
    return text


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
