"""Relay: joins sites that accept no connections from outside, and forwards bytes that it cannot read.

    site        TLS with the relay: "I wait"               the relay answers: "so do I"
    caller      TLS with the relay: "to SITE"
    relay       "you are called" to the site; both end this TLS (close_notify), and the connection is plain again
    relay       "you are joined" to the caller; the same
    both        TLS with one another over the two plain connections, as over one; the relay forwards its bytes

TLS with the relay says who may use it, and ends before a site's first byte to another: what is forwarded is the sites'
own TLS, encrypted once. A relay that joins a caller to another site, or changes a byte, is found out by that.
"""

import errno
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress

from fedtangent.errors import SettingError
from fedtangent.transports._forwarding import Forwarding
from fedtangent.transports._tls import (
    HANDSHAKE,
    Address,
    Identity,
    Incoming,
    Listening,
    Relayed,
    Unreached,
    admitting,
    context,
    lasting,
    reason,
    shown,
)

RELAY = "relay"  # the name in its certificate
_WORD = struct.Struct("!4sB40s")  # what is said: magic number, kind, a site's name
_MAGIC = b"FdT1"
_WAIT, _CALL, _WAITING, _CALLED, _JOINED, _ABSENT, _UNKNOWN, _MANY = range(8)
_PENDING = 256  # handshakes and calls that are not joined yet, at once
_HOLD = 1.0  # seconds in which a site that is called may begin to wait
_ANSWER = 5.0  # seconds that a site which waits has for its part of being called
_AGAIN = 0.5  # seconds between two tries to wait


class ByRelay:
    """The way to a site that waits at the relay.

    Args:
        identity: Of the site that calls.
        name: Of the other one.
        relay: Where the relay listens.
    """

    through = "that site and the relay"
    secured = Relayed

    def __init__(self, identity: Identity, name: str, relay: Address) -> None:
        self._identity, self._name, self._relay = identity, name, relay

    def __str__(self) -> str:
        return f"the relay {self._relay}"

    def opened(self, seconds: float) -> socket.socket:
        """A connection to that site without TLS.

        Raises:
            OSError: The relay is not there, or the site does not wait there.
            ValueError: The relay is not the federation's, or does not know both sites.
        """
        secured, kind, _ = _asked(self._identity, self._relay, _CALL, self._name, seconds)
        if kind == _JOINED:
            return _plain(secured)
        secured.close()
        _check_known(kind, self._relay, self._identity.name, self._name)
        if kind == _MANY:
            raise OSError(errno.EAGAIN, f"too many connections of {self._identity.name} there")
        raise OSError(errno.ECONNREFUSED, f"no {self._name} that waits there")


class Waiting:
    """Connections of sites that call this one at the relay; it waits there for one after another.

    Args:
        identity: Of this site.
        relay: Where the relay listens.
        tell: Given one sentence when the relay is lost, and when it is there again.

    Attributes:
        why: What keeps this site from waiting there now; None where nothing does.
    """

    secured: type[ssl.SSLSocket] = Relayed

    def __init__(self, identity: Identity, relay: Address, tell: Callable[[str], None]) -> None:
        self._identity, self._relay, self._tell = identity, relay, tell
        self.closed = self._was = self._lost = False
        self.why: SettingError | None = None
        self._lock = threading.Lock()
        self._line: ssl.SSLSocket | None = None

    def accept(self) -> tuple[socket.socket, str]:
        """As of Incoming."""
        try:
            found = self._called(self._begun(HANDSHAKE))
        except (OSError, SettingError) as error:
            self.why = error if isinstance(error, SettingError) else self._unreached(error)
            if self._was and not self.closed and not self._lost:
                self._lost = True
                self._tell(f"the relay {self._relay} was lost ({reason(error)}), and is called again")
            time.sleep(_AGAIN)
            raise OSError(errno.ECONNABORTED, "no relay") from error
        return found

    def close(self) -> None:
        """As of Incoming."""
        with self._lock:
            self.closed = True
            if self._line is not None:  # `accept` reads of it, and closes it: its number must not go to another before
                with suppress(OSError):
                    socket.socket.shutdown(self._line, socket.SHUT_RDWR)

    def _called(self, line: ssl.SSLSocket) -> tuple[socket.socket, str]:
        """The connection, as soon as somebody calls, without TLS."""
        with self._lock:
            self._line = line
        try:
            if self.closed:
                raise ConnectionAbortedError(errno.ECONNABORTED, "closed")
            kind, name = _heard(line, None)
            if kind != _CALLED:
                raise OSError(errno.EPROTO, "another word than that of a call")
            return _plain(line), f"{name} at the relay"
        finally:
            with self._lock:
                self._line = None
            line.close()  # what it held has gone over, where all went well

    def _unreached(self, error: OSError) -> Unreached:
        return Unreached(
            f"`{RELAY}` must be reached at {self._relay}; got {reason(error)}. Start the relay, or give it more time "
            "by --wait."
        )

    def _begun(self, seconds: float) -> ssl.SSLSocket:
        secured, kind, _ = _asked(self._identity, self._relay, _WAIT, self._identity.name, seconds)
        if kind != _WAITING:
            secured.close()
            _check_known(kind, self._relay, self._identity.name)
            raise OSError(errno.EPROTO, "another word than that of waiting")
        if self._lost:
            self._tell(f"the relay {self._relay} is there again")
        self._was, self._lost, self.why = True, False, None
        return lasting(secured)


class Relay:
    """Joins the sites of a federation that call one another by it.

    Args:
        identity: Of the relay; its list of revoked certificates is read anew for every connection.
        address: Where to listen.
        sites: Who may use it.
        tell: Given one sentence about every connection that is turned away, and every two that are joined or end.

    Raises:
        ValueError: The address cannot be had.
    """

    def __init__(
        self, identity: Identity, address: Address, sites: Collection[str], tell: Callable[[str], None]
    ) -> None:
        context(identity, server=True)  # what is wrong with it is told now
        self._identity, self._sites, self._told = identity, frozenset(sites), tell
        self._most = 2 * len(self._sites) + 8  # connections of a site at once, those that wait aside
        self._waiting, self._busy, self._lock = dict[str, ssl.SSLSocket](), Counter[str](), threading.Condition()
        self._forwarding = Forwarding()
        self._incoming: Incoming = Listening(address)
        threading.Thread(target=admitting, args=(self._incoming, self._admit, _PENDING), daemon=True).start()

    def run(self) -> None:
        """Forwards until `close`."""
        self._forwarding.run()

    def close(self) -> None:
        """Ends all connections; nobody can wait or call any more."""
        self._incoming.close()
        self._forwarding.close()
        with self._lock:
            waiting = [*self._waiting.values()]
            self._waiting.clear()
        for one in waiting:
            one.close()

    def _admit(self, connection: socket.socket, host: str) -> None:
        try:
            connection.settimeout(HANDSHAKE)
            secured = context(self._identity, server=True).wrap_socket(connection, server_side=True)
        except (OSError, ValueError) as error:
            connection.close()
            self._tell(f"turned away {host}: {reason(error)}")
            return
        try:
            name = shown(secured)
            kind, target = _heard(secured, HANDSHAKE)
            if name not in self._sites or target not in self._sites or kind not in (_WAIT, _CALL):
                secured.sendall(_word(_UNKNOWN))
                raise ValueError(f"{name}, which asks for {target}: no two sites of this federation")
            if kind == _WAIT:
                self._wait(name, secured)
            else:
                self._call(name, secured, target)
        except (OSError, ValueError) as error:
            secured.close()
            self._tell(f"turned away {host}: {reason(error)}")

    def _wait(self, name: str, secured: ssl.SSLSocket) -> None:
        """Lets a site wait; the newest of its connections counts."""
        secured.sendall(_word(_WAITING))
        lasting(secured)
        with self._lock:
            before = self._waiting.pop(name, None)
            if self._incoming.closed:
                before = secured
            else:
                self._waiting[name] = secured
                self._lock.notify_all()
        if before is not None:
            before.close()

    def _call(self, name: str, secured: ssl.SSLSocket, target: str) -> None:
        both = (name, target)
        with self._lock:
            self._lock.wait_for(lambda: target in self._waiting, _HOLD)
            many = any(self._busy[one] >= self._most for one in both)
            other = None if many else self._waiting.pop(target, None)
            if other is not None:
                self._busy.update(both)
        if other is None:
            secured.sendall(_word(_MANY if many else _ABSENT))
            secured.close()
            return
        try:
            joined = self._joined(name, secured, other)
        except (OSError, ValueError):
            self._left(both)
            raise
        if joined is None:
            self._left(both)
            return
        self._tell(f"{name} is joined to {target}")
        begun = time.monotonic()

        def ended(there: int, back: int) -> None:
            self._left(both)
            took = time.monotonic() - begun
            self._tell(f"{name} and {target} have ended: {there} bytes there, {back} back, {took:.0f} seconds")

        self._forwarding.add(*joined, ended)

    def _joined(
        self, name: str, secured: ssl.SSLSocket, other: ssl.SSLSocket
    ) -> tuple[socket.socket, socket.socket] | None:
        """Both connections without TLS; None where the site that waited is gone, which the caller is told."""
        try:
            other.settimeout(_ANSWER)
            other.sendall(_word(_CALLED, name))
            called = _plain(other)
        except OSError:
            other.close()
            secured.sendall(_word(_ABSENT))
            secured.close()
            return None
        try:
            secured.settimeout(_ANSWER)
            secured.sendall(_word(_JOINED))
            return lasting(_plain(secured)), lasting(called)
        except (OSError, ValueError):
            called.close()
            raise

    def _tell(self, sentence: str) -> None:
        with suppress(OSError):  # nobody reads it
            self._told(sentence)

    def _left(self, both: tuple[str, str]) -> None:
        with self._lock:
            self._busy.subtract(both)


def _asked(identity: Identity, relay: Address, kind: int, name: str, seconds: float) -> tuple[ssl.SSLSocket, int, str]:
    """A connection to the relay on which something was asked, and the answer."""
    own, plain = context(identity, server=False), relay.opened(seconds)
    plain.settimeout(HANDSHAKE)
    try:
        secured = own.wrap_socket(plain, server_hostname=RELAY)
    except ssl.SSLEOFError:
        raise
    except ssl.SSLError as error:
        raise SettingError(
            f"`{RELAY}` must show the certificate of the relay in this federation, by TLS 1.3; got at {relay}: "
            f"{reason(error)}. Check the kits and the relay's address."
        ) from error
    finally:
        plain.close()  # what it holds has gone over to `secured`
    try:
        with suppress(OSError):  # it is refused already, and is told why
            secured.sendall(_word(kind, name))
        return secured, *_heard(secured, HANDSHAKE)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        secured.close()
        raise
    except ssl.SSLError as error:
        secured.close()
        raise SettingError(
            f"`{RELAY}` must let {identity.name} in; got at {relay}: {reason(error)}. Ask for a new kit."
        ) from error
    except OSError:
        secured.close()
        raise


def _check_known(kind: int, relay: Address, *names: str) -> None:
    """Raises ValueError where the relay does not know a site."""
    if kind == _UNKNOWN:
        raise SettingError(
            f"`{RELAY}` must have a kit that lists {' and '.join(dict.fromkeys(names))}; got another at {relay}. Bring "
            "it the kit of this federation."
        )


def _word(kind: int, name: str = "") -> bytes:
    return _WORD.pack(_MAGIC, kind, name.encode())


def _heard(secured: ssl.SSLSocket, seconds: float | None) -> tuple[int, str]:
    """The next word; OSError where none comes, or something else does."""
    data, end = b"", None if seconds is None else time.monotonic() + seconds
    while len(data) < _WORD.size:
        secured.settimeout(None if end is None else max(0.01, end - time.monotonic()))
        part = secured.recv(_WORD.size - len(data))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the other end has ended")
        data += part
    magic, kind, name = _WORD.unpack(data)
    text = name.rstrip(b"\0").decode("ascii", "replace")
    if magic != _MAGIC or not text.isprintable():
        raise OSError(errno.EPROTO, "no word of a relay")
    return kind, text


def _plain(secured: ssl.SSLSocket) -> socket.socket:
    """The connection without TLS, which both ends have ended; nothing that comes after it is lost."""
    if secured.gettimeout() is None:
        secured.settimeout(HANDSHAKE)
    secured.unwrap()
    return socket.socket(fileno=secured.detach())
