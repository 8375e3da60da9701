"""Averaging: what neighbours and a server make of messages, where a wrong one is as if it were absent."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fedtangent import many
from fedtangent.federation.ledger import SERVER, Link
from fedtangent.federation.rule import averaged, fit, totalled
from fedtangent.federation.transport import Tag, Wire

Weights = Literal["uniform", "metropolis"]


def mixed(
    wire: Wire,
    x: Mapping[int, Any],
    neighbours: Mapping[int, Sequence[int]],
    shares: Sequence[Sequence[float]],
    weights: Weights,
) -> list[Any]:
    """What every node of this process makes of its neighbourhood's values: their mean by gossip weights, or a rule's.

    Args:
        wire: What brings them.
        x: The values of the nodes of this process.
        neighbours: Of every node of all processes.
        shares: By node the weights of its neighbourhood, itself included, in the order of the nodes.
        weights: Their kind: what a missing neighbour would weigh goes to all alike, or to the node itself.
    """
    links = [Link(j, i) for i, its in neighbours.items() for j in its]
    groups = {i: sorted([i, *its]) for i, its in neighbours.items()}
    share = {i: dict(zip(group, shares[i], strict=True)) for i, group in groups.items()}
    tag, out = wire.tag(), {link: x[link.source] for link in links if link.source in x}
    known = {} if wire.liars is None else {Link(j, i): w for i, its in share.items() for j, w in its.items()}
    came = wire.exchange(tag, wire.said(tag, out, links, known), links)
    due = [(came[Link(j, i)], x[i]) for i in x for j in groups[i] if j != i]
    right = iter([True] * len(due) if wire.ledger.is_paused else fit(due))
    values, given, own = [], [], []
    for i in x:
        group = [j for j in groups[i] if j == i or next(right)]
        left = [share[i][j] for j in group]
        if len(group) < len(groups[i]) and weights == "uniform":
            left = [1 / len(group)] * len(group)
        elif len(group) < len(groups[i]):
            left[group.index(i)] += 1 - sum(left)
        values.append([x[i] if j == i else came[Link(j, i)] for j in group])
        given.append(left)
        own.append(group.index(i))
    if wire.rule is None:
        return many.weighted_sums(values, given)
    return [averaged(wire.rule, *its) for its in zip(values, given, own, strict=True)]


def at_server(
    wire: Wire,
    tag: Tag,
    out: Mapping[Link, Any],
    weights: Mapping[int, float],
    mean: bool,
    draw: Callable[[], np.random.Generator],
) -> Any:
    """The mean by these weights of the nodes that have one, or their sum, or a rule's; None where the server is not.

    Args:
        wire: What brings them.
        tag: Of the verb.
        out: What the nodes of this process send.
        weights: Of a mean; of a sum the rows of every message, which only a rule asks for.
        mean: Which of the two.
        draw: Gives the generator of the groups that are added up before a rule sees them.
    """
    rule, nodes = wire.rule, [*weights]
    if rule is not None and rule.groups == 1:
        groups = [[node] for node in nodes]
        links = [Link(node, SERVER) for node in nodes]
        came = wire.exchange(tag, {link: x for link, x in out.items() if link.source in weights}, links)
        values = [came.get(link) for link in links]
    else:
        groups, values = [nodes] if rule is None else _drawn(nodes, rule.groups, draw()), []
        for number, group in enumerate(groups):
            whole = sum(weights[node] for node in group)
            scaled = {node: weights[node] / whole if mean else 1 for node in group}
            own = {link: (scaled[link.source], x) for link, x in out.items() if link.source in scaled}
            links = [Link(node, SERVER) for node in group]
            values.append(wire.total(tag._replace(wave=number), own, links).get(SERVER))
    if rule is None or not wire.transport.here(SERVER):
        return values[0]
    wholes = [sum(weights[node] for node in group) for group in groups]
    return (averaged if mean else totalled)(rule, values, wholes, None)


def _drawn(nodes: Sequence[int], size: int, rng: np.random.Generator) -> list[list[int]]:
    """The nodes in drawn groups of this size, some larger where they do not divide."""
    drawn = [nodes[i] for i in rng.permutation(len(nodes))]
    count = max(len(nodes) // size, 1)
    return [sorted(drawn[number::count]) for number in range(count)]
