"""What a process of a federation does wrong, once, in a run: it dies, or sends what no other should take."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from fedtangent import trees
from fedtangent.experiments import share
from fedtangent.sites import agreement, kit, signatures, sitting
from fedtangent.transports import _frames
from fedtangent.transports._frames import HEAD, Place

Frame = tuple[bytes, memoryview]
_MESSAGE = 3  # of this process, from 1, that is another than it should be: nobody has begun round 3


def _tensors(change: Callable[[Any], Any], value: Any) -> Any:
    return trees.map(lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf, value)


def _head(frame: Frame, place: Place) -> Frame:
    """The same frame at another place of the run, its checksums right."""
    *first, _run, _source, _target, _verb, _leg, _wave, table, numbers, one, two = HEAD.unpack(frame[0][: HEAD.size])
    return HEAD.pack(*first, *place, table, numbers, one, two) + frame[0][HEAD.size :], frame[1]


def _table(place: Place, table: bytes) -> Frame:
    """A message of a table alone."""
    return _frames._head(_frames.MESSAGE, place, table, memoryview(b"")) + table, memoryview(b"")


def _longer(leaf: torch.Tensor) -> torch.Tensor:
    """The same number of axes, every one of them longer by one; a single number as it is."""
    return leaf.new_ones([length + 1 for length in leaf.shape]) if leaf.dim() else leaf


def _die(frame: Frame, place: Place) -> Frame:
    os.kill(os.getpid(), signal.SIGKILL)
    return frame


def _long(frame: Frame, place: Place) -> Frame:
    """A head that announces a petabyte."""
    told = bytearray(frame[0])
    struct.pack_into("!Q", told, HEAD.size - 16, 2**50)
    return bytes(told), frame[1]


FRAMES: dict[str, Callable[[Frame, Place], Frame]] = {
    "die": _die,
    "twice": lambda frame, place: (frame[0], memoryview(bytes(frame[1]) + frame[0] + bytes(frame[1]))),
    "late": lambda frame, place: _head(frame, place._replace(verb=place.verb - 1)),
    "early": lambda frame, place: _head(frame, place._replace(verb=place.verb + 1)),
    "of another run": lambda frame, place: _head(frame, place._replace(run=bytes(range(16)))),
    "of another sender": lambda frame, place: _head(frame, place._replace(source=place.source + 1)),
    "long": _long,
    "short": lambda frame, place: (frame[0], frame[1][: len(frame[1]) // 2]),
    "trailing": lambda frame, place: (frame[0], memoryview(bytes(frame[1]) + b"more")),
    "deep": lambda frame, place: _table(place, b'{"v":' * 5000 + b"1" + b"}" * 5000),
    "tensors": lambda frame, place: _table(
        place, json.dumps({"values": [], "trees": [], "tensors": [["float32", [0], [0], False]] * 10**5}).encode()
    ),
}
VALUES: dict[str, Callable[[Any], Any]] = {
    "shape": lambda value: _tensors(lambda leaf: torch.stack([leaf, leaf]), value),
    "dtype": lambda value: _tensors(lambda leaf: leaf.to(torch.int32), value),
    "keys": lambda value: {"other": value},
    "axes": lambda value: _tensors(lambda leaf: leaf.reshape(-1), value),
    "length": lambda value: _tensors(_longer, value),
}


def told(variables: dict[str, str], log: Path) -> None:
    """Makes this process do what its environment says."""
    if lie := variables.get("LIE"):
        _message(lie, int(variables.get("LIE_AT", _MESSAGE)), log.with_suffix(".lied"))
    if rows := variables.get("ROWS"):  # that a site claims to have
        profile = share.profile
        agreement.profile = lambda *given: profile(*given) | {"rows": json.loads(rows)}  # type: ignore[attr-defined]
    if most := variables.get("LARGEST_FILE"):  # as where a disk is full: what writes more fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    if more := variables.get("MORE_FILES"):  # than are open now
        most = len(os.listdir("/proc/self/fd")) + int(more)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if other := variables.get("OTHER_CODE"):  # as a site has whose package was edited
        agreement.code = lambda: other
    if other := variables.get("OTHER_VERSION"):
        sitting.__version__ = other  # type: ignore[attr-defined]
    if ahead := variables.get("CLOCK"):
        _clock(float(ahead))
    if seconds := variables.get("SLOW"):
        _slow(float(seconds))
    if syncs := variables.get("DIE_AT"):
        _dying(int(syncs))


def _message(lie: str, at: int, once: Path) -> None:
    """Changes one message, of this process and its successors."""
    count, framed = 0, _frames.framed

    def changed(values: Any, place: Place) -> Frame:
        nonlocal count
        right = framed(values, place)
        count += place.verb > 0 and len(right[1]) > 0
        if place.verb == 0 or not len(right[1]) or count < at or once.exists():
            return right
        once.touch()
        if lie in FRAMES:
            return FRAMES[lie](right, place)
        wrong = framed([VALUES[lie](value) for value in values], place)
        if wrong == framed([_tensors(lambda leaf: leaf, value) for value in values], place):  # nothing to lie about
            once.unlink()
        return wrong

    _frames.framed = changed


def _slow(seconds: float) -> None:
    """Makes this process take so long before every message, so that there is time in which to do something to it."""
    framed = _frames.framed

    def late(values: Any, place: Place) -> Frame:
        time.sleep(seconds)
        return framed(values, place)

    _frames.framed = late


def _clock(ahead: float) -> None:
    """Makes this process's wall clock wrong, but for that of OpenSSL."""
    right = time.time

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=ahead)

    time.time = lambda: right() + ahead
    kit.datetime = signatures.datetime = Wrong  # type: ignore[misc]


def _dying(left: int) -> None:
    """Kills this process where it makes sure for the n-th time that something is on its disk."""
    fsync = os.fsync

    def last(handle: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = last
