"""A forward pass that writes to the parameters: what it writes must be there already, and then is not written.

Layers that keep their weights within bounds write them back at every pass (EEGNet's codes); others take their first
weights from the first batch (Kingma and Dhariwal, Glow, 2018). A tangent is taken at given weights: such a write would
move them between passes, or end the process inside of a transform of torch.func.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedtangent.errors import SettingError

_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
_HARMLESS = {"requires_grad_", "retain_grad", "share_memory_", "rename_"}
_ITEM = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__"}


class Writes(TorchFunctionMode):
    """While it is entered: writes to the parameters w leave these as they are, or are refused."""

    def __init__(self, w: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._w = w
        self._at: dict[int, str] | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = _target(function, args, kwargs)
        if not isinstance(target, Tensor) or (name := self._name(target)) is None:
            return function(*args, **kwargs)
        with torch.no_grad(), torch._C.DisableTorchFunction():
            before = target.detach()
            if function == _SET_DATA:
                after = args[1].detach()
            else:
                after = before.clone()
                own = (after if one is target else one for one in args)
                function(*own, **{key: after if one is target else one for key, one in kwargs.items()})
            if after.shape != before.shape or not torch.equal(after, before):
                raise SettingError(
                    "`model` must leave its parameters as they are in a forward pass; got other numbers written to "
                    f"{name!r}. Run it once on data before, or compute with a changed copy of them."
                )
        return None if function == _SET_DATA or function is Tensor.__setitem__ else target

    def _name(self, target: Tensor) -> str | None:
        """Of the parameter that a tensor lies in."""
        with torch._C.DisableTorchFunction():  # nobody who follows the pass is to see this
            if self._at is None:
                self._at = {_place(part): name for name, part in self._w.items() if part.numel()}
            return self._at.get(_place(target))


def _target(function: Any, args: Any, kwargs: Any) -> Any:
    """What a function writes to; None where it writes nowhere."""
    if "out" in kwargs:
        return kwargs["out"]
    name = getattr(function, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and name not in _HARMLESS
    if not (in_place or name in _ITEM or kwargs.get("inplace") or function == _SET_DATA):
        return None
    return args[0] if args else kwargs.get("input")


def _place(tensor: Tensor) -> int:
    """Where its numbers lie, inside of all wrappers of transforms."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided and not tensor.is_meta else 0
