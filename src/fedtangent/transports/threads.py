"""Threads: every node, and the server, in a thread that shares nothing with the others but messages; the referee.

Only one of them runs at a time, so that nothing of Python's or PyTorch's that is of the process is met half done.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeVar, cast

from fedtangent.federation.transport import Tag, Transport
from fedtangent.transports._message import Message, packed, unpacked
from fedtangent.transports._pipes import Piped

T = TypeVar("T")


class Ended(RuntimeError):
    """Another of the threads has failed, so that nothing more will come of it."""


class OutOfStep(RuntimeError):
    """The threads do not call the same verbs: some wait for messages that nobody sends, or of another verb."""


class _Threads:
    """What the threads share: the queues between them, and whose turn it is."""

    def __init__(self, count: int) -> None:
        self.count, self.turn = count, Lock()
        self.alive, self.waiting = set(range(count)), dict[int, int]()
        self.sent, self.taken = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        self.queues: dict[tuple[int, int], SimpleQueue[tuple[Tag, Message] | None]] = {
            (source, target): SimpleQueue() for source in range(count) for target in range(count)
        }

    def stuck(self) -> bool:
        """Whether all that have not ended wait for messages that are not there."""
        pairs = [(self.waiting[place], place) for place in self.alive if place in self.waiting]
        return 0 < len(self.alive) == len(pairs) and all(self.sent[pair] == self.taken[pair] for pair in pairs)

    def end(self) -> None:
        """Wakes all that wait."""
        for queue in self.queues.values():
            queue.put(None)


class _Pipes:
    def __init__(self, threads: _Threads, place: int) -> None:
        self.place, self.count, self._threads = place, threads.count, threads

    def swap(self, tag: Tag, out: Mapping[int, Sequence[Any]], sources: Sequence[int]) -> dict[int, list[Any]]:
        for target, values in out.items():
            self._threads.sent[self.place, target] += 1
            self._threads.queues[self.place, target].put((tag, packed(values)))
        return {source: self._received(source, tag) for source in sources}

    def _received(self, source: int, tag: Tag) -> list[Any]:
        shared, queue = self._threads, self._threads.queues[source, self.place]
        shared.waiting[self.place] = source
        if shared.stuck():
            raise OutOfStep(f"process {self.place} waits for verb {tag.verb} of process {source}, and nobody goes on")
        shared.turn.release()
        try:
            found = queue.get()
        finally:
            shared.turn.acquire()
        del shared.waiting[self.place]
        shared.taken[source, self.place] += 1
        if found is None:
            raise Ended(f"process {source} has ended before {tag}")
        if found[0] != tag:
            raise OutOfStep(f"process {source} is at {found[0]}, and process {self.place} at {tag}")
        return unpacked(found[1])


def threads(nodes: Sequence[int], play: Callable[[Transport], T]) -> list[T]:
    """What `play` gives in every thread, the server's first; each must build for itself whatever it computes with.

    Raises:
        Exception: That of the first thread that failed.
    """
    shared = _Threads(1 + len(nodes))
    places = {node: 1 + i for i, node in enumerate(nodes)}
    failed: list[BaseException] = []

    def one(place: int) -> T | None:
        with shared.turn:
            try:
                return play(Piped("threads", _Pipes(shared, place), places))
            except BaseException as error:
                failed.append(error)
                shared.end()
                return None
            finally:
                shared.alive.discard(place)
                if shared.stuck():
                    failed.append(OutOfStep(f"process {place} has ended, and the others wait for more of it"))
                    shared.end()

    with ThreadPoolExecutor(shared.count) as pool:
        found = list(pool.map(one, range(shared.count)))
    if failed:
        raise failed[0]
    return cast(list[T], found)
