"""Memory that ranks of one machine share: written on again as soon as nobody holds what was there, and not before."""

import gc
import os
import sys

import pytest
import torch

from fedtangent.transports import _shared
from fedtangent.transports._message import Message, packed, unpacked
from fedtangent.transports._shared import Shared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has memory files without a name")
ENOUGH = _shared._LEAST


def written(writer: Shared, value: int, size: int = ENOUGH) -> int:
    """The number of the file in which so many bytes are this value."""
    found = writer.room(size)
    assert found is not None
    file, place = found
    place.fill_(value)
    return file


def test_what_one_process_writes_the_other_reads_where_it_lies() -> None:
    writer, reader = Shared(), Shared()
    assert reader.sees(writer.address)
    found = writer.room(ENOUGH)
    assert found is not None
    file, place = found
    read = reader.read(writer.address.process, file, ENOUGH)
    place.copy_(torch.arange(ENOUGH) % 251)
    assert torch.equal(read, place)


def test_what_is_held_is_not_written_on_and_what_is_not_is() -> None:
    writer, reader = Shared(), Shared()
    first, second = written(writer, 1), written(writer, 2)
    assert second != first
    held = [reader.read(os.getpid(), file, ENOUGH) for file in (first, second)]
    part = held.pop()[5:7]
    assert written(writer, 3) not in (first, second)
    assert [held[0].unique().tolist(), part.tolist()] == [[1], [2, 2]]
    del held
    gc.collect()
    assert written(writer, 4) == first
    assert part.tolist() == [2, 2]
    del part
    gc.collect()
    assert written(writer, 5) == second


def test_a_tensor_of_a_message_holds_it() -> None:
    writer, reader = Shared(), Shared()
    files: list[int] = []

    def room(size: int) -> torch.Tensor:
        found = writer.room(size)
        assert found is not None
        files.append(found[0])
        return found[1]

    values = [{"w": torch.rand(300, 200), "b": torch.rand(7)}]
    message = packed(values, room=room)
    (found,) = unpacked(Message(message.table, reader.read(os.getpid(), files[0], len(message.numbers))))
    b = found.pop("b")
    assert torch.equal(found["w"], values[0]["w"])
    del found
    gc.collect()
    assert written(writer, 0) != files[0]
    assert torch.equal(b, values[0]["b"])
    del b
    gc.collect()
    assert written(writer, 0) == files[0]


def test_what_is_too_small_for_a_message_grows() -> None:
    writer, reader = Shared(), Shared()
    file = written(writer, 1)
    reader.read(os.getpid(), file, ENOUGH)
    gc.collect()
    assert written(writer, 2, 3 * ENOUGH) == file
    assert reader.read(os.getpid(), file, 3 * ENOUGH).unique().tolist() == [2]


def test_the_smallest_that_suits_is_taken() -> None:
    writer, reader = Shared(), Shared()
    sizes = {written(writer, 0, times * ENOUGH): times for times in (5, 2, 3)}
    for file in sizes:
        reader.read(os.getpid(), file, ENOUGH)
    gc.collect()
    assert [sizes[written(writer, 0, 2 * ENOUGH - less)] for less in (100, 0)] == [2, 3]


def test_little_and_more_than_is_to_be_kept_go_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Shared()
    monkeypatch.setattr(_shared, "_MOST", 3 * ENOUGH)
    assert writer.room(ENOUGH - 1) is None
    written(writer, 0, 2 * ENOUGH)
    assert writer.room(ENOUGH) is None


def test_another_machine_s_memory_is_not_seen() -> None:
    other, reader = Shared(), Shared()
    assert not reader.sees(other.address._replace(name=1))
    assert not reader.sees(other.address._replace(process=2**22 + 1))


def test_without_such_files_everything_goes_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    writer = Shared()
    assert writer.room(ENOUGH) is None
    assert not Shared().sees(writer.address)


def test_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    writer, reader = Shared(), Shared()
    reader.read(os.getpid(), written(writer, 1), ENOUGH)
    del writer, reader
    gc.collect()
    assert os.listdir("/proc/self/fd") == before
