"""Payload bytes, per node and direction, as the verbs of a fleet send them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

SERVER = -1


class Ledger:
    """Counts what every node, and the server, has sent and received since round 1."""

    def __init__(self) -> None:
        """Starts with nothing sent."""
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self._paused = False

    @property
    def sent_bytes(self) -> int:
        """The bytes sent by all nodes and the server."""
        return sum(self.sent.values())

    def send(self, source: int, target: int, payload: int) -> None:
        """Books one message of `payload` bytes."""
        if not self._paused:
            self.sent[source] += payload
            self.received[target] += payload

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is booked inside: for measurements that are not part of a method."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def state(self) -> dict[str, list[tuple[int, int]]]:
        """The counts as plain lists, for a checkpoint."""
        return {"sent": sorted(self.sent.items()), "received": sorted(self.received.items())}

    def restore(self, state: dict[str, list[tuple[int, int]]]) -> None:
        """Takes the counts back from `state()`."""
        self.sent = Counter(dict(state["sent"]))
        self.received = Counter(dict(state["received"]))
