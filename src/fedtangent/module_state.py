"""What a module holds beside its parameters: copies of it, and what a forward pass leaves in its attributes."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.overrides import TorchFunctionMode

from fedtangent import trees
from fedtangent.errors import SettingError

# Longer containers are data, such as a vocabulary: of a list only what a pass appends is taken off again.
LONGEST = 1000
# What torch keeps in every module, and no forward pass writes; the buffers are not among it.
_TORCH = frozenset(vars(nn.Module())) - {"_buffers"}


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that have a history, such as activations that a module keeps, come without it.

    Raises:
        ValueError: The module holds something that cannot be copied.
    """
    try:
        with _WithoutHistory():
            return deepcopy(model)
    except Exception as error:
        raise SettingError(
            f"`model` must be a module that copy.deepcopy can copy; got {type(error).__name__}: "
            f"{' '.join(str(error).split())}. Keep what cannot be copied outside of the module."
        ) from error


def cast(model: nn.Module, device: torch.device | str | None, dtype: torch.dtype) -> nn.Module:
    """The model itself on a device, its floats in `dtype`; complex numbers stay so, which torch's `to` makes real.

    Raises:
        ValueError: A tensor on the device meta, which holds no numbers.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise SettingError(
                f"`model` must hold numbers; got {name!r} on the device meta. Build it on the CPU, or load its weights."
            )
    complex_ = torch.complex128 if dtype == torch.float64 else torch.complex64

    def moved(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else complex_ if tensor.is_complex() else None
        return tensor.to(device=device, dtype=kind)

    return model._apply(moved)  # type: ignore[no-any-return, no-untyped-call]


def check_hooks(model: nn.Module) -> None:
    """Raises where a parameter has hooks: derivatives are taken by copies of the parameters, which have none."""
    for name, p in model.named_parameters():
        if p.requires_grad and (p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)):
            raise SettingError(
                f"`model` must have no hooks on its parameters; got one on {name!r}, which would not be called. Do in "
                "the forward pass what it does, or remove it."
            )


def borrowed(original: nn.Module, forward: Callable[[], Any]) -> str | None:
    """The first parameter of `original` that the forward pass of its copy uses, None where it uses none.

    So it is where a hook, or a forward that was put in place of the class's, holds a layer itself.
    """
    looking = _Looking({id(p): name for name, p in original.named_parameters()})
    with looking, torch.no_grad():
        forward()
    return looking.found


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Afterwards the attributes of all submodules, and lists, dicts and sets in them, are what they were before.

    So no transform of torch.func leaves its tensors in a module that keeps its activations. Tensors that are changed in
    place stay changed, and so does what a hook keeps outside of the module.
    """
    attributes = [(part, dict(vars(part))) for part in model.modules() if _writes(part)]
    inside: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    for _, before in attributes:
        for name, value in before.items():
            if name not in _TORCH:
                _note(value, inside, seen)
    try:
        yield
    finally:
        for part, before in attributes:
            now = vars(part)
            for name in now.keys() - before.keys():
                del now[name]
            now.update(before)
        for container, content in inside:
            _restore(container, content)


def _writes(part: nn.Module) -> bool:
    """Whether a pass may set its attributes: those of torch's own layers it does not, but for recurrent ones."""
    own = type(part).__module__.startswith("torch.nn.modules.") and not isinstance(part, nn.RNNBase)
    return not own or bool(part._forward_pre_hooks or part._forward_hooks)


def _note(value: Any, inside: list[tuple[Any, Any]], seen: set[int]) -> None:
    """Adds a container's content, and those of the containers in it."""
    if not isinstance(value, (list, dict, set, deque, tuple)) or id(value) in seen:
        return
    seen.add(id(value))
    if len(value) > LONGEST:
        if isinstance(value, list):
            inside.append((value, len(value)))
        return
    if not isinstance(value, tuple):
        inside.append((value, value.copy()))
    for part in value.values() if isinstance(value, dict) else value:
        _note(part, inside, seen)


def _restore(container: Any, content: Any) -> None:
    if isinstance(content, int):
        del container[content:]
    elif isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        (container.extend if isinstance(container, deque) else container.update)(content)


class _WithoutHistory(TorchFunctionMode):
    """Copies what torch refuses to: a tensor that is no leaf, as one that is, and a lazy buffer."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__:
            tensor, memo = args
            if isinstance(tensor, UninitializedBuffer):
                memo[id(tensor)] = UninitializedBuffer(device=tensor.device, dtype=tensor.dtype)  # type: ignore[call-arg]
            elif not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
            if id(tensor) in memo:
                return memo[id(tensor)]
        return function(*args, **(kwargs or {}))


class _Looking(TorchFunctionMode):
    """Looks for tensors that are handed to a function of torch."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self._names = names
        self.found: str | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [self._names.get(id(leaf)) for leaf in trees.leaves((args, kwargs))]
        self.found = self.found or next(filter(None, given), None)
        return function(*args, **(kwargs or {}))
