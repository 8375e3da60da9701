"""Frames: one message between two sites as bytes, whose sizes and place in the run are checked before it is read.

    head     HEAD.size bytes: what follows, of which run, from whom to whom, at which place of the run, and checksums
    table    JSON: of a message its typed table, of all else what is said
    numbers  the bytes of a message's tensors

A receiver that finds anything else than it waits for reads no further: whatever comes, no more memory is taken than the
limits allow, and the only error is Malformed.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent.transports._message import DTYPES, Message, packed, room, unpacked

HEAD = struct.Struct("!4sHH16siiQIIIQII")
_MAGIC, _VERSION = b"FdTg", 1
MESSAGE, SAID, ABORT = 1, 2, 3  # what a frame is
TABLE = 2**22  # bytes of a table, at most: as Python objects it may take thirty times as much
_SAID = 2**16  # bytes of what is said when all ends
_DEEPEST, _MOST_TENSORS, _MOST_AXES = 60, 2**16, 16


class Malformed(ValueError):
    """What came is no frame, or not the one that is due."""


class Place(NamedTuple):
    """Where in a run a frame belongs.

    Attributes:
        run: 16 bytes that no other run has.
        source: The number of the sending process.
        target: That of the receiving one.
        verb: As of a Tag.
        leg: As of a Tag.
        wave: As of a Tag.
    """

    run: bytes
    source: int
    target: int
    verb: int = 0
    leg: int = 0
    wave: int = 0


class Head(NamedTuple):
    """kind: Of the frame. table, numbers: Their bytes. sums: Their checksums."""

    kind: int
    table: int
    numbers: int
    sums: tuple[int, int]


def framed(values: Sequence[Any], place: Place) -> tuple[bytes, memoryview]:
    """A message: head with table, and its numbers."""
    message = packed(values)
    numbers = view(message.numbers)
    return _head(MESSAGE, place, message.table, numbers) + message.table, numbers


def said(what: Any, place: Place, kind: int = SAID) -> bytes:
    """A frame without numbers that says something plain."""
    table = json.dumps(what, separators=(",", ":")).encode()
    return _head(kind, place, table, memoryview(b"")) + table


def head(data: bytes, due: Place | None, limit: int, kind: int = MESSAGE) -> Head:
    """The head of the frame that is due.

    Args:
        data: HEAD.size bytes.
        due: Whose frame, and at which place of the run; None for one that is passed over.
        limit: Bytes that its numbers may have.
        kind: What is due; an ABORT may come at any time.

    Raises:
        Malformed: Another frame, another place, or one that is too large.
    """
    magic, version, got, run, source, target, verb, leg, wave, table, numbers, *sums = HEAD.unpack(data)
    if magic != _MAGIC or version != _VERSION:
        raise Malformed(f"no frame of version {_VERSION}")
    if got not in (kind, ABORT):
        raise Malformed(f"a frame of kind {got}, and not {kind}")
    found = Place(run, source, target, verb, leg, wave)
    farewell = got == ABORT and (due is None or found[:3] == due[:3] or not any(run))  # or before there was a run
    if not farewell and due is not None and found != due:
        raise Malformed(f"a frame of another place in the run, {found[1:]}, and not {due[1:]}")
    if table > (_SAID if got == ABORT else TABLE) or numbers > (limit if got == MESSAGE else 0):
        raise Malformed(f"a frame of {table} and {numbers} bytes, where at most {TABLE} and {limit} may come")
    return Head(got, table, numbers, (sums[0], sums[1]))


def check_sums(head: Head, table: bytes, numbers: memoryview) -> None:
    """Raises Malformed where either part is not what was sent."""
    if head.sums != (zlib.crc32(table), zlib.crc32(numbers)):
        raise Malformed("a frame that was damaged on its way")


def heard(table: bytes) -> Any:
    """What was said.

    Raises:
        Malformed: It is no JSON.
    """
    try:
        return json.loads(table)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a frame whose table is no JSON ({type(error).__name__})") from error


def values(table: bytes, numbers: Tensor) -> list[Any]:
    """The values of a message; no number of it decides how much memory is taken, but the bytes that came.

    Raises:
        Malformed: A table that no sender writes.
    """
    told = heard(table)
    try:
        _check(told, len(numbers))
        return unpacked(Message(table, numbers))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        raise Malformed(f"a message that nobody sends ({type(error).__name__}: {str(error)[:100]})") from error


def view(numbers: Tensor) -> memoryview:
    """The bytes of a tensor of bytes on a CPU."""
    return numbers.numpy().data.cast("B") if len(numbers) else memoryview(b"")


def room_for(head: Head) -> Tensor:
    """Where the numbers of a frame go; its head was checked."""
    return torch.empty(head.numbers, dtype=torch.uint8)


def _head(kind: int, place: Place, table: bytes, numbers: memoryview) -> bytes:
    run, source, target, *tag = place
    sums = (zlib.crc32(table), zlib.crc32(numbers))
    return HEAD.pack(_MAGIC, _VERSION, kind, run, source, target, *tag, len(table), len(numbers), *sums)


def _check(told: Any, size: int) -> None:
    """Raises ValueError where a table is not of the form that `packed` writes, or does not fit the bytes that came."""
    if not isinstance(told, dict) or {*told} != {"values", "trees", "tensors"}:
        raise ValueError("not the parts of a table")
    if not all(isinstance(part, list) for part in told.values()) or len(told["tensors"]) > _MOST_TENSORS:
        raise ValueError("not lists, or too many tensors")
    start = 0
    for entry in told["tensors"]:
        dtype, shape, order, accelerated = entry
        axes = range(len(shape))
        if dtype not in DTYPES or len(shape) > _MOST_AXES or sorted(map(_whole, order)) != [*axes]:
            raise ValueError("no tensor")
        if not isinstance(accelerated, bool) or any(_whole(length) < 0 for length in shape):
            raise ValueError("no tensor")
        start += room(dtype, shape)
        if start > size:
            raise ValueError("more numbers than came")
    if start != size:
        raise ValueError("fewer numbers than came")
    if not all(0 <= _whole(place) < len(told["trees"]) for place in told["values"]):
        raise ValueError("no such value")
    for layout in told["trees"]:
        _check_layout(layout, len(told["tensors"]), _DEEPEST)


def _check_layout(layout: Any, tensors: int, levels: int) -> None:
    if levels == 0 or not isinstance(layout, dict) or not layout:
        raise ValueError("no value, or one of too many levels")
    kind, *rest = layout
    content = layout[kind]
    if rest != (["type"] if kind == "n" else []):
        raise ValueError("a value of two kinds")
    if kind == "t":
        if not 0 <= _whole(content) < tensors:
            raise ValueError("no such tensor")
    elif kind == "v":
        _check_plain(content)
    elif kind == "d":
        for key, part in content:
            _check_plain(key)
            _check_layout(part, tensors, levels - 1)
    elif kind in ("n", "u", "l"):
        if not isinstance(content, list):
            raise ValueError("no list")
        if kind == "n" and not (len(layout["type"]) == 2 and all(isinstance(name, str) for name in layout["type"])):
            raise ValueError("no type")
        for part in content:
            _check_layout(part, tensors, levels - 1)
    else:
        raise ValueError("an unknown kind of value")


def _check_plain(value: Any) -> None:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError("no plain value")


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("no whole number")
    return value


def farewell(table: bytes) -> tuple[str, str, bool]:
    """Why another process ends, as text that steers no terminal; whose fault it is; whether it will not be back."""
    told = None
    with suppress(ValueError, RecursionError):
        told = json.loads(table)
    if not isinstance(told, list) or [type(part) for part in told] != [str, str, bool]:
        told = ["another site has ended.", "", True]
    why, culprit, final = told
    return "".join(part if part.isprintable() else " " for part in why[:1000]), culprit[:100], final
