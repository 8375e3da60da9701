"""Sources: what the parts of a run are made of, as digests, so that nobody goes on with it after an edit unawares.

A file counts byte by byte. A function or class from Python counts by its code, with what it calls of the same module;
comments do not count. A module counts by its layers, their settings and the code of classes that are not torch's.
"""

import functools
import hashlib
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedtangent import catalog, home
from fedtangent.experiments.build import named
from fedtangent.experiments.chain import links
from fedtangent.experiments.experiment import Experiment, factory
from fedtangent.experiments.parts import CHAINS, PARTS
from fedtangent.training.losses import Loss
from fedtangent.training.task import Augmentation

Source = dict[str, str]

# Their code is that of their version, which a manifest holds.
_VERSIONED = {"torch", "torchvision", "numpy", "scipy", "networkx", "fedtangent", "builtins", *sys.stdlib_module_names}
_VERSIONED -= {"__main__"}


def sources(experiment: Experiment) -> dict[str, Source]:
    """Name and digest of every part that is made of code."""
    chosen = {part: getattr(experiment, part) for part in (*PARTS, "loss", "engine", "outputs")}
    chosen |= {"host": experiment.hosted, "topology": experiment.topology or PARTS["topology"].default}
    several = {part: links(chosen.pop(part)) for part in CHAINS} | {"metric": links(experiment.metric)}
    found = {part: _source(part, value) for part, value in chosen.items()}
    for part, ones in several.items():
        found |= {f"{part} {i}" if i > 1 else part: _source(part, one) for i, one in enumerate(ones, 1)}
    return {part: source for part, source in found.items() if source is not None}


def named_alike(experiment: Experiment, described: Mapping[str, Any]) -> list[str]:
    """The parts of one's own that have the name of one of the package's, which a name alone would be taken for.

    Args:
        experiment: What was asked for.
        described: Its description, which holds names alone.
    """
    asked = {part: getattr(experiment, part) for part in PARTS} | {"host": experiment.hosted}
    folders = {part: kind.folder for part, kind in PARTS.items()} | {"metric": "metrics"}
    found = []
    for part, folder in folders.items():
        told = described.get(part) or []
        names = told.split("+") if isinstance(told, str) else told
        its = asked.get(part, experiment.metric)
        given = links(its) if part in (*CHAINS, "metric") else [its or PARTS[part].default]
        pairs = [(one, name) for one, name in zip(given, names, strict=False) if name in catalog.names(folder)]
        if any(_own(one, folder, name) for one, name in pairs):
            found.append(part)
    return found


def _own(part: Any, folder: str, name: str) -> bool:
    """Whether a part is another than the package's of that name."""
    if isinstance(part, (str, Path)):
        return str(part) != name
    return str(getattr(part, "__module__", "")) != f"fedtangent.{folder}.{name}"


def of_file(path: Path) -> Source:
    """Name and digest of a file."""
    return {"name": path.name, "digest": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}


def of_function(function: Callable[..., Any]) -> Source:
    """Name and digest of a function's code, with what it calls of its own module."""
    digest = _Digest()
    digest.add(function)
    return {"name": named(function), "digest": digest.hex}


def _source(part: str, value: Any) -> Source | None:
    if isinstance(value, (str, Path)):
        if Path(value).suffix == ".py":
            return of_file(home.path(value))
        if part not in PARTS or Path(value).suffix:  # the package's own, or an index file, which holds data
            return None
        several = part in (*CHAINS, "attack", "rule")  # which an experiment wraps
        value = catalog.load(PARTS[part].folder, str(value)) if several else factory(part, str(value))
    if not callable(value) and not isinstance(value, (Loss, Augmentation)):  # data, which the fingerprint holds
        return None
    module = sys.modules.get(getattr(value, "__module__", ""))
    if module is not None and module.__name__.split(".")[:2] in [["fedtangent", folder] for folder in catalog.FOLDERS]:
        return of_file(Path(str(module.__file__)))  # one that is being written has no version yet
    return of_function(value)


class _Digest:
    """Of Python objects: their code and simple values; all else, tensors included, counts by its type."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._seen: dict[int, Any] = {}  # the objects too, so that no other takes an id

    @property
    def hex(self) -> str:
        """What was added."""
        return self._sum.hexdigest()[:16]

    def add(self, value: Any) -> None:
        """Adds an object; one that might hold itself once."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self._note(repr(value))
            return
        self._note(type(value).__qualname__)
        if not isinstance(value, (tuple, frozenset, types.CodeType)):  # which of these are one object is the compiler's
            if id(value) in self._seen:
                return
            self._seen[id(value)] = value
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, (set, frozenset)):
            self._note(*sorted(map(repr, value)))
        elif isinstance(value, (list, tuple)):
            self._each(value)
        elif isinstance(value, dict):
            self._each([part for item in value.items() for part in item])
        elif not isinstance(value, (Tensor, types.ModuleType)):
            self._each(_parts(value))

    def _note(self, *texts: str) -> None:
        self._sum.update("\0".join([*texts, ""]).encode(errors="surrogateescape"))

    def _each(self, values: Any) -> None:
        self._note(str(len(values)))
        for value in values:
            self.add(value)

    def _function(self, function: types.FunctionType) -> None:
        self._note(function.__qualname__)
        cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        self._each(cells)  # a wrapper of the package may hold a user's function
        if _versioned(function):
            return
        self._each([function.__code__, function.__defaults__, function.__kwdefaults__])
        for name in _names(function.__code__):
            called = function.__globals__.get(name)
            its = isinstance(called, (types.FunctionType, type)) and called.__module__ == function.__module__
            if its or (isinstance(called, (int, float, str, tuple)) and not name.startswith("__")):
                self.add(called)

    def _class(self, class_: type) -> None:
        self._note(class_.__qualname__)
        for base in class_.__mro__:
            if base is not object and not _versioned(base):
                code = {name: part for name, part in vars(base).items() if name not in _NOT_CODE}
                self.add(code)

    def _module(self, model: nn.Module) -> None:
        for name, part in model.named_modules():
            self._note(name)
            self.add(type(part))
            self._each(_settings(part))
            self._each([*part._forward_pre_hooks.values(), *part._forward_hooks.values()])


def _parts(value: Any) -> list[Any]:
    """What an object of Python's own machinery stands for; of any other its class and attributes."""
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, (staticmethod, classmethod)):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget, value.fset]
    return [type(value), *_settings(value)]


_NOT_CODE = {
    "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__",
    "__module__", "__static_attributes__", "__weakref__",
}  # fmt: skip


def _settings(value: Any) -> list[tuple[str, Any]]:
    """The attributes that are numbers, texts, functions or short lists of them."""
    own = vars(value) if hasattr(value, "__dict__") else {}
    kinds = (bool, int, float, complex, str, types.FunctionType, functools.partial, tuple, list)
    return [(name, part) for name, part in sorted(own.items()) if isinstance(part, kinds)]


def _names(code: types.CodeType) -> list[str]:
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return [*code.co_names, *(name for part in inner for name in _names(part))]


def _versioned(value: Callable[..., Any]) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in _VERSIONED


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # raises where the name is not bound yet
    except ValueError:
        return False
    return True
