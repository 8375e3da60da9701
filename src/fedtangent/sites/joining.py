"""Joining: the connections of a process to the others of its federation, all there before anything is said."""

import ssl
import time
from collections.abc import Callable

from fedtangent.errors import SettingError
from fedtangent.sites.kit import SERVER, Kit
from fedtangent.transports._lines import Lines
from fedtangent.transports._tls import Address, Listener, reached

_LOOK = 0.05  # seconds between two looks at who has come


def lines(own: Kit, listen: Address | None, wait: float, tell: Callable[[str], None]) -> Lines:
    """The lines to the others: sites call the server, or, where there is none, every site those before it in the book.

    Args:
        own: This process's kit.
        listen: Where to listen; none is the address in the book.
        wait: Seconds in which all must be there.
        tell: Given one sentence about every connection that is turned away.

    Raises:
        ValueError: A site is not there in time, is not who it should be, or the address cannot be had.
    """
    until, names = time.monotonic() + wait, list(own.book)
    place = names.index(own.name)
    if own.served:
        calls = [] if own.name == SERVER else [SERVER]
        called = own.sites if own.name == SERVER else []
    else:
        calls, called = names[:place], names[place + 1 :]
    address = listen or own.book[own.name]
    if called and address is None:
        raise SettingError(f"`listen` must be given for {own.name}; got no address in its kit. Give --listen.")
    listener = Listener(own.identity, address, called, tell) if called and address is not None else None
    try:
        found = {name: _called(own, name, until) for name in calls}
        while listener is not None and len(listener.came()) < len(called):
            if time.monotonic() > until:
                late = [name for name in called if name not in listener.came()]
                raise SettingError(
                    f"`{late[0]}` must call within {wait:g} seconds; got no call. Start that site, or give it more "
                    "time by --wait."
                )
            time.sleep(_LOOK)
        found |= {} if listener is None else listener.came()
    finally:
        if listener is not None:
            listener.close()
    return Lines(place, names, {names.index(name): connection for name, connection in found.items()})


def _called(own: Kit, name: str, until: float) -> ssl.SSLSocket:
    address = own.book[name]
    if address is None:
        raise SettingError(f"`{name}` must have an address in the kit; got none. Ask for a new kit.")
    return reached(own.identity, name, address, until)
