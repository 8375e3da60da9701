"""Payload bytes, per node and direction, as the verbs of a fleet send them; multiply-adds, as an engine runs them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from fedtangent import multiply_adds
from fedtangent.errors import SettingError

T = TypeVar("T")

SERVER = -1


class Link(NamedTuple):
    """From whom to whom a message goes: the numbers of nodes, or SERVER."""

    source: int
    target: int


class Ledger:
    """Counts what every node, and the server, has sent, received and computed since round 1.

    `work` are multiply-adds by node; `costs` those of the calls that occurred, so that a resumed run counts the same.
    """

    def __init__(self) -> None:
        """Starts with nothing sent."""
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self.work: Counter[int] = Counter()
        self.costs: dict[str, int] = {}
        self._paused = False

    @property
    def is_paused(self) -> bool:
        """Whether nothing is booked."""
        return self._paused

    @property
    def sent_bytes(self) -> int:
        """The bytes sent by all nodes and the server."""
        return sum(self.sent.values())

    @property
    def multiply_adds(self) -> int:
        """Those of all nodes and the server."""
        return sum(self.work.values())

    def run(self, nodes: Sequence[int], fn: Callable[[], T]) -> T:
        """fn(), its multiply-adds booked in equal parts on these nodes: an engine pads them to do the same work."""
        if self._paused:
            return fn()
        with multiply_adds.tallied(self.costs) as tally:
            result = fn()
        each, left = divmod(tally.total, len(nodes))
        for place, node in enumerate(nodes):
            self.work[node] += each + (place < left)
        return result

    def send(self, source: int, target: int, payload: int) -> None:
        """Books one message of `payload` bytes."""
        if not self._paused:
            self.sent[source] += payload
            self.received[target] += payload

    def book(self, sent: Mapping[int, int], received: Mapping[int, int]) -> None:
        """Books many messages at once, in bytes by node."""
        if not self._paused:
            self.sent.update(sent)
            self.received.update(received)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is booked inside: for measurements that are not part of a method."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def add(self, state: dict[str, Any]) -> None:
        """Adds the counts of another process's `state()`."""
        for name in ("sent", "received", "work"):
            getattr(self, name).update(dict(state[name]))
        self.costs.update(dict(state["costs"]))

    def state(self) -> dict[str, Any]:
        """The counts as plain lists, for a checkpoint."""
        counts = {name: sorted(getattr(self, name).items()) for name in ("sent", "received", "work")}
        return {**counts, "costs": sorted(self.costs.items())}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes the counts back from `state()`, which may have been JSON.

        Raises:
            ValueError: Counts that are none.
        """
        for name, kind in {"sent": int, "received": int, "work": int, "costs": str}.items():
            if not all(isinstance(key, kind) and isinstance(count, (int, float)) for key, count in state[name]):
                raise SettingError(f"`{name}` must be counts by node or call; got others. Use another ledger's state.")
        self.sent, self.received, self.work = (Counter(dict(state[name])) for name in ("sent", "received", "work"))
        self.costs = dict(state["costs"])
