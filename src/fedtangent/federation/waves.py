"""Waves: which nodes of every process are computed at once."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from fedtangent.federation.engine import Engine
from fedtangent.federation.transport import Transport
from fedtangent.federation.values import Wave

_GROUP = 2**30  # bytes of the nodes of a wave where several processes have to wait for each other after every one


def waves(
    transport: Transport,
    engine: Engine,
    nodes: Sequence[int],
    node_bytes: Mapping[int, int],
    neighbours: Sequence[Sequence[int]] = (),
) -> list[Wave]:
    """All nodes, one chunk of every process at a time; the plans of all are known to each.

    Args:
        transport: Tells which nodes are where.
        engine: Cuts those of a process into chunks.
        nodes: All.
        node_bytes: The peak memory of one node's work, by node.
        neighbours: Of every node; none where only a server asks.
    """
    blocks, place = transport.blocks(nodes)
    several = len(blocks) > 1 and engine.one_by_one
    if several:
        blocks = [_alternating(block, neighbours) for block in blocks]
    plans = [engine.chunks(block, node_bytes) for block in blocks]
    if several:
        plans = [_grouped(plan, node_bytes) for plan in plans]
    return [
        Wave(
            number,
            tuple(plans[place][number]) if number < len(plans[place]) else (),
            tuple(node for plan in plans if number < len(plan) for node in plan[number]),
        )
        for number in range(max(map(len, plans)))
    ]


def _alternating(block: list[int], neighbours: Sequence[Sequence[int]]) -> list[int]:
    """Nodes with few neighbours of their own process by turns with those that have many: every wave asks all alike."""
    if not neighbours:
        return block
    own = {*block}
    ordered = sorted(block, key=lambda node: sum(other in own for other in neighbours[node]))
    half = (len(ordered) + 1) // 2
    return [node for pair in zip_longest(ordered[:half], ordered[: half - 1 : -1]) for node in pair if node is not None]


def _grouped(plan: list[list[int]], node_bytes: Mapping[int, int]) -> list[list[int]]:
    """The plan with fewer, larger groups: a wave that asks more neighbours spreads its work over processes evenly."""
    groups: list[list[int]] = []
    room = 0
    for chunk in plan:
        needed = sum(node_bytes.get(node, 0) for node in chunk)
        if groups and needed <= room:
            groups[-1] += chunk
        else:
            groups.append([*chunk])
            room = _GROUP
        room -= needed
    return groups
