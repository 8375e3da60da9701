"""Ranks: a block of nodes on every process of torch.distributed; only what crosses a border travels, as tensors.

Between CPUs of one machine the numbers go through memory that both ranks see, and the rest by gloo, as everything does
between machines.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation.transport import Tag
from fedtangent.transports._message import Message, packed, unpacked
from fedtangent.transports._pipes import Piped
from fedtangent.transports._shared import Address, Shared

_PIECE = 2**30  # bytes that are sent at once
_WAIT = timedelta(hours=24)  # for another rank's wave, evaluation or data set; a rank that is gone is told at once


class Lost(RuntimeError):
    """Another rank has ended, so that nothing more will come of it."""


def rank() -> int | None:
    """The number of this process among ranks, as torchrun gives it; None where it is alone."""
    return int(os.environ["RANK"]) if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ else None


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """Inside, this process is one of those that torchrun, or whatever set its variables, has started.

    Args:
        device: cpu, where messages travel by gloo, or cuda, where they travel by NCCL, a GPU a rank.

    Raises:
        ValueError: There is no GPU for this rank, or the address cannot be had.
    """
    cuda = device.split(":")[0] == "cuda" and torch.cuda.is_available()  # else the setup says that there is none
    place = int(os.environ.get("LOCAL_RANK", "0"))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_WAIT)
    except (RuntimeError, ValueError, OSError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise SettingError(
            f"`MASTER_ADDR` and `MASTER_PORT` must be an address where the ranks can meet; got {address} "
            f"({' '.join(str(error).split())[:160]}). Choose a free port."
        ) from error
    try:
        if cuda and place < torch.cuda.device_count():
            torch.cuda.set_device(place)
        yield
    finally:
        dist.destroy_process_group()


def everybody(value: Any) -> list[Any]:
    """Every rank's value, a tree of tensors and plain values, in their order."""
    own = packed([value])
    sizes = [torch.zeros(2, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(own.table), len(own.numbers)]))
    longest = max(int(size.sum()) for size in sizes)
    parts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, _padded(torch.cat([_bytes(own.table), own.numbers]), longest))
    return [
        unpacked(Message(part[:table].numpy().tobytes(), part[table : table + numbers].clone()))[0]
        for part, (table, numbers) in zip(parts, [size.tolist() for size in sizes], strict=True)
    ]


def ranks(rows: Sequence[int], device: torch.device | str = "cpu") -> Piped:
    """The transport between the ranks, a contiguous block of nodes on each.

    Args:
        rows: Of every node: blocks are cut so that their rows are about as many.
        device: Of the tensors that come from another rank's accelerator.

    Raises:
        ValueError: More ranks than nodes.
    """
    count = dist.get_world_size()
    if count > len(rows):
        raise SettingError(f"`ranks` must be at most the nodes, {len(rows)}; got {count}. Start fewer.")
    return Piped("ranks", _Pipes(torch.device(device)), dict(enumerate(cut(rows, count))))


def cut(rows: Sequence[int], count: int) -> list[int]:
    """The block of every node: contiguous blocks, as many as asked for, none of them empty, of about as many rows."""
    places: list[int] = []
    before, total = 0, sum(rows)
    for node, own in enumerate(rows):
        wanted = int(count * (before + own / 2) / total)
        last = places[-1] if places else -1
        least = count - (len(rows) - node)  # so that those that follow can fill the blocks that are left
        places.append(max(min(wanted, last + 1, count - 1), last, least, 0))
        before += own
    return places


class _Head(NamedTuple):
    """What goes before a message.

    Attributes:
        tag: Of the verb.
        table: Bytes.
        numbers: Bytes.
        file: Where the numbers are in the sender's memory; -1 where they are sent.
        address: Of that memory.
        sees: Whether the sender sees the receiver's own.
    """

    tag: Tag
    table: int
    numbers: int
    file: int
    address: Address
    sees: bool

    def told(self) -> Tensor:
        """As numbers."""
        return torch.tensor([*self.tag, self.table, self.numbers, self.file, *self.address, self.sees])

    @classmethod
    def read(cls, told: Tensor) -> "_Head":
        """Of its numbers."""
        *tag, table, numbers, file, process, home, name, sees = told.tolist()
        return cls(Tag(*tag), table, numbers, file, Address(process, home, name), bool(sees))


class _Pipes:
    def __init__(self, device: torch.device) -> None:
        self.place, self.count, self._device = dist.get_rank(), dist.get_world_size(), device
        self._shared = Shared()
        self._sees: dict[int, bool] = {}  # of which ranks this one sees the memory
        self._seen: set[int] = set()  # which ranks see that of this one

    def swap(self, tag: Tag, out: Mapping[int, Sequence[Any]], sources: Sequence[int]) -> dict[int, list[Any]]:
        files: dict[int, int] = {}
        messages = {
            target: packed(values, self._device, partial(self._room, files, target)) for target, values in out.items()
        }
        try:
            return self._swapped(tag, messages, files, sources)
        except RuntimeError as error:
            raise Lost(f"a rank has ended before {tag}: {error}") from error

    def _swapped(
        self, tag: Tag, messages: Mapping[int, Message], files: Mapping[int, int], sources: Sequence[int]
    ) -> dict[int, list[Any]]:
        heads = {}
        for target, own in messages.items():
            file, sees = files.get(target, -1), self._sees.get(target, False)
            heads[target] = _Head(tag, len(own.table), len(own.numbers), file, self._shared.address, sees).told()
        sent = [dist.isend(head, target) for target, head in heads.items()]
        came = {source: self._announced(source, tag) for source in sources}
        operations = []
        for target, own in messages.items():
            parts = [_bytes(own.table), *([] if target in files else [own.numbers])]
            operations += [dist.P2POp(dist.isend, part, target) for part in _pieces(*parts)]
        for source, (table, numbers, here) in came.items():
            parts = [table, *([] if here else [numbers])]
            operations += [dist.P2POp(dist.irecv, part, source) for part in _pieces(*parts)]
        if operations:
            sent += dist.batch_isend_irecv(operations)
        for work in sent:
            if work is not None:
                work.wait()
        return {
            source: unpacked(Message(table.numpy().tobytes(), numbers)) for source, (table, numbers, _) in came.items()
        }

    def _announced(self, source: int, tag: Tag) -> tuple[Tensor, Tensor, bool]:
        """Where a message is to be put, its table and its numbers, and whether these are there already."""
        told = torch.zeros(10, dtype=torch.int64)
        dist.recv(told, source)
        head = _Head.read(told)
        if head.tag != tag:
            raise ValueError(f"rank {source} is at {head.tag}, and not at {tag}: it runs other code")
        if source not in self._sees:
            self._sees[source] = self._shared.sees(head.address)
        if head.sees:
            self._seen.add(source)
        table = torch.empty(head.table, dtype=torch.uint8)
        if head.file >= 0:
            return table, self._shared.read(head.address.process, head.file, head.numbers), True
        return table, torch.empty(head.numbers, dtype=torch.uint8, device=self._device), False

    def _room(self, files: dict[int, int], target: int, size: int) -> Tensor:
        """Where the numbers for another rank are put; in memory that it sees, the file's number is kept."""
        own = self._shared.room(size) if target in self._seen and self._device.type == "cpu" else None
        if own is None:
            return torch.empty(size, dtype=torch.uint8, device=self._device)
        files[target] = own[0]
        return own[1]


def _pieces(*parts: Tensor) -> list[Tensor]:
    return [piece for part in parts if len(part) for piece in torch.split(part, _PIECE)]


def _bytes(table: bytes) -> Tensor:
    return torch.frombuffer(bytearray(table), dtype=torch.uint8) if table else torch.empty(0, dtype=torch.uint8)


def _padded(part: Tensor, size: int) -> Tensor:
    return torch.cat([part, part.new_zeros(size - len(part))])
