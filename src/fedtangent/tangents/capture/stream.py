"""Samples that arrive batch by batch, from a loader or from any iterable that starts anew, in blocks of one size."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.tangents.capture.samples import Samples, checked, leaves, shape


class Stream:
    """Samples in blocks; made by `stream`. Holds no more than a block and the batch that a loader gives.

    Attributes:
        name: What its samples are called.
    """

    def __init__(self, name: str, source: Samples | Iterable[Any], device: torch.device) -> None:
        self.name, self._source, self._device = name, source, device
        self._shape: Any = None

    def first(self, count: int) -> Samples:
        """The first few samples, at most `count`."""
        few = next(self.blocks(count), None)
        if few is None:
            raise SettingError(f"`{self.name}` must hold batches of samples; got none. Look at the loader.")
        return few

    def blocks(self, size: int, start: int = 0) -> Iterator[Samples]:
        """Blocks of `size` samples, the last of the rest, from the block `start` on; those before are read, not kept.

        Raises:
            TypeError: A batch that holds no samples as tensors.
            ValueError: Samples that are not finite, or of another shape than the first.
        """
        held: list[Samples] = []
        count = number = 0
        for batch in self._batches():
            while len(batch):
                part, batch = batch[: size - count], batch[size - count :]
                held.append(part)
                count += len(part)
                if count < size:
                    break
                if number >= start:
                    yield self._block(held)
                held, count, number = [], 0, number + 1
        if held and number >= start:
            yield self._block(held)

    def _batches(self) -> Iterator[Samples]:
        source = self._source
        if isinstance(source, Tensor) or not isinstance(source, Iterable):
            yield source
            return
        for batch in source:
            # torch's loaders make a list of samples and labels
            own = batch[0] if isinstance(batch, list) and batch else batch
            own = checked(own, None, self.name)[0]
            self._shape = shape(own) if self._shape is None else self._shape
            if shape(own) != self._shape:
                raise SettingError(
                    f"`{self.name}` must hold samples of one shape; got {self._shape} and {shape(own)}. Pad them."
                )
            yield own

    def _block(self, held: list[Samples]) -> Samples:
        whole = held[0] if len(held) == 1 else trees.map(lambda *parts: torch.cat(parts), *held)
        return trees.map(lambda leaf: leaf.to(self._device), whole)  # type: ignore[no-any-return]


def stream(name: str, x: Any, device: torch.device) -> Stream:
    """Samples, or an iterable of batches of them, as a stream to a device.

    Raises:
        TypeError: What holds neither samples nor batches.
        ValueError: What can be gone through once only; samples that are not finite.
    """
    if isinstance(x, (Mapping, tuple)) or not isinstance(x, Iterable) or hasattr(x, "__array__"):
        return Stream(name, checked(x, None, name)[0], device)
    if isinstance(x, (str, bytes)):
        raise SettingTypeError(f"`{name}` must hold batches of samples; got {type(x).__name__}. Give a DataLoader.")
    if isinstance(x, Iterator):
        raise SettingError(
            f"`{name}` must start anew at every pass; got {type(x).__name__}, which ends after one. "
            "Give a DataLoader, or a list of batches."
        )
    return Stream(name, x, device)


def digest(x: Samples) -> str:
    """What tells a block of samples from every other one."""
    found = hashlib.blake2b(digest_size=16)
    for leaf in leaves(x):
        found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        found.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
