"""A transport over pipes between processes: what crosses a border travels, one message a pair of processes and leg."""

from collections.abc import Mapping, Sequence
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
        places: On which process a node is; one that takes no part at present is on none.
    """

    def __init__(self, name: str, pipes: Pipes, places: Mapping[int, int]) -> None:
        self.name, self._pipes, self._places = name, pipes, {**places, SERVER: 0}

    def here(self, node: int) -> bool:
        return self._places.get(node) == self._pipes.place

    def blocks(self, nodes: Sequence[int]) -> tuple[list[list[int]], int]:
        found: list[list[int]] = [[] for _ in range(self._pipes.count)]
        for node in nodes:
            if node in self._places:
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
        """Partial sums go from process to process, so that the order of the additions is that of the links.

        All receivers' sums move at once, a process further at every step; a sum that ends elsewhere goes home at last.
        """
        own = self._pipes.place
        parts: dict[int, dict[int, list[Link]]] = {}  # of a receiver, by process
        for link in links:
            parts.setdefault(link.target, {}).setdefault(self._places[link.source], []).append(link)
        paths = {target: [*its] for target, its in parts.items()}
        for target, path in paths.items():
            if path[-1] != self._places[target]:
                path.append(self._places[target])
        sums: dict[int, Any] = {}
        for step in range(max(map(len, paths.values()), default=0)):
            leaving: dict[int, list[int]] = {}
            coming: dict[int, list[int]] = {}
            for target, path in paths.items():
                here, there = path[step : step + 1], path[step + 1 : step + 2]
                if here == [own] and step < len(parts[target]):
                    sums[target] = _added(sums.get(target), [out[link] for link in parts[target][own]])
                if here == [own] and there:
                    leaving.setdefault(there[0], []).append(target)
                if there == [own]:
                    coming.setdefault(here[0], []).append(target)
            leave = {place: [sums.pop(target) for target in its] for place, its in leaving.items()}
            values = self._pipes.swap(tag, leave, list(coming))
            for place, its in coming.items():
                sums.update(zip(its, values[place], strict=True))
        return sums

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
