"""Forwarding: bytes between pairs of connections, by one thread; what the slower end has not taken is not read."""

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

_PIECE = 2**18  # bytes that are read at once, and at most kept of a direction
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Ended = Callable[[int, int], None]


class Forwarding:
    """Pairs of connections, each of which gets what the other sends."""

    def __init__(self) -> None:
        self._selector, self._new = selectors.DefaultSelector(), SimpleQueue[_Pair]()
        self._pairs = set[_Pair]()
        self._bell, self._ringer = socket.socketpair()
        self._selector.register(self._bell, _READ, None)
        self._closed = False

    def add(self, first: socket.socket, second: socket.socket, ended: Ended) -> None:
        """Forwards between two from now on; any thread may call it.

        Args:
            first: A connection that does not block.
            second: The other one.
            ended: Called by the thread that forwards, with the bytes from the first to the second and back.
        """
        self._new.put(_Pair(first, second, ended))
        self._ring()

    def close(self) -> None:
        """Ends all connections, and `run`."""
        self._closed = True
        self._ring()

    def run(self) -> None:
        """Forwards until `close`."""
        room = memoryview(bytearray(_PIECE))
        while not self._closed:
            for key, _ in self._selector.select():
                pair: _Pair | None = key.data
                if pair is None:
                    self._bell.recv(1)
                    self._take()
                elif pair in self._pairs:
                    pair.move(room)
                    self._look(pair)
        self._take()
        for pair in [*self._pairs]:
            self._drop(pair)
        self._selector.close()
        self._bell.close()
        self._ringer.close()

    def _ring(self) -> None:
        with suppress(OSError):
            self._ringer.send(b".")

    def _take(self) -> None:
        while not self._new.empty():
            pair = self._new.get()
            self._pairs.add(pair)
            self._look(pair)

    def _look(self, pair: "_Pair") -> None:
        """Waits for what a pair can do next; one that has ended is dropped."""
        if pair.over:
            self._drop(pair)
            return
        known = self._selector.get_map()
        for end, events in pair.wanted():
            if end not in known:
                if events:
                    self._selector.register(end, events, pair)
            elif not events:
                self._selector.unregister(end)
            elif known[end].events != events:
                self._selector.modify(end, events, pair)

    def _drop(self, pair: "_Pair") -> None:
        self._pairs.discard(pair)
        for end in pair.ends:
            if end in self._selector.get_map():
                self._selector.unregister(end)
            end.close()
        pair.tell()


class _Pair:
    """Two connections and the two directions between them."""

    def __init__(self, first: socket.socket, second: socket.socket, ended: Ended) -> None:
        self.ends, self._ended = (first, second), ended
        self._there, self._back = _Direction(first, second), _Direction(second, first)

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self._there.over and self._back.over

    def move(self, room: memoryview) -> None:
        """Forwards what there is."""
        self._there.move(room)
        self._back.move(room)

    def wanted(self) -> list[tuple[socket.socket, int]]:
        """Which events of either end are of use now."""
        there, back = self._there, self._back
        return [
            (self.ends[0], there.reads * _READ | back.writes * _WRITE),
            (self.ends[1], back.reads * _READ | there.writes * _WRITE),
        ]

    def tell(self) -> None:
        self._ended(self._there.count, self._back.count)


class _Direction:
    """What goes from one end to the other.

    Attributes:
        over: Whether all has gone that will.
        count: Bytes that have gone.
    """

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source, self._target, self._left = source, target, memoryview(b"")
        self.over, self.count = False, 0

    @property
    def reads(self) -> bool:
        """Whether it can go on when there is something to read."""
        return not self.over and not self._left

    @property
    def writes(self) -> bool:
        """Whether it can go on when there is room to write."""
        return bool(self._left)

    def move(self, room: memoryview) -> None:
        """Forwards what is left, or else at most as much as there is room for."""
        if self.over:
            return
        if not self._left:
            try:
                count = self._source.recv_into(room)
            except BlockingIOError:
                return
            except OSError:  # it is gone
                count = 0
            if not count:
                self._end()
                return
            sent = self._send(room[:count])
            self._left = memoryview(bytes(room[sent:count]))
        else:
            self._left = self._left[self._send(self._left) :]

    def _send(self, data: memoryview) -> int:
        try:
            count = self._target.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._end()
            return len(data)
        self.count += count
        return count

    def _end(self) -> None:
        self.over = True
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)
