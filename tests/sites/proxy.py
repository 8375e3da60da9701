"""A TCP proxy before a site's door that cuts, stops, delays or damages what passes, as a bad network does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Proxy:
    """Passes connections on to a port of this machine.

    Args:
        port: Where to.

    Attributes:
        port: Where it listens.
        delay: Seconds by which what passes is late.
        silent: Whether nothing passes, though connections stand.
        deaf: Whether nothing passes to the port.
        refusing: Whether nobody is let in.
        damage: How many bytes of those that pass are flipped, from now on.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay, self.silent, self.deaf, self.refusing, self.damage = 0.0, False, False, False, 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections, in the middle of whatever passes."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        """Lets nobody in any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or the thread in it lets one more in
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                if self.refusing:
                    here.close()
                    continue
                try:
                    there = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    here.close()
                    continue
                self._pairs.append((here, there))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass, args=(*pair, pair[0] is here), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, calling: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                time.sleep(self.delay)
                while self.silent or (self.deaf and calling):
                    time.sleep(0.01)
                if self.damage:
                    self.damage -= 1
                    data = bytes([data[0] ^ 1]) + data[1:]
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
