"""Tap: a connection's middle, which sees every byte and may change some; a slow, literal relay without TLS."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from fedtangent.transports._tls import Address

Change = Callable[[bytes, int], bytes | None]


class Tap:
    """Forwards connections to an address, and keeps what passes.

    Attributes:
        address: Where it listens.
        seen: All that has passed, in either direction.
        change: Given bytes of a direction and how many have passed in it before; what goes on, or None to end.
    """

    def __init__(self, target: Address) -> None:
        self._target, self.seen, self.change = target, bytearray(), _same
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends all."""
        for one in (self._server, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                first, _ = self._server.accept()
            except OSError:
                return
            try:
                second = socket.create_connection(self._target)
            except OSError:  # nobody is there
                first.close()
                continue
            self._open += [first, second]
            for source, target in ((first, second), (second, first)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                self.seen += data
                changed = self.change(data, passed)
                passed += len(data)
                if changed is None:
                    break
                target.sendall(changed)
        for one, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                one.shutdown(how)


def _same(data: bytes, passed: int) -> bytes:
    return data
