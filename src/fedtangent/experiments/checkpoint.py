"""Checkpoint: the state of a run after a round, one safetensors file; it is the truth that a resumed run goes back to.

Tensors are stored as they are; how they hang together is JSON in the file's header. Nothing is pickled.
"""

import json
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from fedtangent.experiments import atomic
from fedtangent.fleet import Central, Each, Fleet

NAME = "checkpoint.safetensors"

Arrays = dict[str, np.ndarray]


class Checkpoint(NamedTuple):
    """What a run needs to go on.

    Attributes:
        state: The method's.
        meta: round, ledger and whatever identifies the run, as JSON holds it.
    """

    state: Any
    meta: dict[str, Any]


def save(folder: Path, state: Any, meta: dict[str, Any]) -> None:
    """Writes the checkpoint of a folder.

    Raises:
        OSError: It cannot be written; the one before is still there.
        TypeError: The state holds something other than trees of tensors and numbers.
    """
    arrays: Arrays = {}
    names: dict[int, str] = {}
    structure = _laid_out(state, partial(_stored, arrays, names))
    header = {"meta": meta, "state": structure, "sum": _sum(arrays)}
    atomic.replaced(folder / NAME, lambda path: save_file(arrays, path, {"checkpoint": json.dumps(header)}))


def load(folder: Path, fleet: Fleet) -> Checkpoint | None:
    """The checkpoint of a folder, its tensors on the fleet's device; None where there is none.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["checkpoint"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if _sum(arrays) != header["sum"]:
            raise ValueError("its checksum is another")
        tensors = {name: torch.from_numpy(array).to(fleet.device) for name, array in arrays.items()}
        return Checkpoint(_rebuilt(header["state"], tensors, fleet), header["meta"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"`out` must hold a whole {NAME}; got a damaged one in {folder} ({type(error).__name__}: {error}). "
            "Run anew with another --out."
        ) from error


def _stored(arrays: Arrays, names: dict[int, str], tensor: Tensor) -> str:
    """Its name in the file; a tensor that several nodes share is stored once."""
    if id(tensor) not in names:
        names[id(tensor)] = f"{len(names):06d}"
        arrays[names[id(tensor)]] = np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(tensor.shape)
    return names[id(tensor)]


def _sum(arrays: Arrays) -> int:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, total)
    return total


def _laid_out(value: Any, store: Callable[[Tensor], str]) -> Any:
    """The value's structure as JSON, its tensors replaced by their names."""

    def again(part: Any) -> Any:
        return _laid_out(part, store)

    if isinstance(value, Tensor):
        return {"tensor": store(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if isinstance(value, Each):
        return {"each": [again(part) for part in value.values]}
    if isinstance(value, Central):
        return {"central": again(value.value)}
    if isinstance(value, dict):
        return {"dict": [[key, again(part)] for key, part in value.items()]}
    if hasattr(value, "_fields"):
        return {"fields": [again(part) for part in value], "type": _type_name(type(value))}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [again(part) for part in value]}
    raise TypeError(f"a state must hold tensors and numbers; got {type(value).__name__}. Convert it.")


def _rebuilt(layout: dict[str, Any], tensors: dict[str, Tensor], fleet: Fleet) -> Any:
    (kind, content), *_ = layout.items()

    def again(part: Any) -> Any:
        return _rebuilt(part, tensors, fleet)

    if kind == "tensor":
        return tensors[content]
    if kind == "value":
        return content
    if kind == "central":
        return Central(again(content))
    if kind == "dict":
        return {key: again(part) for key, part in content}
    parts = [again(part) for part in content]
    if kind == "each":
        return fleet.each(parts)
    if kind == "fields":
        return _type(layout["type"])(*parts)
    return tuple(parts) if kind == "tuple" else parts


def _type_name(type_: type) -> str:
    name = f"{type_.__module__}:{type_.__qualname__}"
    if getattr(sys.modules.get(type_.__module__), type_.__qualname__, None) is not type_:
        raise TypeError(f"a state must be of types defined at the top of a file; got {name}. Move the class there.")
    return name


def _type(name: str) -> Any:
    """The NamedTuple of that name, which the method's file has defined; nothing is imported for it."""
    module, _, qualname = name.partition(":")
    found = getattr(sys.modules[module], qualname)
    if not (isinstance(found, type) and issubclass(found, tuple)):
        raise ValueError(f"{name} is no NamedTuple")
    return found
