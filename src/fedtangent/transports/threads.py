"""Threads: every node, and the server, in a thread that shares nothing with the others but messages; the referee.

Only one of them runs at a time, so that nothing of Python's or PyTorch's that is of the process is met half done.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeVar

from fedtangent.federation.transport import Tag, Transport
from fedtangent.transports._message import Message, packed, unpacked
from fedtangent.transports._pipes import Piped

T = TypeVar("T")


class Ended(RuntimeError):
    """Another of the threads has failed, so that nothing more will come of it."""


class _Threads:
    def __init__(self, count: int) -> None:
        self.count, self.turn = count, Lock()
        self.queues: dict[tuple[int, int], SimpleQueue[tuple[Tag, Message] | None]] = {
            (source, target): SimpleQueue() for source in range(count) for target in range(count)
        }

    def end(self) -> None:
        """Wakes all that wait."""
        for queue in self.queues.values():
            queue.put(None)


class _Pipes:
    def __init__(self, threads: _Threads, place: int) -> None:
        self.place, self.count, self._threads = place, threads.count, threads

    def swap(self, tag: Tag, out: Mapping[int, Sequence[Any]], sources: Sequence[int]) -> dict[int, list[Any]]:
        for target, values in out.items():
            self._threads.queues[self.place, target].put((tag, packed(values)))
        return {source: self._received(source, tag) for source in sources}

    def _received(self, source: int, tag: Tag) -> list[Any]:
        queue = self._threads.queues[source, self.place]
        self._threads.turn.release()
        try:
            found = queue.get()
        finally:
            self._threads.turn.acquire()
        if found is None:
            raise Ended(f"process {source} has ended before {tag}")
        assert found[0] == tag, (found[0], tag)
        return unpacked(found[1])


def threads(nodes: Sequence[int], play: Callable[[Transport], T]) -> list[T]:
    """What `play` gives in every thread, the server's first; each must build for itself whatever it computes with.

    Raises:
        Exception: That of the first thread that failed.
    """
    shared = _Threads(1 + len(nodes))
    places = {node: 1 + i for i, node in enumerate(nodes)}

    def one(place: int) -> T:
        with shared.turn:
            try:
                return play(Piped("threads", _Pipes(shared, place), places))
            except BaseException:
                shared.end()
                raise

    with ThreadPoolExecutor(shared.count) as pool:
        futures = [pool.submit(one, place) for place in range(shared.count)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Ended)):
        raise error
    return [future.result() for future in futures]
