"""A transport over pipes between processes: what crosses a border travels, one message a pair of processes and leg."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from fedtangent import trees
from fedtangent.federation.ledger import SERVER, Link
from fedtangent.federation.transport import Tag

T = TypeVar("T")


class Pipes(Protocol):
    """What joins processes: messages between two of them keep their order."""

    @property
    def place(self) -> int:
        """The number of this process."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def swap(self, tag: Tag, out: Mapping[int, Sequence[Any]], sources: Sequence[int]) -> dict[int, list[Any]]:
        """Sends some values to each of some processes; what came from each of the sources."""
        ...


class Piped:
    """Blocks of nodes on processes, the server on the first of them.

    Args:
        name: Of the transport.
        pipes: Between the processes.
        places: On which process a node is.
    """

    def __init__(self, name: str, pipes: Pipes, places: Mapping[int, int]) -> None:
        self.name, self._pipes, self._places = name, pipes, {**places, SERVER: 0}

    def here(self, node: int) -> bool:
        return self._places[node] == self._pipes.place

    def blocks(self, nodes: Sequence[int]) -> tuple[list[list[int]], int]:
        found: list[list[int]] = [[] for _ in range(self._pipes.count)]
        for node in nodes:
            found[self._places[node]].append(node)
        return found, self._pipes.place

    def exchange(self, tag: Tag, out: Mapping[Link, Any], links: Sequence[Link]) -> dict[Link, Any]:
        own = self._pipes.place
        leaving: dict[int, list[Link]] = {}
        coming: dict[int, list[Link]] = {}
        came: dict[Link, Any] = {}
        for link in links:
            source, target = self._places[link.source], self._places[link.target]
            if source == target == own:
                came[link] = out[link]
            elif source == own:
                leaving.setdefault(target, []).append(link)
            elif target == own:
                coming.setdefault(source, []).append(link)
        values = self._pipes.swap(
            tag, {place: [out[link] for link in its] for place, its in leaving.items()}, list(coming)
        )
        for place, its in coming.items():
            came.update(zip(its, values[place], strict=True))
        return came

    def total(self, tag: Tag, out: Mapping[Link, tuple[float, Any]], links: Sequence[Link]) -> dict[int, Any]:
        """Partial sums go from process to process, so that the order of the additions is that of the nodes."""
        own = self._pipes.place
        shares: dict[int, dict[int, list[Link]]] = {}  # of a receiver, by process
        for link in links:
            shares.setdefault(link.target, {}).setdefault(self._places[link.source], []).append(link)
        came: dict[int, Any] = {}  # partial sums of the processes before
        for source in range(own):
            targets = [target for target, its in shares.items() if (source, own) in pairwise(sorted(its))]
            if targets:
                came.update(zip(targets, self._pipes.swap(tag, {}, [source])[source], strict=True))
        sums = {
            target: _added(came.get(target), [out[link] for link in its[own]])
            for target, its in shares.items()
            if own in its
        }
        for place in range(own + 1, self._pipes.count):
            if targets := [target for target, its in shares.items() if (own, place) in pairwise(sorted(its))]:
                self._pipes.swap(tag, {place: [sums[target] for target in targets]}, [])
        last = {target: max(its) for target, its in shares.items()}
        leaving: dict[int, list[int]] = {}  # from the process of the last share to the receiver's own
        coming: dict[int, list[int]] = {}
        for target, end in last.items():
            home = self._places[target]
            if end == own != home:
                leaving.setdefault(home, []).append(target)
            elif home == own != end:
                coming.setdefault(end, []).append(target)
        values = self._pipes.swap(
            tag, {place: [sums[target] for target in its] for place, its in leaving.items()}, list(coming)
        )
        found = {target: sums[target] for target, end in last.items() if end == own == self._places[target]}
        for place, its in coming.items():
            found.update(zip(its, values[place], strict=True))
        return found

    def tell(self, tag: Tag, value: T) -> T:
        if self._pipes.place:
            return self._pipes.swap(tag, {}, [0])[0][0]  # type: ignore[no-any-return]
        self._pipes.swap(tag, {place: [value] for place in range(1, self._pipes.count)}, [])
        return value


def _added(total: Any, parts: Sequence[tuple[float, Any]]) -> Any:
    """The partial sum and weight times value of some more, added in their order, as `trees.weighted_sum` does."""
    if total is None:
        return trees.weighted_sum([value for _, value in parts], [weight for weight, _ in parts])
    for weight, value in parts:
        total = trees.map(lambda sum, part, weight=weight: sum.add_(part, alpha=weight), total, value)
    return total
