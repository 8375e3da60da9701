"""TLS: sites of one federation find one another; everybody else is turned away by one sentence; nothing falls back."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
import torch

from fedtangent.federation.transport import Tag
from fedtangent.sites import provision as provisioning
from fedtangent.sites.kit import Kit, kit
from fedtangent.transports._lines import Gone, Lines
from fedtangent.transports._tls import Address, Listener, ended, reached
from tests.sites.processes import kits, ports

NAMES = ("berlin", "paris")
RUN = bytes(range(16))


class Door:
    """The server's listener, and what it says of those whom it turns away."""

    def __init__(self, own: Kit, expected: Collection[str] = NAMES) -> None:
        self.said: list[str] = []
        self.address = own.book["server"]
        self.listener = Listener(own.identity, self.address or Address("", 0), expected, self.said.append)

    def told(self) -> str:
        end = time.monotonic() + 20
        while not self.said:
            assert time.monotonic() < end
            time.sleep(0.01)
        return self.said[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return kits(tmp_path, True, NAMES)


@pytest.fixture
def door(folder: Path) -> Iterator[Door]:
    found = Door(kit(folder / "server"))
    yield found
    found.listener.close()


def call(own: Kit, door: Door, name: str = "server") -> ssl.SSLSocket:
    assert door.address is not None
    return reached(own.identity, name, door.address, time.monotonic() + 5)


def context(own: Kit) -> ssl.SSLContext:
    """A client's that checks nothing, with the site's certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.load_cert_chain(own.identity.certificate, own.identity.key)
    return made


def refused(made: ssl.SSLContext, door: Door) -> str:
    """What the listener says of a client that is let down."""
    assert door.address is not None
    with contextlib.suppress(OSError), socket.create_connection(door.address) as plain, made.wrap_socket(plain) as own:
        own.settimeout(10)
        assert own.recv(1) == b""
    return door.told()


def test_sites_of_one_federation_are_joined_by_tls_1_3(folder: Path, door: Door) -> None:
    with call(kit(folder / "paris"), door) as found:
        assert found.version() == "TLSv1.3"
        end = time.monotonic() + 10
        while "paris" not in door.listener.came():
            assert time.monotonic() < end
    assert not door.said
    door.listener.came()["paris"].close()


def test_a_client_without_tls(door: Door) -> None:
    assert door.address is not None
    with socket.create_connection(door.address) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n" * 10)
        assert door.told() == "turned away 127.0.0.1: no TLS"


def test_a_client_of_tls_1_2(folder: Path, door: Door) -> None:
    made = context(kit(folder / "paris"))
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    assert "an older TLS than 1.3" in refused(made, door)


def test_a_client_without_a_certificate(door: Door) -> None:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    assert "no certificate" in refused(made, door)


def test_a_client_of_another_federation(door: Door, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = kit(kits(tmp_path / "other", True, NAMES) / "paris")
    with pytest.raises(ValueError, match=r"`server` must show the certificate of server .* not accepted"):
        call(other, door)
    assert "unknown ca" in door.told()
    door.said.clear()
    assert "not accepted" in refused(context(other), door)


def test_a_server_of_another_name(folder: Path, door: Door) -> None:
    with pytest.raises(ValueError, match=r"`paris` must show the certificate of paris .*Hostname mismatch"):
        call(kit(folder / "berlin"), door, "paris")


def test_a_site_that_comes_again_takes_the_place_of_its_older_connection(folder: Path, door: Door) -> None:
    first = call(kit(folder / "paris"), door)
    while "paris" not in door.listener.came():
        time.sleep(0.01)
    older = door.listener.came()["paris"]
    assert not ended(first)
    second = call(kit(folder / "paris"), door)
    while door.listener.came()["paris"] is older:
        time.sleep(0.01)
    assert ended(older) and older.fileno() >= 0 and not ended(second)  # whoever reads the older one closes it
    older.close()
    taken = door.listener.take("paris")
    assert taken is not None and door.listener.take("paris") is None
    taken.close()
    end = time.monotonic() + 10
    while not ended(second):
        assert time.monotonic() < end
    for one in (first, second):
        one.close()


def joined(own: Kit, door: Door) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both ends of a connection, made in another thread."""
    found: list[ssl.SSLSocket] = []
    caller = threading.Thread(target=lambda: found.append(call(own, door)))
    caller.start()
    caller.join()
    end = time.monotonic() + 10
    while (other := door.listener.take(own.name)) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return found[0], other


@pytest.mark.parametrize("broken", ["send", "recv"])
def test_a_connection_that_has_failed_leaves_another_alone(broken: str, folder: Path, door: Door) -> None:
    """What newer releases of Python leave in the thread; a handshake in it would hide that, so there is none."""
    (lost, gone), (whole, other) = (joined(kit(folder / "paris"), door) for _ in range(2))
    with pytest.raises(ssl.SSLWantReadError):
        lost.recv(1)
    if broken == "recv":
        socket.socket.shutdown(lost, socket.SHUT_WR)
    socket.socket.shutdown(gone, socket.SHUT_RDWR)
    gone.close()
    end = time.monotonic() + 10
    while not ended(lost):
        assert time.monotonic() < end
    for _ in range(2):
        with contextlib.suppress(OSError):
            lost.sendall(bytes(1000)) if broken == "send" else lost.recv(1)
    with pytest.raises(ssl.SSLWantReadError):
        whole.recv(1)
    other.send(b"x")
    whole.settimeout(10)
    assert whole.recv(1) == b"x"
    for one in (lost, whole, other):
        one.close()


def test_a_site_that_is_not_expected(folder: Path) -> None:
    door = Door(kit(folder / "server"), ["berlin"])
    with call(kit(folder / "paris"), door) as found:
        found.settimeout(10)
        assert found.recv(1) == b""
    assert door.told() == "turned away 127.0.0.1, which shows the certificate of 'paris': it is not expected"
    assert not door.listener.came()
    door.listener.close()


def test_a_revoked_certificate(folder: Path) -> None:
    provisioning.revoke(folder, "paris")
    door = Door(kit(folder / "server"))
    assert "certificate revoked" in refused(context(kit(folder / "paris")), door)
    door.listener.close()


def test_an_expired_certificate(tmp_path: Path) -> None:
    folder = kits(tmp_path, True, NAMES, days=1e-6)
    time.sleep(1.2)
    with pytest.raises(ValueError, match=r"must hold a certificate that is valid now; got one that expired on"):
        kit(folder / "paris")
    own = Kit(folder / "server", "hearts", "server", {"server": Address("127.0.0.1", ports(1)[0])}, None)  # type: ignore[arg-type]
    door = Door(own)
    with pytest.raises(ValueError, match="certificate has expired"):
        call(own._replace(folder=folder / "paris", name="paris"), door)
    assert "expired" in door.told()
    door.said.clear()
    assert "certificate has expired" in refused(context(own._replace(folder=folder / "paris")), door)
    door.listener.close()


def test_a_port_in_use(folder: Path, door: Door) -> None:
    with pytest.raises(
        ValueError, match=r"`address` must be one where this site can listen; got 127.0.0.1:\d+ \(address "
    ):
        Door(kit(folder / "server"))


def test_nobody_there(folder: Path) -> None:
    own = kit(folder / "paris")
    with pytest.raises(ValueError, match=r"`server` must be reached at 127.0.0.1:1; got Connection refused. Start"):
        reached(own.identity, "server", Address("127.0.0.1", 1), time.monotonic() + 0.5)


@pytest.fixture
def ends(folder: Path, door: Door) -> Iterator[tuple[Lines, ssl.SSLSocket]]:
    """The server's lines to paris, and the connection of paris."""
    theirs = call(kit(folder / "paris"), door)
    while "paris" not in door.listener.came():
        time.sleep(0.01)
    lines = Lines(0, ["server", "paris"], {1: door.listener.came()["paris"]})
    lines.run, lines.patience = RUN, 20.0
    yield lines, theirs
    theirs.close()
    lines.end()


def test_large_messages_cross_each_other(ends: tuple[Lines, ssl.SSLSocket]) -> None:
    lines, theirs = ends
    other = Lines(1, ["server", "paris"], {0: theirs})
    lines.limit = other.limit = 2**26
    other.run, x, y = RUN, torch.rand(2**23), torch.rand(2**22)
    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.extend(other.swap(Tag(1), {0: [y]}, [0])[0]))
    thread.start()
    (came,) = lines.swap(Tag(1), {1: [x]}, [1])[1]
    thread.join()
    assert torch.equal(came, y)
    assert torch.equal(found[0], x)


@pytest.mark.parametrize("hostile", [b"\0" * 500, b"FdTg" + b"\xff" * 500], ids=["zeros", "ones"])
def test_a_site_that_sends_something_else(ends: tuple[Lines, ssl.SSLSocket], hostile: bytes) -> None:
    lines, theirs = ends
    theirs.send(hostile)
    with pytest.raises(Gone, match=r"^paris sent no frame of version 1\.$"):
        lines.swap(Tag(1), {}, [1])


def test_a_site_that_ends_in_the_middle_of_a_frame(ends: tuple[Lines, ssl.SSLSocket]) -> None:
    lines, theirs = ends
    theirs.send(b"FdTg\0\1")
    theirs.close()
    with pytest.raises(Gone, match=r"^paris has ended\.$"):
        lines.swap(Tag(1), {}, [1])


def test_a_site_that_says_nothing(ends: tuple[Lines, ssl.SSLSocket]) -> None:
    lines, _ = ends
    lines.patience = 0.3
    begin = time.monotonic()
    with pytest.raises(Gone, match=r"^paris has said nothing for 0\.3 seconds\.$"):
        lines.swap(Tag(1), {}, [1])
    assert time.monotonic() - begin < 5


def test_a_message_over_the_limit(ends: tuple[Lines, ssl.SSLSocket]) -> None:
    lines, theirs = ends
    other = Lines(1, ["server", "paris"], {0: theirs})
    other.run, lines.limit = RUN, 1000
    other.swap(Tag(1), {0: [torch.rand(1000)]}, [])
    with pytest.raises(
        Gone, match=r"^paris sent a frame of \d+ and 4032 bytes, where at most \d+ and 1000 may come\.$"
    ):
        lines.swap(Tag(1), {}, [1])


def test_a_replayed_message(ends: tuple[Lines, ssl.SSLSocket]) -> None:
    lines, theirs = ends
    other = Lines(1, ["server", "paris"], {0: theirs})
    other.run = RUN
    for _ in range(2):
        other.swap(Tag(1), {0: [1]}, [])
    assert lines.swap(Tag(1), {}, [1]) == {1: [1]}
    with pytest.raises(Gone, match=r"^paris sent a frame of another place in the run"):
        lines.swap(Tag(2), {}, [1])


def test_why_another_ends_is_told_after_what_it_has_sent_before(ends: tuple[Lines, ssl.SSLSocket]) -> None:
    """Nothing is due of paris, which has sent two messages ahead: a third site is waited for."""
    lines, theirs = ends
    other = Lines(1, ["server", "paris"], {0: theirs})
    other.run = RUN
    for verb in (1, 2):
        other.swap(Tag(verb), {0: [torch.rand(100)]}, [])
    thread = threading.Thread(target=other.abort, args=("berlin has ended.",))
    thread.start()
    lines.patience = 10.0
    with pytest.raises(Gone, match=r"^berlin has ended\.$"):
        lines._wait([], [], 10.0)
    lines.end()
    thread.join()


def test_why_another_ends_is_told_though_its_messages_were_not_read(ends: tuple[Lines, ssl.SSLSocket]) -> None:
    lines, theirs = ends
    other = Lines(1, ["server", "paris"], {0: theirs})
    other.run = RUN
    lines.swap(Tag(1), {1: [torch.rand(1000)]}, [])
    thread = threading.Thread(target=other.abort, args=("berlin has ended.",))
    thread.start()
    with pytest.raises(Gone, match=r"^berlin has ended\.$"):
        lines.swap(Tag(2), {}, [1])
    lines.end()
    thread.join()


def test_what_is_said_before_a_run_is_heard_once_and_from_the_leader_where_there_is_one(
    ends: tuple[Lines, ssl.SSLSocket],
) -> None:
    lines, theirs = ends
    other = Lines(1, ["server", "paris"], {0: theirs})
    assert lines.hear(0.05) is None
    other.say({"a": 1})
    assert lines.hear(10) == (1, {"a": 1})
    other.say({"a": 2})
    assert lines.hear(0.5, leader=0) is None  # of somebody else
    other.say({"a": 3})
    assert lines.hear(10, leader=1) == (1, {"a": 3})
    lines.run = other.run = bytes(16)
    other.abort("paris was stopped.", "paris", final=True)
    with pytest.raises(Gone, match=r"^paris was stopped\.$") as gone:
        lines.hear(10, leader=1)
    assert (gone.value.sender, gone.value.final) == ("paris", True)
    assert not lines.met


def test_what_was_said_is_heard_though_another_has_ended_meanwhile(folder: Path) -> None:
    """Of berlin and paris the second says that it ends, when the word of the first has come already."""
    door = Door(kit(folder / "server"))
    theirs = {name: call(kit(folder / name), door) for name in NAMES}
    while len(door.listener.came()) < 2:
        time.sleep(0.01)
    names = ["server", *NAMES]
    lines = Lines(0, names, {names.index(name): made for name, made in door.listener.came().items()})
    berlin, paris = (Lines(names.index(name), names, {0: theirs[name]}) for name in NAMES)
    berlin.say({"a": 1})
    thread = threading.Thread(target=paris.abort, args=("paris was stopped.", "paris"))
    thread.start()
    time.sleep(0.3)
    with pytest.raises(Gone, match=r"^paris was stopped\.$"):
        lines.hear(10, leader=1)
    assert lines.hear(10, leader=1) == (1, {"a": 1})
    thread.join()
    berlin.end()
    lines.end()
    door.listener.close()
