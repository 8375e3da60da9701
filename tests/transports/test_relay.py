"""Relay: joins whom it should, forwards what it cannot read, and whatever it does wrong is found out by both ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fedtangent.federation.transport import Tag
from fedtangent.sites import provision as provisioning
from fedtangent.sites.kit import Kit, kit
from fedtangent.transports._forwarding import Forwarding
from fedtangent.transports._lines import Gone, Lines
from fedtangent.transports._relay import ByRelay, Relay, Waiting
from fedtangent.transports._tls import Address, Identity, Listener, context, reached
from tests.sites.processes import kits, ports
from tests.transports.tap import Tap

NAMES = ("berlin", "paris", "rome")
RUN = bytes(range(16))
MARKER = b"what nobody else is to read, "
LOCAL = "127.0.0.1"


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class Hub:
    """A relay that runs, and what it says."""

    def __init__(self, own: Kit, sites: tuple[str, ...] = NAMES, port: int = 0) -> None:
        self.said: list[str] = []
        self.address = Address(LOCAL, port or ports(1)[0])
        self.relay = Relay(own.identity, self.address, sites, self.said.append)
        self.thread = threading.Thread(target=self.relay.run)
        self.thread.start()

    def close(self) -> None:
        self.relay.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


class Door:
    """A site that is called by the relay."""

    def __init__(self, own: Kit, relay: Address, expected: tuple[str, ...] = NAMES) -> None:
        self.said: list[str] = []
        self.waiting = Waiting(own.identity, relay, self.said.append)
        self.listener = Listener(own.identity, self.waiting, expected, self.said.append)

    def came(self, name: str) -> ssl.SSLSocket:
        until(lambda: name in self.listener.came())
        return self.listener.came()[name]

    def close(self) -> None:
        self.listener.close()
        for one in self.listener.came().values():
            one.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return kits(tmp_path, False, NAMES, relayed=NAMES)


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    found = Hub(kit(folder / "relay", relay=True))
    yield found
    found.close()


@pytest.fixture
def tap(hub: Hub) -> Iterator[Tap]:
    found = Tap(hub.address)
    yield found
    found.close()


@pytest.fixture
def door(folder: Path, tap: Tap) -> Iterator[Door]:
    """Berlin, which waits behind the tap."""
    found = Door(kit(folder / "berlin"), tap.address)
    yield found
    found.close()


def call(own: Kit, relay: Address, name: str = "berlin", seconds: float = 5.0) -> ssl.SSLSocket:
    return reached(own.identity, name, ByRelay(own.identity, name, relay), time.monotonic() + seconds)


def kept_out(own: Kit, relay: Address) -> str:
    """What keeps a site from waiting at the relay."""
    waiting = Waiting(own.identity, relay, print)
    with pytest.raises(ConnectionAbortedError):
        waiting.accept()
    return str(waiting.why)


@pytest.fixture
def ends(folder: Path, door: Door, hub: Hub) -> Iterator[tuple[Lines, Lines]]:
    """Berlin's lines to paris, and those of paris to berlin."""
    theirs = call(kit(folder / "paris"), hub.address)
    lines = Lines(0, ["berlin", "paris"], {1: door.came("paris")})
    other = Lines(1, ["berlin", "paris"], {0: theirs})
    for one in (lines, other):
        one.run, one.patience, one.limit = RUN, 20.0, 2**26
    yield lines, other
    lines.end()
    other.end()


def test_a_site_waits_for_one_caller_after_another(folder: Path, door: Door, hub: Hub) -> None:
    for name in ("paris", "rome"):
        found = call(kit(folder / name), hub.address)
        came = door.came(name)
        assert found.version() == came.version() == "TLSv1.3"
        came.settimeout(5)
        found.settimeout(5)
        found.sendall(name.encode())
        assert came.recv(10) == name.encode()
        came.close()
        assert found.recv(1) == b""
        found.close()
    assert not door.said
    until(lambda: len(hub.said) == 4)
    assert hub.said[0] == "paris is joined to berlin"
    assert hub.said[1].startswith("paris and berlin have ended: ")


def test_many_call_at_once(folder: Path, door: Door, hub: Hub) -> None:
    found: dict[str, ssl.SSLSocket] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: call(kit(folder / name), hub.address)}))
        for name in ("paris", "rome")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("paris", "rome"):
        door.came(name).close()
        found[name].close()


def test_large_messages_cross_each_other_and_nobody_between_can_read_them(ends: tuple[Lines, Lines], tap: Tap) -> None:
    lines, other = ends
    text = torch.frombuffer(bytearray(MARKER * 2**19), dtype=torch.uint8)
    x, y = text.clone(), torch.cat([text, torch.rand(1000).view(torch.uint8)])
    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.extend(other.swap(Tag(1), {0: [y]}, [0])[0]))
    thread.start()
    (came,) = lines.swap(Tag(1), {1: [x]}, [1])[1]
    thread.join()
    assert torch.equal(came, y)
    assert torch.equal(found[0], x)
    until(lambda: len(tap.seen) > len(x) + len(y))
    assert MARKER not in tap.seen and MARKER[:8] not in tap.seen
    assert b"FdTg" not in tap.seen[-len(x) :]  # nor a frame's head


def test_a_relay_that_joins_another_site(folder: Path, hub: Hub) -> None:
    door = Door(kit(folder / "rome"), hub.address)
    until(lambda: "rome" in hub.relay._waiting)
    hub.relay._waiting["berlin"] = hub.relay._waiting.pop("rome")
    with pytest.raises(
        ValueError, match=r"`berlin` must show the certificate of berlin .* got at the relay 127.*Hostname mismatch"
    ):
        call(kit(folder / "paris"), hub.address)
    door.close()


def test_a_relay_that_plays_a_site(folder: Path, hub: Hub, door: Door) -> None:
    """With its own certificate, to the one that calls and to the one that waits."""
    own = kit(folder / "relay", relay=True)
    server = socket.create_server((LOCAL, 0))

    def play() -> None:
        plain, _ = server.accept()
        with contextlib.suppress(OSError), context(own.identity, server=True).wrap_socket(plain, True) as secured:
            secured.recv(1)

    thread = threading.Thread(target=play)
    thread.start()
    with pytest.raises(ValueError, match=r"`berlin` must show the certificate of berlin .*Hostname mismatch"):
        reached(kit(folder / "paris").identity, "berlin", Address(*server.getsockname()), time.monotonic() + 5)
    thread.join()
    server.close()
    until(lambda: "berlin" in hub.relay._waiting)
    hub.relay._sites |= {"relay"}
    call(own, hub.address).close()
    until(lambda: door.said)
    assert door.said[0].startswith("turned away relay at the relay, which shows the certificate of 'relay'")


def flip(data: bytes, passed: int) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if passed > 5000 else data


def truncate(data: bytes, passed: int) -> bytes | None:
    return data if passed < 2**20 else None


class Swap:
    """Turns two pieces of a direction around."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}

    def __call__(self, data: bytes, passed: int) -> bytes:
        number = threading.get_ident()
        if passed < 2**20:
            return data
        if number not in self.kept:
            self.kept[number] = data
            return b""
        kept, self.kept[number] = self.kept[number], b""
        return data + kept


def drop(data: bytes, passed: int) -> bytes:
    return b"" if 2**20 < passed < 2**21 else data


def repeat(data: bytes, passed: int) -> bytes:
    return data + data if passed > 2**20 else data


@pytest.mark.parametrize("change", [flip, Swap(), drop, repeat], ids=["flips", "reorders", "drops", "repeats"])
def test_a_relay_that_changes_bytes(ends: tuple[Lines, Lines], tap: Tap, change: Callable[[bytes, int], bytes]) -> None:
    lines, other = ends
    tap.change = change
    thread = threading.Thread(target=_quietly, args=(lambda: lines.swap(Tag(1), {1: [torch.rand(2**21)]}, []),))
    thread.start()
    with pytest.raises(
        Gone, match=r"^berlin was lost \((decryption failed or bad record mac|wrong version number|no TLS|.*record.*)\)"
    ):
        other.swap(Tag(1), {}, [0])
    other.end()
    thread.join(30)
    assert not thread.is_alive()


def test_a_relay_that_cuts_a_stream(ends: tuple[Lines, Lines], tap: Tap) -> None:
    lines, other = ends
    tap.change = truncate
    thread = threading.Thread(target=_quietly, args=(lambda: lines.swap(Tag(1), {1: [torch.rand(2**21)]}, []),))
    thread.start()
    with pytest.raises(Gone, match=r"^berlin has ended, or the relay has\.$"):
        other.swap(Tag(1), {}, [0])
    other.end()
    thread.join(30)
    assert not thread.is_alive()


def _quietly(act: Callable[[], object]) -> None:
    with contextlib.suppress(Gone):
        act()


def test_a_relay_that_goes_away_is_missed_and_waited_for(folder: Path, hub: Hub) -> None:
    door = Door(kit(folder / "berlin"), hub.address)
    theirs = call(kit(folder / "paris"), hub.address)
    lines = Lines(0, ["berlin", "paris"], {1: door.came("paris")})
    until(lambda: "berlin" in hub.relay._waiting)
    hub.close()
    with pytest.raises(Gone, match=r"^paris has ended, or the relay has\.$"):
        lines.swap(Tag(1), {}, [1])
    theirs.close()
    lines.end()
    until(lambda: door.said)
    assert door.said[0].startswith(f"the relay {hub.address} was lost (")
    again = Hub(kit(folder / "relay", relay=True), port=hub.address.port)
    found = call(kit(folder / "rome"), hub.address, seconds=20)
    door.came("rome").close()
    found.close()
    assert door.said[1] == f"the relay {hub.address} is there again"
    assert len(door.said) == 2
    door.close()
    again.close()


def test_a_relay_that_is_not_there(folder: Path) -> None:
    own, nowhere = kit(folder / "paris"), Address(LOCAL, 1)
    told = r"`berlin` must be reached at the relay 127.0.0.1:1; got Connection refused. Start that site and the relay"
    with pytest.raises(ValueError, match=told):
        call(own, nowhere, seconds=0.5)
    assert "`relay` must be reached at 127.0.0.1:1; got Connection refused. Start the relay" in kept_out(own, nowhere)


def test_a_site_that_does_not_wait(folder: Path, hub: Hub) -> None:
    told = r"`berlin` must be reached at the relay 127.0.0.1:\d+; got no berlin that waits there. Start that site"
    with pytest.raises(ValueError, match=told):
        call(kit(folder / "paris"), hub.address, seconds=0.5)


def test_a_site_that_waited_and_is_gone(folder: Path, hub: Hub) -> None:
    door = Door(kit(folder / "berlin"), hub.address)
    until(lambda: "berlin" in hub.relay._waiting)
    door.close()
    with pytest.raises(ValueError, match="got no berlin that waits there"):
        call(kit(folder / "paris"), hub.address, seconds=0.5)
    assert not hub.relay._waiting


def test_a_site_that_waits_again_takes_its_own_place(folder: Path, hub: Hub) -> None:
    """As after a crash that the relay has not noticed."""
    first = Door(kit(folder / "berlin"), hub.address)
    until(lambda: "berlin" in hub.relay._waiting)
    before = hub.relay._waiting["berlin"]
    door = Door(kit(folder / "berlin"), hub.address)
    until(lambda: hub.relay._waiting.get("berlin") not in (None, before))
    first.close()
    found = call(kit(folder / "paris"), hub.address)
    door.came("paris").close()
    found.close()
    door.close()


def test_a_site_that_the_relay_does_not_know(folder: Path) -> None:
    hub = Hub(kit(folder / "relay", relay=True), ("berlin", "paris"))
    own = kit(folder / "rome")
    told = r"`relay` must have a kit that lists rome and berlin; got another at 127.0.0.1"
    with pytest.raises(ValueError, match=told):
        call(own, hub.address)
    assert "`relay` must have a kit that lists rome; got another at 127.0.0.1" in kept_out(own, hub.address)
    with pytest.raises(ValueError, match=r"`relay` must have a kit that lists paris and rome; got another"):
        call(kit(folder / "paris"), hub.address, "rome")
    assert any("rome, which asks for berlin: no two sites of this federation" in one for one in hub.said)
    hub.close()


def test_a_revoked_site(folder: Path, hub: Hub) -> None:
    """The relay and the sites read the new list while the relay runs."""
    own = kit(folder / "paris")
    door = Door(kit(folder / "berlin"), hub.address)
    call(own, hub.address).close()
    provisioning.revoke(folder, "paris")
    for _ in range(20):
        with pytest.raises(ValueError, match=r"`relay` must let paris in; got at 127.0.0.1:\d+: .*revoked"):
            call(own, hub.address)
    assert "`relay` must let paris in; got at 127.0.0.1" in kept_out(own, hub.address)
    assert any("certificate revoked" in one for one in hub.said)
    door.close()


def test_a_relay_or_a_site_of_another_federation(folder: Path, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = kit(kits(tmp_path / "other", False, NAMES, relayed=NAMES) / "paris")
    with pytest.raises(
        ValueError,
        match=r"`relay` must show the certificate of the relay in this federation.* got at 127.*not accepted",
    ):
        call(other, hub.address)
    until(lambda: any("unknown ca" in one for one in hub.said))


def test_a_site_that_plays_the_relay(folder: Path) -> None:
    own = kit(folder / "rome")
    hub = Hub(own)
    with pytest.raises(ValueError, match=r"`relay` must show the certificate of the relay .*Hostname mismatch"):
        call(kit(folder / "paris"), hub.address)
    hub.close()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n" * 10, b"\x16\x03\x01" + bytes(500)])
def test_strangers(hub: Hub, said: bytes) -> None:
    with socket.create_connection(hub.address) as plain:
        with contextlib.suppress(OSError):  # it may have been turned away by then
            plain.sendall(said)
            plain.shutdown(socket.SHUT_WR)
        until(lambda: hub.said)
    assert hub.said[0].startswith("turned away 127.0.0.1: ")


@pytest.mark.parametrize("said", [b"", b"FdT1", b"\0" * 45, b"FdT1\7" + b"berlin".ljust(40, b"\0"), b"\xff" * 10**5])
def test_a_site_that_says_something_else(folder: Path, hub: Hub, said: bytes) -> None:
    plain = socket.create_connection(hub.address)
    with context(kit(folder / "paris").identity, server=False).wrap_socket(plain, server_hostname="relay") as secured:
        with contextlib.suppress(OSError):
            secured.sendall(said)
            socket.socket.shutdown(secured, socket.SHUT_WR)
        until(lambda: hub.said)
    assert hub.said[0].startswith("turned away 127.0.0.1: ")


def test_no_more_connections_than_a_site_may_have(folder: Path, hub: Hub) -> None:
    hub.relay._most = 1
    door = Door(kit(folder / "berlin"), hub.address)
    first = call(kit(folder / "paris"), hub.address)
    with pytest.raises(ValueError, match=r"got too many connections of paris there"):
        call(kit(folder / "paris"), hub.address, seconds=0.5)
    door.came("paris").close()
    first.close()
    until(lambda: any("have ended" in one for one in hub.said))
    call(kit(folder / "rome"), hub.address).close()
    door.close()


class Pairs:
    """Two connections that are forwarded to one another."""

    def __init__(self) -> None:
        self.forwarding, self.ended = Forwarding(), list[tuple[int, int]]()
        self.left, first = socket.socketpair()
        second, self.right = socket.socketpair()
        for one in (first, second):
            one.setblocking(False)
        self.forwarding.add(first, second, lambda there, back: self.ended.append((there, back)))
        self.thread = threading.Thread(target=self.forwarding.run)
        self.thread.start()

    def close(self) -> None:
        self.forwarding.close()
        self.thread.join(20)
        for one in (self.left, self.right):
            one.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    found = Pairs()
    yield found
    found.close()


def test_what_the_slower_end_has_not_taken_is_not_read(pairs: Pairs) -> None:
    """However much is sent, no more than the sockets' own room and one piece is under way; all comes in order."""
    pairs.left.settimeout(1)
    sent, piece = 0, bytes(range(251)) * 1000
    with pytest.raises(TimeoutError):
        while sent < 2**28:
            sent += pairs.left.send(piece[sent % len(piece) :])
    assert sent < 2**23
    assert not pairs.ended
    came = 0
    pairs.right.settimeout(10)
    while came < sent:
        data = pairs.right.recv(2**16)
        assert data == (piece + piece)[came % len(piece) :][: len(data)]
        came += len(data)
    assert came == sent


def test_one_direction_may_end_before_the_other(pairs: Pairs) -> None:
    pairs.left.sendall(b"the last word")
    pairs.left.shutdown(socket.SHUT_WR)
    pairs.right.settimeout(10)
    pairs.left.settimeout(10)
    assert pairs.right.recv(100) == b"the last word"
    assert pairs.right.recv(100) == b""
    pairs.right.sendall(b"heard")
    assert pairs.left.recv(100) == b"heard"
    assert not pairs.ended
    pairs.right.close()
    assert pairs.left.recv(100) == b""
    until(lambda: pairs.ended)
    assert pairs.ended == [(13, 5)]


def test_an_end_that_is_gone_ends_the_other(pairs: Pairs) -> None:
    pairs.left.sendall(b"unread")
    pairs.right.close()
    pairs.left.settimeout(10)
    with contextlib.suppress(ConnectionError):
        assert pairs.left.recv(100) == b""
    pairs.left.close()
    until(lambda: pairs.ended)
    assert pairs.ended[0][1] == 0


def test_a_certificate_of_no_site(folder: Path, hub: Hub) -> None:
    """The relay's own kit is let in by TLS, and is no site."""
    own: Identity = kit(folder / "relay", relay=True).identity
    with pytest.raises(ValueError, match="`relay` must have a kit that lists relay and berlin; got another"):
        ByRelay(own, "berlin", hub.address).opened(5)
