"""Presence: who is there in a round and which links hold, by faults that seed and round decide before anybody computes.

An absent node computes nothing, sends and receives nothing, and keeps its state. The round is that of those present: a
mean or a sum is over them, and a missing neighbour is a slot that is not there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.federation.fleet import Fleet
from fedtangent.federation.keyed import generator
from fedtangent.federation.ledger import SERVER
from fedtangent.federation.values import Central, Each, held, replaced

Draw = Callable[[int], np.random.Generator]
Pair = tuple[int, int]


class Planned(NamedTuple):
    """A round as it would be without faults.

    Attributes:
        round: From 1.
        rows: Of every node.
        links: Pairs of neighbours, the lower number first; with a server (SERVER, node).
    """

    round: int
    rows: tuple[int, ...]
    links: tuple[Pair, ...]


class Missing(NamedTuple):
    """What a fault takes away. nodes: Who is absent. links: Which fail, both ways, as `Planned` has them."""

    nodes: Collection[int] = ()
    links: Collection[Pair] = ()


class Fault(NamedTuple):
    """What goes wrong in a round.

    Attributes:
        missing: Of the plan and a generator by round: 0 for what lasts for the whole run, or the round's own.
    """

    missing: Callable[[Planned, Draw], Missing]


class There(NamedTuple):
    """A round under faults.

    Attributes:
        fleet: Those present; None where the round does not count, and everybody keeps its state.
        record: What goes on the record.
        held: The share of the planned links that hold, 0 where the round does not count.
    """

    fleet: Fleet | None
    record: Mapping[str, Any]
    held: float


class Presence:
    """The faults of a run together: each takes away what it does, whatever the others do.

    Args:
        faults: By name; what a fault draws is keyed by its own.
        quorum: The share of the nodes that must be present for a round to count; one node always must.
    """

    def __init__(self, faults: Mapping[str, Fault], quorum: float = 0.0) -> None:
        self._faults, self._quorum = faults, quorum

    def there(self, fleet: Fleet, rows: Sequence[int], server: bool = True) -> There:
        """Who of a round's fleet is there.

        Args:
            fleet: As planned.
            rows: Of every node.
            server: Whether nodes without neighbours have a link to a server.
        """
        links = tuple((SERVER, node) for node in fleet.nodes if server) if fleet.graph is None else fleet.graph.edges
        absent, failed = self._missing(fleet, Planned(fleet.round, tuple(rows), links))
        if fleet.graph is None:
            absent |= {node for _, node in failed}
        nodes = tuple(node for node in fleet.nodes if node not in absent)
        graph = fleet.graph and fleet.graph.without(absent, failed)
        there, counts = replace(fleet, nodes=nodes, graph=graph), enough(len(nodes), fleet.total, self._quorum)
        holding = len(nodes) if graph is None else len(graph.edges)
        record = {**counted(there), "skipped": not counts}
        planned = len(fleet.nodes) if graph is None else len(links)
        share = holding / planned if planned else len(nodes) / len(fleet.nodes)
        return There(there, record, share) if counts else There(None, record, 0.0)

    def _missing(self, fleet: Fleet, planned: Planned) -> tuple[set[int], set[Pair]]:
        absent: set[int] = set()
        failed: set[Pair] = set()
        for name, fault in self._faults.items():
            found = fault.missing(planned, partial(_drawn, fleet.seed, f"fault {name}"))
            if not isinstance(found, Missing):
                raise SettingTypeError(
                    f"`fault` must give a Missing; got {type(found).__name__} from {name}. Return "
                    "fedtangent.federation.Missing(nodes, links)."
                )
            try:
                nodes, links = {*found.nodes}, {(i, j) for i, j in found.links}
            except (TypeError, ValueError) as error:
                raise SettingTypeError(
                    f"`fault` must list nodes, and links as pairs of them; got {found} from {name}. Return "
                    "fedtangent.federation.Missing([node, ...], [(node, node), ...])."
                ) from error
            strange = nodes.difference(fleet.nodes) or links.difference(planned.links)
            if strange:
                raise SettingError(
                    f"`fault` must take away nodes and links that there are; got {min(strange, key=str)} from {name}. "
                    "Choose among the planned ones."
                )
            absent |= nodes
            failed |= links
        return absent, failed


def enough(present: int, total: int, quorum: float) -> bool:
    """Whether a round of so many nodes counts."""
    return present >= max(1, quorum * total - 1e-9)


def counted(fleet: Fleet) -> dict[str, Any]:
    """What the record says of a round with these nodes."""
    links = {} if fleet.graph is None else {"links": len(fleet.graph.edges)}
    return {"present": len(fleet.nodes), **links, "skipped": False}


def completed(present: Fleet, new: Any, old: Any) -> Any:
    """The new state, in which those who are not present keep what they had."""
    before = iter(held(old))

    def whole(part: Each[Any] | Central[Any]) -> Any:
        kept = next(before)
        if not (isinstance(part, Each) and isinstance(kept, Each)):
            return part
        return present.merge(present.of_here(part.values_at(present.here)), kept)

    return replaced(new, whole)


def of_all(fleet: Fleet, x_k: Each[Any]) -> Each[Any]:
    """The values of those that were present, None of the others."""
    found = dict(zip(x_k.here, x_k.values, strict=True))
    return fleet.of_here([found.get(node) for node in fleet.here])


def _drawn(seed: int, purpose: str, round: int) -> np.random.Generator:
    return generator(seed, round, purpose)
