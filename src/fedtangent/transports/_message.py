"""Messages as bytes: a typed table of what is in them, then the numbers; nothing in a message makes code run."""

import json
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError

_ALIGNED = 64
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    )
}  # fmt: skip


class Message(NamedTuple):
    """table: What is in it, as JSON. numbers: The bytes of all tensors, one after the other."""

    table: bytes
    numbers: Tensor


def packed(
    values: Sequence[Any], device: torch.device | str = "cpu", room: Callable[[int], Tensor] | None = None
) -> Message:
    """Some values as one message, its numbers on a device; what several of them share is in it once.

    Args:
        values: Trees of tensors and plain values.
        device: Of the numbers.
        room: Gives a place for so many bytes there; none is new memory.

    Raises:
        TypeError: A value is no tree of tensors and plain values.
    """
    writer = _Writer(device)
    places: dict[int, int] = {}
    laid: list[Any] = []
    for value in values:
        if id(value) not in places:
            places[id(value)] = len(laid)
            laid.append(writer.laid_out(value))
    table = {"values": [places[id(value)] for value in values], "trees": laid, "tensors": writer.table}
    return Message(json.dumps(table, separators=(",", ":")).encode(), writer.joined(room))


def unpacked(message: Message) -> list[Any]:
    """The values; tensors that were on an accelerator stay where the message's numbers are."""
    table = json.loads(message.table)
    numbers, held = message.numbers, message.numbers.cpu().numpy()
    tensors, start = [], 0
    for dtype, shape, order, accelerated in table["tensors"]:
        size = _size(dtype, shape)
        if not size:
            part = numbers.new_empty(0, dtype=DTYPES[dtype], device=None if accelerated else "cpu")
        elif accelerated:
            part = numbers[start : start + size].clone().view(DTYPES[dtype])
        else:  # not a part of a larger storage, of which every dual would be as large as the whole
            part = torch.frombuffer(held, dtype=DTYPES[dtype], count=size // DTYPES[dtype].itemsize, offset=start)
        if order == sorted(order):
            tensors.append(part.view(shape))
        else:
            tensors.append(trees.permuted_back(part.view([shape[axis] for axis in order]), order))
        start += room(dtype, shape)
    values = [_rebuilt(layout, tensors) for layout in table["trees"]]
    return [values[place] for place in table["values"]]


class _Writer:
    """Lays values out as JSON, and collects their tensors."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self.table: list[Any] = []
        self._parts: list[Tensor] = []
        self._alive: list[Tensor] = []  # so that no other tensor takes an id
        self._places: dict[int, int] = {}

    def laid_out(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return {"t": self._stored(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"v": value}
        if isinstance(value, dict):
            return {"d": [[key, self.laid_out(part)] for key, part in value.items()]}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            kind = type(value)
            return {"n": [self.laid_out(part) for part in value], "type": [kind.__module__, kind.__qualname__]}
        if isinstance(value, (tuple, list)):
            return {"u" if isinstance(value, tuple) else "l": [self.laid_out(part) for part in value]}
        raise SettingTypeError(f"a message must hold tensors and plain values; got {type(value).__name__}. Convert it.")

    def _stored(self, tensor: Tensor) -> int:
        if id(tensor) not in self._places:
            self._places[id(tensor)] = len(self.table)
            self._alive.append(tensor)
            order = trees.in_memory(tensor)
            dtype = str(tensor.dtype).removeprefix("torch.")
            self.table.append([dtype, list(tensor.shape), order, tensor.device.type != "cpu"])
            flat = tensor.detach().resolve_conj().resolve_neg().to(self._device).permute(order).contiguous().reshape(-1)
            self._parts.append(flat.view(torch.uint8) if flat.numel() else flat.new_zeros(0, dtype=torch.uint8))
        return self._places[id(tensor)]

    def joined(self, place: Callable[[int], Tensor] | None) -> Tensor:
        """All tensors' bytes, each from a place that suits any type; zeros between them, and not what memory held."""
        sizes = [-(-len(part) // _ALIGNED) * _ALIGNED for part in self._parts]
        whole = sum(sizes)
        numbers = torch.empty(whole, dtype=torch.uint8, device=self._device) if place is None else place(whole)
        on_cpu = numbers.device.type == "cpu"
        put: Any = numbers.numpy() if on_cpu else numbers  # NumPy copies a small part in a tenth of PyTorch's time
        start = 0
        for part, size in zip(self._parts, sizes, strict=True):
            put[start : start + len(part)] = part.numpy() if on_cpu else part
            if len(part) < size:
                put[start + len(part) : start + size] = 0
            start += size
        return numbers


def room(dtype: str, shape: Sequence[int]) -> int:
    """The bytes of a tensor, up to where the next one begins."""
    return -(-_size(dtype, shape) // _ALIGNED) * _ALIGNED


def _size(dtype: str, shape: Sequence[int]) -> int:
    count = DTYPES[dtype].itemsize
    for length in shape:
        count *= length
    return count


def _rebuilt(layout: Any, tensors: list[Tensor]) -> Any:
    kind, *_ = layout
    content = layout[kind]
    if kind == "t":
        return tensors[content]
    if kind == "v":
        return content
    if kind == "d":
        return {key: _rebuilt(part, tensors) for key, part in content}
    parts = [_rebuilt(part, tensors) for part in content]
    if kind == "n":
        return tuple.__new__(_known(layout["type"], len(parts)), parts)
    return tuple(parts) if kind == "u" else parts


def _known(type_: list[str], count: int) -> type[tuple[Any, ...]]:
    """A NamedTuple of a module that is loaded already; nothing is imported, and no code of it runs.

    Raises:
        ValueError: There is none.
    """
    module, name = type_
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, (type, ModuleType)) else None
    if not (isinstance(found, type) and issubclass(found, tuple) and len(getattr(found, "_fields", ())) == count):
        raise SettingError(f"a message must hold types that its receiver knows; got {name!r}. Run the same code there.")
    return found
