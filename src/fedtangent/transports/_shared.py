"""Memory that processes of one machine share: the numbers of a message are written once, and read where they lie.

Fresh memory costs several times a copy, for its pages must be found and cleared: what nobody holds any more is written
on again. It has no name in any folder, so that nothing is left behind, and is gone with the last process that has it.
"""

import mmap
import os
import secrets
import weakref
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_LEAST, _MOST = 2**16, 2**30  # bytes of a message that is worth it, and of all that one process has written
_HEAD = 64  # bytes before the numbers, the first of which tells whether their reader holds them


class Address(NamedTuple):
    """By which another process finds out whether it sees this one's memory: one of its files, and that file's name."""

    process: int
    file: int
    name: int


class Shared:
    """What this process has written for others of its machine, and what they have written for it."""

    def __init__(self) -> None:
        self._able = hasattr(os, "memfd_create")
        name = secrets.randbits(62)
        self._files = [os.memfd_create(str(name))] if self._able else [-1]
        self.address = Address(os.getpid(), self._files[0], name)
        self._own: dict[int, mmap.mmap] = {}
        self._theirs: dict[tuple[int, int], mmap.mmap] = {}
        weakref.finalize(self, _close, self._files)

    def sees(self, other: Address) -> bool:
        """Whether another process's memory can be read here."""
        try:
            return os.readlink(_path(other.process, other.file)) == f"/memfd:{other.name} (deleted)"
        except OSError:
            return False

    def room(self, size: int) -> tuple[int, Tensor] | None:
        """The number of a file and so many bytes of it to be written, once; None where other ways are as good."""
        if not self._able or size < _LEAST:
            return None
        free = sorted((len(memory), file) for file, memory in self._own.items() if not memory[0])
        file = next((file for length, file in free if length >= _HEAD + size), None)
        if file is None:
            length, file = free[-1] if free else (0, -1)
            if sum(map(len, self._own.values())) - length + _HEAD + size > _MOST:
                return None
            if file < 0:
                self._files.append(file := os.memfd_create("message"))
            os.ftruncate(file, _HEAD + size)
            self._own[file] = mmap.mmap(file, _HEAD + size)
        self._own[file][0] = 1
        return file, torch.frombuffer(self._own[file], dtype=torch.uint8, count=size, offset=_HEAD)

    def read(self, process: int, file: int, size: int) -> Tensor:
        """The bytes that another process has written; once nothing of them is held here, it writes there again."""
        memory = self._theirs.get((process, file))
        if memory is None or len(memory) < _HEAD + size:
            opened = os.open(_path(process, file), os.O_RDWR)
            try:
                memory = self._theirs[process, file] = mmap.mmap(opened, 0)
            finally:
                os.close(opened)
        held = np.frombuffer(memory, np.uint8, size, _HEAD)
        weakref.finalize(held, memory.__setitem__, 0, 0).atexit = False
        return torch.from_numpy(held)


def _path(process: int, file: int) -> str:
    return f"/proc/{process}/fd/{file}"


def _close(files: list[int]) -> None:
    for file in files:
        if file >= 0:
            os.close(file)
