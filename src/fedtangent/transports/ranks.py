"""Ranks: a block of nodes on every process of torch.distributed; only what crosses a border travels, as tensors."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation.transport import Tag
from fedtangent.transports._message import Message, packed, unpacked
from fedtangent.transports._pipes import Piped

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


class _Pipes:
    def __init__(self, device: torch.device) -> None:
        self.place, self.count, self._device = dist.get_rank(), dist.get_world_size(), device

    def swap(self, tag: Tag, out: Mapping[int, Sequence[Any]], sources: Sequence[int]) -> dict[int, list[Any]]:
        messages = {target: packed(values, self._device) for target, values in out.items()}
        try:
            return self._swapped(tag, messages, sources)
        except RuntimeError as error:
            raise Lost(f"a rank has ended before {tag}: {error}") from error

    def _swapped(self, tag: Tag, messages: Mapping[int, Message], sources: Sequence[int]) -> dict[int, list[Any]]:
        heads = {target: torch.tensor([*tag, len(own.table), len(own.numbers)]) for target, own in messages.items()}
        sent = [dist.isend(head, target) for target, head in heads.items()]
        sizes = {source: torch.zeros(5, dtype=torch.int64) for source in sources}
        for source, head in sizes.items():
            dist.recv(head, source)
            if head[:3].tolist() != [*tag]:
                raise ValueError(f"rank {source} is at {Tag(*head[:3].tolist())}, and not at {tag}: it runs other code")
        came = {
            source: Message(bytes(table), torch.empty(numbers, dtype=torch.uint8, device=self._device))
            for source, (*_, table, numbers) in ((source, head.tolist()) for source, head in sizes.items())
        }
        tables = {source: _bytes(message.table) for source, message in came.items()}
        operations = []
        for target, own in messages.items():
            operations += [dist.P2POp(dist.isend, part, target) for part in _pieces(_bytes(own.table), own.numbers)]
        for source, message in came.items():
            operations += [dist.P2POp(dist.irecv, part, source) for part in _pieces(tables[source], message.numbers)]
        if operations:
            sent += dist.batch_isend_irecv(operations)
        for work in sent:
            if work is not None:
                work.wait()
        return {
            source: unpacked(Message(tables[source].numpy().tobytes(), message.numbers))
            for source, message in came.items()
        }


def _pieces(*parts: Tensor) -> list[Tensor]:
    return [piece for part in parts if len(part) for piece in torch.split(part, _PIECE)]


def _bytes(table: bytes) -> Tensor:
    return torch.frombuffer(bytearray(table), dtype=torch.uint8) if table else torch.empty(0, dtype=torch.uint8)


def _padded(part: Tensor, size: int) -> Tensor:
    return torch.cat([part, part.new_zeros(size - len(part))])
