"""Checkpoint: the state of a run after a round, one file of tensors; it is the truth that a resumed run goes back to.

How the tensors hang together is JSON in the file's header. A type is never imported: the file names one of those that
the method itself brings, in its first state and in the file that defines it.
"""

import dataclasses
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments import atomic, tensor_file
from fedtangent.experiments.tensor_file import Tensors
from fedtangent.federation import Central, Each, Fleet, Wire

NAME = "checkpoint.safetensors"
BEFORE = "checkpoint-before.safetensors"  # of the round before, where processes keep their own
_REMEDY = "Run anew with another --out."

_MAPPINGS: dict[str, Any] = {"dict": dict, "OrderedDict": OrderedDict}
_SEQUENCES: dict[str, Any] = {"tuple": tuple, "list": list}


class Checkpoint(NamedTuple):
    """What a run needs to go on.

    Attributes:
        state: The method's.
        meta: round, ledger and whatever identifies the run, as JSON holds it; and `kept`, with tensors, what the run's
            channels remember of every sender's messages.
    """

    state: Any
    meta: dict[str, Any]


def known_types(first: Any, functions: Iterable[Callable[..., Any]], everywhere: bool = False) -> list[type]:
    """The NamedTuples and dataclasses that a method's states may be made of.

    Args:
        first: The method's first state; None where it is not known.
        functions: Its factory and its host's; found is what the files that define them know by name.
        everywhere: Whether it is enough that any file of this package which is loaded knows them.
    """
    found = _types(first)
    places = []
    for function in functions:
        while isinstance(function, partial):
            function = function.func
        places.append(getattr(function, "__globals__", {}))
    if everywhere:
        places += [vars(module) for name, module in sorted(sys.modules.items()) if name.startswith("fedtangent.")]
    for names in places:
        found |= {value: None for value in list(names.values()) if _fields(value) and value not in found}
    return list(found)


def check(state: Any, types: Sequence[type]) -> None:
    """Raises TypeError for a state with a type that `known_types` has not found, and `load` would not find."""
    for type_ in _types(state):
        if type_ not in types:
            raise SettingTypeError(
                f"a state must be of types that the method's first state or its file holds; got {type_.__qualname__}. "
                "Define it at the top of the method's file."
            )


def set_aside(folder: Path) -> None:
    """Keeps a folder's checkpoint under the name BEFORE, where there is one.

    Raises:
        OSError: The folder cannot be written.
    """
    if (folder / NAME).exists():
        atomic.renamed(folder / NAME, folder / BEFORE)


def save(folder: Path, state: Any, meta: dict[str, Any]) -> None:
    """Writes the checkpoint of a folder; of an Each the values that this process has.

    Raises:
        OSError: It cannot be written; the one before is still there.
        TypeError: The state holds something other than trees of tensors and numbers.
    """
    writer = _Writer()
    plain = {name: value for name, value in meta.items() if name != "kept"}
    header = {"meta": plain, "state": writer.laid_out(state), "kept": writer.laid_out(list(meta.get("kept", ())))}
    tensor_file.save(folder / NAME, {**header, "forms": writer.forms}, writer.tensors)


def read(folder: Path, name: str = NAME, *, whole: bool = True) -> tuple[dict[str, Any], Tensors] | None:
    """Header and tensors of a folder's checkpoint, or its header alone; None where there is none.

    Raises:
        ValueError: It is damaged or of another version.
    """
    path = folder / name
    return tensor_file.read(path, "out", _REMEDY, whole=whole) if path.exists() else None


def rebuilt(
    folder: Path, header: dict[str, Any], tensors: Tensors, fleet: Fleet, first: Any, types: Sequence[type]
) -> Checkpoint:
    """The checkpoint of a folder, its tensors on the fleet's device.

    Args:
        folder: The run's.
        header: From `read`.
        tensors: From there too.
        fleet: Who holds the values.
        first: The method's first state; None where the file holds this process's own part of a real federation, whose
            values belong to the fleet's nodes, whoever was there when it was written.
        types: From `known_types`.

    Raises:
        ValueError: It is of another method.
    """
    try:
        meta, forms = dict(header["meta"]), header["forms"]
        tensors = {name: _formed(tensor, forms.get(name)).to(fleet.device) for name, tensor in tensors.items()}
        reader = _Reader(tensors, fleet, types, own=first is None)
        state = reader.rebuilt(header["state"], first)
        kept = [(str(name), int(node), dict(parts)) for name, node, parts in reader.rebuilt(header["kept"], None)]
        if first is not None and type(state) is not type(first):
            raise TypeError(f"it is of type {type(state).__name__}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, RecursionError) as error:
        raise SettingError(
            f"`out` must hold a {NAME} of its own run; got another state in {folder} ({tensor_file.reason(error)}). "
            f"{_REMEDY}"
        ) from error
    return Checkpoint(state, {**meta, "kept": kept} if kept else meta)


def restore(folder: Path, wire: Wire, meta: dict[str, Any], fingerprint: str, rounds: int) -> None:
    """Takes back the ledger and the cache of a checkpoint.

    Args:
        folder: The run's.
        wire: Takes them.
        meta: The checkpoint's.
        fingerprint: Of the run that goes on.
        rounds: How many it has, at most.

    Raises:
        ValueError: They are not of this run.
    """
    try:
        wire.ledger.restore(meta["ledger"])
        wire.cache.restore(meta["held"])
        whole = len(meta["lines"]) == meta["round"] <= rounds and meta.get("fingerprint") == fingerprint
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise SettingError(f"`out` must hold the checkpoint of its own run; got that of another in {folder}. {_REMEDY}")


def load(folder: Path, fleet: Fleet, first: Any, types: Sequence[type]) -> Checkpoint | None:
    """`rebuilt` from what is in the folder; None where there is nothing."""
    found = read(folder)
    return None if found is None else rebuilt(folder, *found, fleet, first, types)


class _Writer:
    """Lays a value out as JSON, and collects its tensors."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self.forms: dict[str, dict[str, Any]] = {}  # of tensors whose memory is not as their axes are
        self._names: dict[int, str] = {}

    def laid_out(self, value: Any) -> Any:
        """The value's structure as JSON, its tensors replaced by their names."""
        if isinstance(value, Tensor):
            return {"tensor": self._stored(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"value": value}
        if isinstance(value, Each):
            return {"each": self._each(value.values), "nodes": list(value.nodes)}
        if isinstance(value, Central):
            return {"central": self.laid_out(value.value if value.is_here else None)}
        if type(value) in _MAPPINGS.values():
            pairs = [[_key(key), self.laid_out(part)] for key, part in value.items()]
            return {type(value).__name__: pairs}
        if _fields(type(value)):
            return {"fields": self._each(_parts(value)), "type": _named(type(value))}
        for name, kind in _SEQUENCES.items():
            if isinstance(value, kind):
                return {name: self._each(value)}
        raise SettingTypeError(f"a state must hold tensors and numbers; got {type(value).__name__}. Convert it.")

    def _each(self, values: Iterable[Any]) -> list[Any]:
        return [self.laid_out(part) for part in values]

    def _stored(self, tensor: Tensor) -> str:
        """Its name in the file; a tensor that several nodes share is stored once."""
        if id(tensor) in self._names:
            return self._names[id(tensor)]
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise SettingTypeError(f"a state must hold dense tensors; got a {tensor.layout} one. Call to_dense().")
        name = self._names[id(tensor)] = f"{len(self._names):06d}"
        order = trees.in_memory(tensor)
        plain = tensor.detach().permute(order)
        self.tensors[name] = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
        if order != sorted(order) or plain.is_complex():
            self.forms[name] = {"order": order, "complex": plain.is_complex()}
        return name


def _key(key: Any) -> Any:
    if key is not None and not isinstance(key, (bool, int, float, str)):
        raise SettingTypeError(
            f"a state must have texts and numbers as keys; got {type(key).__name__}. Use a text in its place."
        )
    return key


def _formed(tensor: Tensor, form: dict[str, Any] | None) -> Tensor:
    """The tensor as it was before `_stored`."""
    if form is None:
        return tensor
    whole = torch.view_as_complex(tensor) if form["complex"] else tensor
    return trees.permuted_back(whole, form["order"])


class _Reader:
    """Builds a value from its layout."""

    def __init__(self, tensors: Tensors, fleet: Fleet, types: Sequence[type], own: bool) -> None:
        self._tensors, self._fleet, self._own = tensors, fleet, own
        self._types = {_named(type_): type_ for type_ in reversed(types)}  # the first of a name counts

    def rebuilt(self, layout: dict[str, Any], like: Any) -> Any:
        """The value that `_Writer.laid_out` was given.

        Args:
            layout: From there.
            like: What the method's first state has in this place: of types that look alike it has the right one.
        """
        kind, *_ = layout
        content = layout[kind]
        if kind == "tensor":
            return self._tensors[content]
        if kind == "value":
            return content
        likes = iter(_parts(like))
        if kind == "central":
            return self._fleet.server(self.rebuilt(content, next(likes, None)))
        if kind in _MAPPINGS:
            return _MAPPINGS[kind]((key, self.rebuilt(part, next(likes, None))) for key, part in content)
        parts = [self.rebuilt(part, next(likes, None)) for part in content]
        if kind == "each":
            nodes = tuple(layout["nodes"])
            if self._own:
                return self._of_own(parts)
            if not set(nodes) <= set(self._fleet.nodes):
                raise ValueError("it has other nodes")
            fleet = dataclasses.replace(self._fleet, nodes=nodes)
            return fleet.each(parts) if len(parts) == len(nodes) else fleet.of_here(parts)
        if kind == "fields":
            name = layout["type"]
            return _made(type(like) if _named(type(like)) == name else self._types[name], parts)
        return _SEQUENCES[kind](parts)

    def _of_own(self, parts: list[Any]) -> Each[Any]:
        """The values of this process's nodes, or none where it had none."""
        fleet = self._fleet
        if not parts and fleet.here:
            fleet = dataclasses.replace(fleet, nodes=tuple(node for node in fleet.nodes if node not in fleet.here))
        return fleet.of_here(parts)


def _made(type_: type, parts: list[Any]) -> Any:
    """A NamedTuple or dataclass of these fields; its own code is not run."""
    names = _fields(type_)
    if len(parts) != len(names):
        raise ValueError(f"{type_.__qualname__} has {len(names)} fields and not {len(parts)}")
    if issubclass(type_, tuple):
        return tuple.__new__(type_, parts)
    made = object.__new__(type_)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(made, name, part)
    return made


def _fields(type_: Any) -> tuple[str, ...]:
    """The names of a NamedTuple's or dataclass's fields; none of any other type."""
    if not isinstance(type_, type) or type_ in (Each, Central):
        return ()
    if issubclass(type_, tuple):
        return tuple(getattr(type_, "_fields", ()))
    return tuple(field.name for field in dataclasses.fields(type_)) if dataclasses.is_dataclass(type_) else ()


def _named(type_: type) -> str:
    return f"{type_.__qualname__}({', '.join(_fields(type_))})"


def _types(state: Any) -> dict[type, None]:
    """The types in a state."""
    found: dict[type, None] = {}
    left = [state]
    while left:
        value = left.pop()
        left += _parts(value)
        if _fields(type(value)):
            found[type(value)] = None
    return found


def _parts(value: Any) -> list[Any]:
    """What a value is made of; nothing where it is a leaf."""
    if isinstance(value, Each):
        return value.values
    if isinstance(value, Central):
        return [value.value]
    if isinstance(value, dict):
        return list(value.values())
    if fields := _fields(type(value)):
        return [getattr(value, name) for name in fields]
    return list(value) if isinstance(value, (tuple, list)) else []
