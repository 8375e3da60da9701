"""Values that nodes and a server hold; only the verbs of a fleet move them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError

T = TypeVar("T")
Cache = dict[int, list[Any]]


class Wave(NamedTuple):
    """Some nodes of every process, whose values are computed at once; a process that has no more has none in it.

    Attributes:
        number: From 0.
        nodes: Those of this process.
        everybody: Those of all processes.
    """

    number: int
    nodes: tuple[int, ...]
    everybody: tuple[int, ...]


class Nodes(Protocol):
    """Who holds an Each: a fleet."""

    @property
    def nodes(self) -> tuple[int, ...]:
        """Their numbers, of all processes."""
        ...

    @property
    def here(self) -> tuple[int, ...]:
        """Those of this process."""
        ...

    @property
    def waves(self) -> list[Wave]:
        """All of them, in the groups that are computed together."""
        ...


class Holders(NamedTuple):
    """Nodes whose values are all in this process, and computed."""

    nodes: tuple[int, ...]

    @property
    def here(self) -> tuple[int, ...]:
        """All of them."""
        return self.nodes

    @property
    def waves(self) -> list[Wave]:
        """Nothing is left to compute."""
        return []


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
    """One value per node, of which a process knows those of its own nodes. A method passes it to verbs, no more."""

    __iter__ = None  # a process may hold no value to look at: `unzip` is told how many parts there are

    def __init__(self, fleet: Nodes, pull: Callable[[Wave, Cache], list[T]] | Mapping[int, T]) -> None:
        """Holds values by node, or a recipe for those of any wave."""
        self.nodes, self.here = fleet.nodes, fleet.here
        self._fleet = fleet
        self._recipe = pull if callable(pull) else None
        self._values: dict[int, T] = {} if callable(pull) else dict(pull)

    def __bool__(self) -> bool:
        """Raises: a method decides nothing by what nodes hold, for no process knows all of it."""
        raise SettingTypeError("`if` must not ask for an Each; got one. Decide at the nodes, in a function of map.")

    def pull(self, wave: Wave, cache: Cache) -> list[T]:
        """The values of a wave's nodes; `cache` spares work that is needed twice while one wave is computed."""
        if self._recipe is None:
            return [self._values[node] for node in wave.nodes]
        if id(self) not in cache:
            cache[id(self)] = self._recipe(wave, cache)
        return cache[id(self)]

    def settle(self) -> "Each[T]":
        """The same values, all computed: wave by wave."""
        if self._recipe is not None:
            for wave in self._fleet.waves:
                self._values.update(zip(wave.nodes, self.pull(wave, {}), strict=True))
            self._values = {node: self._values[node] for node in self.here}
            self._recipe = None
        return self

    @property
    def values(self) -> list[T]:
        """Those of the nodes of this process, in their order: for engines, experiments and tests, not for methods."""
        return [self.settle()._values[node] for node in self.here]

    def values_at(self, nodes: Sequence[int]) -> list[T]:
        """The values of some nodes of this process, all computed first."""
        self.settle()
        return [self._values[node] for node in nodes]

    def zip(self, *others: "Each[Any]") -> "Each[tuple[Any, ...]]":
        """The tuples of what every node holds of this and the others."""

        def pull(wave: Wave, cache: Cache) -> list[tuple[Any, ...]]:
            return list(zip(*(x.pull(wave, cache) for x in (self, *others)), strict=True))

        return Each(self._fleet, pull)

    def unzip(self, count: int) -> tuple["Each[Any]", ...]:
        """One Each for every part of an Each of tuples of so many parts."""
        parts = [{node: value[i] for node, value in self.settle()._values.items()} for i in range(count)]  # type: ignore[index]
        return tuple(Each(self._fleet, part) for part in parts)


class _Absent:
    """What a process knows of a server's value that is not here."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True)
class Central(Generic[T]):
    """One value at the server, absent on all processes but the server's own; a method never looks inside."""

    value: T

    @property
    def is_here(self) -> bool:
        """Whether this process is the server's."""
        return self.value is not ABSENT

    def unzip(self, count: int) -> tuple["Central[Any]", ...]:
        """One Central for every part of a Central tuple of so many parts."""
        return tuple(Central(self.value[i] if self.is_here else self.value) for i in range(count))  # type: ignore[index]


def replaced(state: Any, fn: Callable[[Any], Any]) -> Any:
    """The state, a NamedTuple or dataclass, with fn of every value that nodes or server hold of it."""
    if isinstance(state, (Each, Central)):
        return fn(state)
    if hasattr(state, "_fields"):
        return tuple.__new__(type(state), [replaced(part, fn) for part in state])
    if is_dataclass(state) and not isinstance(state, type):
        made = copy(state)
        for field in fields(state):
            object.__setattr__(made, field.name, replaced(getattr(state, field.name), fn))
        return made
    return state


def is_state(value: Any) -> bool:
    """Whether it is a tuple or a dataclass, of which `held` knows the parts."""
    return isinstance(value, tuple) or (is_dataclass(value) and not isinstance(value, type))


def held(state: Any) -> Iterator[Each[Any] | Central[Any]]:
    """All values that nodes and server hold of a state, a NamedTuple or dataclass, including nested states."""
    for part in [getattr(state, field.name) for field in fields(state)] if is_dataclass(state) else state:
        if isinstance(part, (Each, Central)):
            yield part
        elif hasattr(part, "_fields") or is_dataclass(part):
            yield from held(part)


def check_each(nodes: Sequence[int], *x_k: Each[Any]) -> None:
    """Raises where an argument of a verb is no Each, or not of all these nodes."""
    for x in x_k:
        if not isinstance(x, Each):
            raise SettingTypeError(f"`x_k` must be of type Each; got {type(x).__name__}. Broadcast a Central first.")
        absent = sorted(set(nodes).difference(x.nodes))
        if absent:
            raise SettingError(
                f"`x_k` must hold a value of every node; got none of node {absent[0]}. "
                "Merge a cohort's values with all nodes' old ones first."
            )


def check_central(*x: Central[Any]) -> None:
    """Raises where an argument of a verb is no Central."""
    for part in x:
        if not isinstance(part, Central):
            raise SettingTypeError(
                f"`x` must be of type Central; got {type(part).__name__}. Take the mean or gather first."
            )
