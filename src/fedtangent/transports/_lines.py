"""Lines: the pipes between sites, a TLS connection a pair, all served by one thread and within limits."""

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fedtangent.federation.transport import Tag
from fedtangent.transports import _frames
from fedtangent.transports._frames import ABORT, HEAD, MESSAGE, SAID, Malformed, Place
from fedtangent.transports._tls import GONE, Relayed, reason

SMALL = 2**20  # bytes that a message may have before the plan is known
_PIECE = 2**18  # bytes that are handed to TLS at once
_TURN = 64  # reads or writes of one connection until the others have their turn
_PASSED_OVER = 1000  # frames that a site may have sent before its last words
_FAREWELL = 3.0  # seconds for telling the others why this process ends


class Gone(RuntimeError):
    """Another site has ended or was lost, so that nothing more will come of it; the message is one sentence.

    Attributes:
        culprit: The site whose fault it is; empty where nobody knows.
        final: Whether who has said so will not be back.
        sender: Who has said so; empty where this process has found out.
    """

    def __init__(self, why: str, culprit: str = "", final: bool = False, sender: str = "") -> None:
        super().__init__(why)
        self.culprit, self.final, self.sender = culprit, final, sender


class Lines:
    """What joins this process to others of a federation.

    Args:
        own: Which of the processes this one is, as the address book counts them.
        names: Of all of them.
        connections: To the others, by their number; not every process need have one to every other.

    Attributes:
        run: 16 bytes that no other run has; frames of any other are refused.
        limit: Bytes that the numbers of a message may have.
        patience: Seconds in which something must come of those that are waited for.
        device: Of tensors that come from another process's accelerator.
        parting: Whether others may end now.
    """

    def __init__(self, own: int, names: Sequence[str], connections: Mapping[int, ssl.SSLSocket]) -> None:
        self._own, self._names = own, [*names]
        self._order = list(range(len(names)))  # by place
        self._lines: dict[int, _Line] = {}
        self._hearing: dict[int, _Incoming] = {}
        self.meet(connections)
        self.run, self.limit, self.patience = bytes(16), SMALL, 600.0
        self.device: torch.device | str = "cpu"
        self.parting = False

    @property
    def place(self) -> int:
        """The number of this process among those of the run."""
        return self._order.index(self._own)

    @property
    def count(self) -> int:
        """How many processes there are."""
        return len(self._order)

    def name(self, place: int) -> str:
        """Of the site that runs a process."""
        return self._names[self._order[place]]

    def lead(self, leader: int, present: Sequence[int] | None = None) -> None:
        """Makes a process the first of those that take part; the others keep their order.

        Args:
            leader: Its number.
            present: The numbers of all that take part, this process's own among them; none is everybody.
        """
        taking_part = range(len(self._names)) if present is None else sorted(present)
        self._order = [leader, *(number for number in taking_part if number != leader)]
        self._lines = {number: line for number, line in self._lines.items() if number in self._order}

    def meet(self, connections: Mapping[int, ssl.SSLSocket]) -> None:
        """Takes connections to others, a new one in place of an older one."""
        for number, made in connections.items():
            if number not in self._lines or self._lines[number].socket is not made:
                self._lines[number] = _Line(self._names[number], made)
                self._hearing.pop(number, None)

    @property
    def met(self) -> set[int]:
        """The numbers of those to whom there is a connection."""
        return {*self._lines}

    def number(self, place: int) -> int:
        """The number of a process in the address book."""
        return self._order[place]

    def swap(self, tag: Tag, out: Mapping[int, Sequence[Any]], sources: Sequence[int]) -> dict[int, list[Any]]:
        for target, values in out.items():
            due = Place(self.run, self.place, target, *tag)
            self._line(target).outgoing += _parts(*_frames.framed(values, due))
        coming = {s: _Incoming(Place(self.run, s, self.place, *tag), self.limit, MESSAGE) for s in sources}
        self._serve({self._order[source]: frame for source, frame in coming.items()})
        return {source: self._understood(source, frame) for source, frame in coming.items()}

    def say(self, what: Any) -> None:
        """Tells all others something plain, before there is a run."""
        for number, line in self._lines.items():
            line.outgoing += _parts(_frames.said(what, Place(bytes(16), self._own, number)))
        self._serve({})

    def hear(self, seconds: float, leader: int | None = None) -> tuple[int, Any] | None:
        """Who says something before there is a run, and what; None after so many seconds.

        A connection that ends meanwhile is given up.

        Args:
            seconds: To wait.
            leader: Whose word counts, where that is known; what others say is passed over.

        Raises:
            Gone: Somebody says that all is over, or two start a run.
        """
        until = time.monotonic() + seconds
        while True:
            for number, line in [*self._lines.items()]:
                frame = self._hearing.setdefault(number, _Incoming(Place(bytes(16), number, self._own), 0, SAID))
                try:
                    if not frame.whole:  # it may be, where the word of another was an end
                        line.read(frame)
                except Gone as gone:
                    self._lines.pop(number).socket.close()
                    self._hearing.pop(number)
                    if gone.sender or isinstance(gone.__cause__, Malformed):
                        raise
            said = {number: self._hearing.pop(number) for number in self._lines if self._hearing[number].whole}
            said = {number: frame for number, frame in said.items() if leader in (None, number)}
            if len(said) > 1:
                names = " and ".join(self._names[number] for number in list(said)[:2])
                raise Gone(f"both {names} start a run; let one of them do it.", final=True)
            for number, frame in said.items():
                return number, self._heard(number, frame)
            left = until - time.monotonic()
            if left <= 0:
                return None
            poll = select.poll()
            for line in self._lines.values():
                poll.register(line.socket.fileno(), select.POLLIN)
            poll.poll(1000 * left)

    def end(self) -> None:
        """Closes all lines, once everybody has all that is due."""
        for line in self._lines.values():
            line.socket.close()

    def abort(self, why: str, culprit: str = "", final: bool = False) -> None:
        """Ends what the others are doing too.

        Args:
            why: One sentence that names a site.
            culprit: As of `Gone`.
            final: As of `Gone`.
        """
        told = [why[:1000], culprit, final]
        end = time.monotonic() + _FAREWELL
        for number, line in self._lines.items():
            with suppress(OSError, ValueError):
                line.socket.settimeout(0.5)
                for part in line.outgoing if line.half else ():
                    line.socket.sendall(part)
                line.socket.sendall(_frames.said(told, Place(self.run, *self._between(number)), ABORT))
                socket.socket.shutdown(line.socket, socket.SHUT_WR)
        for line in self._lines.values():  # what came and is not read would take the farewell along
            with suppress(OSError, ValueError):
                while time.monotonic() < end and line.socket.recv(_PIECE):
                    pass
            line.socket.close()

    def _between(self, number: int) -> tuple[int, int]:
        return (self.place, self._order.index(number)) if any(self.run) else (self._own, number)

    def _line(self, place: int) -> "_Line":
        return self._lines[self._order[place]]

    def _understood(self, source: int, frame: "_Incoming") -> list[Any]:
        try:
            return frame.values(self.device)
        except Malformed as error:
            raise Gone(f"{self.name(source)} sent {error}.", self.name(source)) from error

    def _heard(self, number: int, frame: "_Incoming") -> Any:
        try:
            return frame.heard()
        except Malformed as error:
            raise Gone(f"{self._names[number]} sent {error}.", self._names[number]) from error

    def _serve(self, coming: Mapping[int, "_Incoming"]) -> None:
        """Sends all that is to be sent, and reads the frames that are due."""
        begun = time.monotonic()
        while True:
            moved = False
            for number, line in self._lines.items():
                frame = coming.get(number)
                moved |= frame is not None and not frame.whole and line.read(frame)
                try:
                    moved |= bool(line.outgoing) and line.write()
                except Gone:
                    self._farewell(line, frame)
            sending = [line for line in self._lines.values() if line.outgoing]
            if not sending and all(frame.whole for frame in coming.values()):
                return
            if moved:
                begun = time.monotonic()
                continue
            reading = [self._lines[number] for number, frame in coming.items() if not frame.whole]
            left = begun + self.patience - time.monotonic()
            if left <= 0:
                late = (reading or sending)[0].name
                raise Gone(f"{late} has said nothing for {self.patience:g} seconds.", late)
            self._wait(reading, sending, left)

    def _wait(self, reading: Sequence["_Line"], sending: Sequence["_Line"], seconds: float) -> None:
        """Waits until a line can go on; one that nobody waits for must not have ended either."""
        poll, lines = select.poll(), {line.socket.fileno(): line for line in self._lines.values()}
        for number, line in lines.items():
            events = (select.POLLIN if line in reading else 0) | (select.POLLOUT if line in sending else 0)
            if events or not self.parting:
                poll.register(number, events | GONE)
        for number, events in poll.poll(1000 * max(seconds, 0)):
            line = lines[number]
            if events & GONE and line not in reading and not self.parting:
                self._farewell(line)

    def _farewell(self, line: "_Line", begun: "_Incoming | None" = None) -> None:
        """Raises why a site has ended: what it has sent before is passed over.

        Args:
            line: To the site.
            begun: A frame that may have been read in part.
        """
        frame = begun if begun is not None and begun.begun else _Incoming(None, self.limit, MESSAGE)
        with suppress(Gone):
            for _ in range(_PASSED_OVER):
                while line.read(frame):
                    if frame.whole:
                        break
                if not frame.whole:
                    break
                frame = _Incoming(None, self.limit, MESSAGE)
        raise Gone(*frame.farewell, line.name) if frame.farewell else Gone(line.ended, line.name)


class _Line:
    """One connection."""

    def __init__(self, name: str, made: ssl.SSLSocket) -> None:
        self.name, self.socket = name, made
        self.ended = f"{name} has ended, or the relay has." if isinstance(made, Relayed) else f"{name} has ended."
        self.outgoing: deque[memoryview] = deque()
        self.half = False  # whether a frame is sent in part

    def read(self, frame: "_Incoming") -> bool:
        """Reads what is there of a frame; False where nothing was.

        Raises:
            Gone: The site has ended, or says that it ends, or sends another frame.
        """
        moved = False
        for _ in range(_TURN):
            try:
                count = self.socket.recv_into(frame.wanted[:_PIECE])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return moved
            except OSError as error:
                raise self._gone(error) from error
            if not count:
                raise Gone(self.ended, self.name)
            moved = True
            try:
                frame.took(count)
            except Malformed as error:
                raise Gone(f"{self.name} sent {error}.", self.name) from error
            if frame.whole:
                if frame.farewell is not None:
                    raise Gone(*frame.farewell, self.name)
                break
        return moved

    def write(self) -> bool:
        """Sends what can be sent; False where nothing could."""
        moved = False
        for _ in range(_TURN):
            if not self.outgoing:
                self.half = False
                break
            part = self.outgoing[0]
            try:
                count = self.socket.send(part[:_PIECE])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return moved
            except OSError as error:
                raise self._gone(error) from error
            moved = self.half = True
            self.outgoing[0] = part[count:]
            if count == len(part):
                self.outgoing.popleft()
        return moved

    def _gone(self, error: OSError) -> Gone:
        """What a connection that failed tells of the other end."""
        if isinstance(error, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return Gone(self.ended, self.name)
        return Gone(f"{self.name} was lost ({reason(error)}).", self.name)


class _Incoming:
    """A frame that is due, as far as it has come.

    Attributes:
        wanted: Where the next bytes go.
        begun: Whether any have come.
        whole: Whether all have.
        farewell: Why the other end ends, where it says so instead.
    """

    def __init__(self, due: Place | None, limit: int, kind: int) -> None:
        self._due, self._limit, self._kind = due, limit, kind
        self._head: _frames.Head | None = None
        self._parts = [bytearray(HEAD.size)]
        self._numbers: Tensor = torch.empty(0, dtype=torch.uint8)
        self._left = [memoryview(self._parts[0])]
        self.begun = self.whole = False
        self.farewell: tuple[str, str, bool] | None = None

    @property
    def wanted(self) -> memoryview:
        return self._left[0]

    def took(self, count: int) -> None:
        """So many bytes have come.

        Raises:
            Malformed: They are no frame, or another than is due.
        """
        self.begun = True
        self._left[0] = self._left[0][count:]
        while self._left and not len(self._left[0]):
            self._left.pop(0)
        if not self._left and self._head is None:
            self._head = _frames.head(bytes(self._parts[0]), self._due, self._limit, self._kind)
            self._parts.append(bytearray(self._head.table))
            self._numbers = _frames.room_for(self._head)
            self._left = [part for part in (memoryview(self._parts[1]), _frames.view(self._numbers)) if len(part)]
        if not self._left and self._head is not None:
            _frames.check_sums(self._head, bytes(self._parts[1]), _frames.view(self._numbers))
            self.whole = True
            if self._head.kind == ABORT:
                self.farewell = _frames.farewell(bytes(self._parts[1]))

    def values(self, device: torch.device | str) -> list[Any]:
        """Of a message, its tensors on this device where they come from an accelerator.

        Raises:
            Malformed: It is none.
        """
        return _frames.values(bytes(self._parts[1]), self._numbers.to(device))

    def heard(self) -> Any:
        """Of what is said.

        Raises:
            Malformed: It is nothing.
        """
        return _frames.heard(bytes(self._parts[1]))


def _parts(*parts: bytes | memoryview) -> list[memoryview]:
    return [memoryview(part) for part in parts if len(part)]
