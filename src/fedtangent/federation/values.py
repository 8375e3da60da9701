"""Values that nodes and a server hold; only the verbs of a fleet move them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")
Cache = dict[int, list[Any]]


class Nodes(Protocol):
    """Who holds an Each: a fleet."""

    @property
    def nodes(self) -> tuple[int, ...]:
        """Their numbers."""
        ...

    def chunks(self) -> list[list[int]]:
        """The nodes, in groups that are computed together."""
        ...


class Inbox(NamedTuple):
    """The messages of a node's neighbours, in the order of their numbers.

    Attributes:
        values: The messages, stacked along a new leading axis of slots; those that carry a `real` mask, which are rows,
            are put end to end instead.
        real: Which slots hold a message, (slots,) as bool.
    """

    values: Any
    real: Tensor


class Each(Generic[T]):
    """One value per node. A method passes it to verbs and may unpack an Each of tuples; it never looks inside."""

    def __init__(self, fleet: "Nodes", pull: Callable[[Sequence[int], Cache], list[T]] | Mapping[int, T]) -> None:
        """Holds values by node, or a recipe for those of any given nodes."""
        self.nodes = fleet.nodes
        self._fleet = fleet
        self._recipe = pull if callable(pull) else None
        self._values: dict[int, T] = {} if callable(pull) else dict(pull)

    def pull(self, nodes: Sequence[int], cache: Cache) -> list[T]:
        """The values of some nodes; `cache` spares work that is needed twice while one chunk is computed."""
        if self._recipe is None:
            return [self._values[node] for node in nodes]
        if id(self) not in cache:
            cache[id(self)] = self._recipe(nodes, cache)
        return cache[id(self)]

    def settle(self) -> "Each[T]":
        """The same values, all computed: chunk of nodes by chunk."""
        if self._recipe is not None:
            for chunk in self._fleet.chunks():
                self._values.update(zip(chunk, self.pull(chunk, {}), strict=True))
            self._values = {node: self._values[node] for node in self.nodes}
            self._recipe = None
        return self

    @property
    def values(self) -> list[T]:
        """All values, in the order of the nodes: for engines, experiments and tests, not for methods."""
        return [self.settle()._values[node] for node in self.nodes]

    def values_at(self, nodes: Sequence[int]) -> list[T]:
        """The values of some nodes, all computed first."""
        return self.settle().pull(nodes, {})

    def __iter__(self) -> Iterator["Each[Any]"]:
        """One Each for every part of an Each of tuples."""
        columns = zip(*self.values, strict=True)
        return iter([Each(self._fleet, dict(zip(self.nodes, column, strict=True))) for column in columns])


@dataclass(frozen=True)
class Central(Generic[T]):
    """One value at the server; a method never looks inside."""

    value: T

    def __iter__(self) -> Iterator["Central[Any]"]:
        """One Central for every part of a Central tuple."""
        return iter([Central(part) for part in self.value])  # type: ignore[attr-defined]


def held(state: Any) -> Iterator[Each[Any] | Central[Any]]:
    """All values that nodes and server hold of a state, a NamedTuple or dataclass, also of one inside it."""
    for part in [getattr(state, field.name) for field in fields(state)] if is_dataclass(state) else state:
        if isinstance(part, (Each, Central)):
            yield part
        elif hasattr(part, "_fields") or is_dataclass(part):
            yield from held(part)
