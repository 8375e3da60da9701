"""TLS: connections of which both ends have shown a certificate of their federation; 1.3, and nothing else.

Who a site is says its certificate alone: the name in it, signed by the federation's authority. An address says only
where to look for it.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from fedtangent.errors import SettingError

HANDSHAKE = 10.0  # seconds that the other end has for it
_AGAIN = 0.2  # seconds between two tries to reach a site that is not there yet
_PENDING = 16  # handshakes at once
GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_SILENT = (10, 5, 3)  # seconds of silence until a machine is asked for a sign, between signs, and how many may fail

Socket = TypeVar("Socket", bound=socket.socket)


class Identity(NamedTuple):
    """What a site shows, and what it trusts.

    Attributes:
        name: Of the site.
        certificate: Path of its certificate.
        key: Path of its private key.
        authority: Path of the certificate of the federation's authority.
        revoked: Path of the authority's list of revoked certificates.
    """

    name: str
    certificate: Path
    key: Path
    authority: Path
    revoked: Path


class Secured(ssl.SSLSocket):
    """A connection whose end is its own.

    Newer releases of Python (3.13.5 and 3.14.8, with OpenSSL 3.5) leave the error that ended a connection in OpenSSL's
    list of the thread's errors, where the next read of another takes it for its own (CPython's issue 148594).
    """

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """As of an SSLSocket, whose recv and recv_into call it."""
        with _forgotten():
            return super().read(len, buffer)

    def send(self, data: Any, flags: int = 0) -> int:
        """As of an SSLSocket, whose sendall calls it."""
        with _forgotten():
            return super().send(data, flags)

    def unwrap(self) -> socket.socket:
        """As of an SSLSocket."""
        with _forgotten():
            return super().unwrap()


@contextmanager
def _forgotten() -> Iterator[None]:
    """Empties the list of the thread's errors after one."""
    try:
        yield
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        raise
    except OSError:
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)  # a new connection begins with an empty list
        raise


class Way(Protocol):
    """Where a site is looked for, as text for messages, and how to get there."""

    @property
    def through(self) -> str:
        """What has to run for it, as text."""

    @property
    def secured(self) -> type[ssl.SSLSocket]:
        """What a connection becomes by TLS."""

    def opened(self, seconds: float) -> socket.socket:
        """A connection without TLS.

        Raises:
            OSError: There is none within these seconds.
        """


class Incoming(Protocol):
    """Where connections without TLS come in."""

    closed: bool
    secured: type[ssl.SSLSocket]  # as of a Way

    def accept(self) -> tuple[socket.socket, str]:
        """The next one, and where it comes from; OSError where there is none."""

    def close(self) -> None:
        """Ends `accept` too."""


class Address(NamedTuple):
    """host, port: Where a site listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def through(self) -> str:
        """As of a Way."""
        return "that site"

    @property
    def secured(self) -> type[ssl.SSLSocket]:
        """As of a Way."""
        return Secured

    def opened(self, seconds: float) -> socket.socket:
        """As of a Way."""
        return socket.create_connection(self, timeout=seconds)


class Listening:
    """Connections to an address of this machine.

    Args:
        address: Where to listen.

    Raises:
        ValueError: It cannot be had.
    """

    secured: type[ssl.SSLSocket] = Secured

    def __init__(self, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._socket = socket.create_server(address, family=family)
        except OSError as error:
            raise SettingError(
                f"`address` must be one where this site can listen; got {address} "
                f"({(error.strerror or str(error)).lower()}). End what uses it, or choose another by --listen."
            ) from error
        self.closed = False

    def accept(self) -> tuple[socket.socket, str]:
        """As of Incoming."""
        connection, (host, *_) = self._socket.accept()
        return connection, str(host)

    def close(self) -> None:
        """As of Incoming."""
        self.closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Relayed(Secured):
    """A connection by a relay: where it ends, nobody can tell whether the other site has ended or the relay."""


class Unreached(SettingError):
    """Nobody answers at an address."""


class Listener:
    """Lets sites in; what cannot show a certificate of the federation, or is not expected, is turned away.

    Args:
        identity: Of this site.
        address: Where to listen, or where connections come in otherwise.
        expected: The sites that may come in; who comes again takes the place of its older connection.
        tell: Given one sentence about every connection that is turned away.

    Raises:
        ValueError: The address cannot be had.
    """

    def __init__(
        self, identity: Identity, address: Address | Incoming, expected: Collection[str], tell: Callable[[str], None]
    ) -> None:
        self._context, self._tell = context(identity, server=True), tell
        self._expected, self._found = set(expected), dict[str, ssl.SSLSocket]()
        self._lock = threading.Lock()
        self._incoming = Listening(address) if isinstance(address, Address) else address
        self._context.sslsocket_class = self._incoming.secured
        threading.Thread(target=admitting, args=(self._incoming, self._admit), daemon=True).start()

    def came(self) -> dict[str, ssl.SSLSocket]:
        """The sites that have come in, and whose connections nobody has taken."""
        with self._lock:
            return dict(self._found)

    def take(self, name: str) -> ssl.SSLSocket | None:
        """The connection of a site, which may come in anew from now on; None where it has not come."""
        with self._lock:
            return self._found.pop(name, None)

    def close(self) -> None:
        """Lets nobody in any more."""
        self._incoming.close()

    def _admit(self, connection: socket.socket, host: str) -> None:
        try:
            connection.settimeout(HANDSHAKE)
            secured = self._context.wrap_socket(connection, server_side=True)
            name = shown(secured)
            with self._lock:
                welcome = name in self._expected and not self._incoming.closed
                older = self._found.pop(name, None) if welcome else None
                if welcome:
                    self._found[name] = lasting(secured)
            if older is not None:
                with suppress(OSError):  # it may be read in another thread, which closes it
                    socket.socket.shutdown(older, socket.SHUT_RDWR)
            if not welcome:
                secured.close()
                self._tell(f"turned away {host}, which shows the certificate of {name!r}: it is not expected")
        except (OSError, ValueError) as error:
            connection.close()
            self._tell(f"turned away {host}: {reason(error)}")


def admitting(incoming: Incoming, admit: Callable[[socket.socket, str], None], most: int = _PENDING) -> None:
    """Hands over connections until no more can come; those that come while too many handshakes go on are closed.

    Args:
        incoming: Where they come in.
        admit: Called in a thread of its own with a connection and where it comes from.
        most: Handshakes at once.
    """
    pending = threading.BoundedSemaphore(most)

    def admitted(connection: socket.socket, host: str) -> None:
        try:
            admit(connection, host)
        finally:
            pending.release()

    while not incoming.closed:
        try:
            connection, host = incoming.accept()
        except OSError:  # it is closed, or the other end is gone, or this process has too many files
            time.sleep(_AGAIN)
            continue
        if not pending.acquire(blocking=False):
            connection.close()
            continue
        threading.Thread(target=admitted, args=(connection, host), daemon=True).start()


def reached(identity: Identity, name: str, address: Way, until: float) -> ssl.SSLSocket:
    """A connection to a site, which shows the certificate of this name; it is tried until there is one.

    Args:
        identity: Of this site.
        name: Of the other one.
        address: Where it listens, or how else to get there.
        until: time.monotonic() at which to give up.

    Raises:
        ValueError: It is not there in time, or it is not who it should be, or speaks no TLS 1.3.
    """
    own, last = context(identity, server=False), "no answer"
    own.sslsocket_class = address.secured
    while True:
        try:
            connection = address.opened(max(0.1, min(HANDSHAKE, until - time.monotonic())))
        except OSError as error:
            last = error.strerror or str(error)
        else:
            try:
                connection.settimeout(HANDSHAKE)
                return lasting(own.wrap_socket(connection, server_hostname=name))
            except ssl.SSLEOFError as error:  # it ended while we came
                connection.close()
                last = reason(error)
            except ssl.SSLError as error:
                connection.close()
                raise SettingError(
                    f"`{name}` must show the certificate of {name} in this federation, by TLS 1.3; got at {address}: "
                    f"{reason(error)}. Check the kits and the address book."
                ) from error
            except OSError as error:
                connection.close()
                last = error.strerror or str(error)
        if time.monotonic() + _AGAIN > until:
            raise unreached(name, address, last)
        time.sleep(_AGAIN)


def unreached(name: str, way: Way, why: str) -> Unreached:
    """The sentence about a process that does not answer."""
    return Unreached(
        f"`{name}` must be reached at {way}; got {why}. Start {way.through}, or give it more time by --wait."
    )


def context(identity: Identity, server: bool) -> ssl.SSLContext:
    """TLS 1.3 with certificates at both ends, none of which has expired or was revoked.

    Raises:
        ValueError: A file of the identity is missing, or is none.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.sslsocket_class = Secured
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = not server
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    if server:
        made.num_tickets = 0  # no session is taken up again
    try:
        made.load_verify_locations(identity.authority)
        made.load_verify_locations(identity.revoked)
        made.load_cert_chain(identity.certificate, identity.key)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"`kit` must hold the certificates of {identity.name}; got {reason(error)} in "
            f"{identity.certificate.parent}. Copy the kit anew."
        ) from error
    return made


def reason(error: Exception) -> str:
    """What is wrong, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"a certificate that is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        known = {
            "HTTP_REQUEST": "no TLS",
            "WRONG_VERSION_NUMBER": "no TLS",
            "UNSUPPORTED_PROTOCOL": "an older TLS than 1.3",
            "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate",
        }
        return known.get(error.reason or "", (error.reason or str(error)).replace("_", " ").lower())
    if isinstance(error, TimeoutError):
        return f"no handshake within {HANDSHAKE:g} seconds"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def shown(secured: ssl.SSLSocket) -> str:
    """Whose certificate the other end has shown."""
    told: Mapping[str, object] = secured.getpeercert() or {}
    names = told.get("subjectAltName", ())
    if not isinstance(names, tuple) or len(names) != 1 or names[0][0] != "DNS":
        raise ValueError("a certificate without a site's name")
    return str(names[0][1])


def ended(secured: ssl.SSLSocket) -> bool:
    """Whether the other end of a connection that nobody reads has closed it."""
    poll = select.poll()
    try:
        poll.register(secured.fileno(), GONE)
    except (OSError, ValueError):  # it is closed here
        return True
    return bool(poll.poll(0))


def lasting(secured: Socket) -> Socket:
    """The connection, on which a machine that is gone is missed after half a minute."""
    secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secured.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), _SILENT, strict=True):
        if hasattr(socket, name):
            secured.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    secured.setblocking(False)
    return secured
