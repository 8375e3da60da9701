"""Joining: the connections of a process to the others of its federation; one that was lost is made again."""

import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from fedtangent.errors import SettingError
from fedtangent.sites.kit import SERVER, Kit
from fedtangent.transports._lines import Lines
from fedtangent.transports._relay import ByRelay, Waiting
from fedtangent.transports._tls import Address, Listener, Unreached, Way, ended, reached, unreached

LOOK = 0.05  # seconds between two looks at who has come
_TRY = 1.0  # seconds of a try to reach a site that is not there


class Doors:
    """Sites call the server, or, where there is none, every site those before it in the book; the others come in.

    Whom a process calls it calls again and again, until there is a connection that nobody has taken yet. It may be
    of use at once, or in a later sitting of the same run.

    Args:
        own: This process's kit.
        listen: Where to listen; none is the address in the book.
        tell: Given one sentence about every connection that is turned away.

    Raises:
        ValueError: The address cannot be had, or the book lacks one.
    """

    def __init__(self, own: Kit, listen: Address | None, tell: Callable[[str], None]) -> None:
        names = list(own.book)
        place = own.number(own.name)
        if own.served:
            calls = [] if own.name == SERVER else [SERVER]
            self._called = own.sites if own.name == SERVER else []
        else:
            calls, self._called = names[:place], names[place + 1 :]
        self._addresses = {name: _way(own, name) for name in calls}
        self._own, self._lock = own, threading.Lock()
        self._reached: dict[str, ssl.SSLSocket] = {}
        self._why: dict[str, SettingError] = {}
        self._taken: set[str] = set()
        self._open = True
        door = _door(own, listen, tell) if self._called else None
        self._waiting = door if isinstance(door, Waiting) else None
        self._listener = None if door is None else Listener(own.identity, door, self._called, tell)
        for name in calls:
            threading.Thread(target=self._call, args=(name,), daemon=True).start()

    @property
    def others(self) -> list[str]:
        """Those with whom there should be a connection."""
        return [*self._addresses, *self._called]

    def there(self) -> dict[str, ssl.SSLSocket]:
        """The connections that nobody has taken, nor closed here."""
        with self._lock:
            found = {**self._reached, **({} if self._listener is None else self._listener.came())}
        for name in [name for name, made in found.items() if made.fileno() < 0]:
            self._drop(name, found.pop(name))
        return found

    def lasting(self) -> dict[str, ssl.SSLSocket]:
        """Those of them that the other end has not closed meanwhile; the rest are given up."""
        found = self.there()
        for name in [name for name, made in found.items() if ended(made)]:
            self._drop(name, found.pop(name))
        return found

    def take(self, names: Collection[str]) -> dict[str, ssl.SSLSocket]:
        """The connections to some, who are not called again until `free`."""
        found = {}
        with self._lock:
            for name in names:
                made = self._reached.pop(name, None)
                if made is None and self._listener is not None:
                    made = self._listener.take(name)
                if made is not None:
                    found[name] = made
            self._taken |= {*found}
        return found

    def free(self) -> None:
        """All connections that were taken have ended."""
        with self._lock:
            self._taken.clear()

    def missing(self, name: str, wait: float) -> SettingError:
        """Why a site is not there."""
        if (why := self._why.get(name)) is not None:
            return why
        if name in self._addresses:
            return unreached(name, self._addresses[name], "no answer")
        if self._waiting is not None and self._waiting.why is not None:
            return self._waiting.why
        return SettingError(
            f"`{name}` must call within {wait:g} seconds; got no call. Start that site, or give it more time by --wait."
        )

    def check(self) -> None:
        """Raises where a site that is called, or the relay, shows another certificate than its own."""
        for why in [*self._why.values(), None if self._waiting is None else self._waiting.why]:
            if why is not None and not isinstance(why, Unreached):
                raise why

    def close(self) -> None:
        """Ends what nobody has taken, and lets nobody in any more."""
        self._open = False
        if self._listener is not None:
            self._listener.close()
        for made in self.there().values():
            made.close()

    def _drop(self, name: str, made: ssl.SSLSocket) -> None:
        with self._lock:
            if self._reached.get(name) is made:
                del self._reached[name]
            elif self._listener is not None and self._listener.came().get(name) is made:
                self._listener.take(name)
        made.close()

    def _call(self, name: str) -> None:
        while self._open:
            with self._lock:
                needed = name not in self._reached and name not in self._taken
            if needed:
                self._try(name)
            time.sleep(LOOK)

    def _try(self, name: str) -> None:
        try:
            made = reached(self._own.identity, name, self._addresses[name], time.monotonic() + _TRY)
        except SettingError as error:
            self._why[name] = error
            return
        except OSError as error:  # files of the kit that are being replaced, or too many open ones
            self._why[name] = unreached(name, self._addresses[name], error.strerror or str(error))
            return
        self._why.pop(name, None)
        with self._lock:
            if self._open and name not in self._taken:
                self._reached[name] = made
                return
        with suppress(OSError):
            made.close()


def numbers(own: Kit, connections: Mapping[str, ssl.SSLSocket]) -> dict[int, ssl.SSLSocket]:
    """The same by the numbers of the address book."""
    return {own.number(name): made for name, made in connections.items()}


def lines(own: Kit, connections: Mapping[str, ssl.SSLSocket] | None = None) -> Lines:
    """Lines of this process over some connections."""
    return Lines(own.number(own.name), list(own.book), numbers(own, connections or {}))


def _way(own: Kit, name: str) -> Way:
    """How to get to a process that is called."""
    address = own.book[name]
    if address is not None:
        return address
    if own.relay is None:
        raise SettingError(f"`{name}` must have an address in the kit; got none. Ask for a new kit.")
    return ByRelay(own.identity, name, own.relay)


def _door(own: Kit, listen: Address | None, tell: Callable[[str], None]) -> Address | Waiting:
    """Where those come in that call this process."""
    own_address = own.book[own.name]
    if listen is not None and own_address is None and own.relay is not None:
        raise SettingError(f"`listen` must be left out for {own.name}, which is called by the relay; got it. Drop it.")
    address = listen or own_address
    if address is not None:
        return address
    if own.relay is None:
        raise SettingError(f"`listen` must be given for {own.name}; got no address in its kit. Give --listen.")
    return Waiting(own.identity, own.relay, tell)
