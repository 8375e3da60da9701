"""A forward pass of any module: how it is called on rows, and which of its results are the outputs."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.errors import SettingTypeError
from fedtangent.tied import every_name

Picker = str | int | Callable[[Any], Tensor]  # a key, an attribute or a place, or a function of what a model returns


class NoOutputs(SettingTypeError):
    """What a model returns is no tensor, nor is what is picked of it."""


def outputs(model: nn.Module, w: Mapping[str, Tensor], x: Any, pick: Picker | None = None) -> Tensor:
    """f(x; w), (rows, outputs): of model(x), of model(**x) for a dict x, and of model(*x) for a tuple.

    One number a row (rows,) is one output, and numbers of half precision, as from autocast, are in the weights' type.

    Args:
        model: Any.
        w: Parameters, and perhaps buffers, by name; of all others the module's own.
        x: A tensor, or a dict or tuple of tensors, rows along the first axis.
        pick: Which of its results are the outputs, such as 'logits'; none where it returns these alone.

    Raises:
        NoOutputs: What it returns, or what is picked of it, is no tensor.
    """
    f = picked(run(model, w, x), pick)
    if f.dim() == 1 and len(f) == len(x if isinstance(x, Tensor) else trees.leaves(x)[0]):
        f = f[:, None]
    return f.to(next(iter(w.values())).dtype) if f.dtype in (torch.float16, torch.bfloat16) and w else f


def run(model: nn.Module, w: Mapping[str, Tensor], x: Any) -> Any:
    """What the model returns: for x of model(x), for a dict of model(**x), for a tuple of model(*x)."""
    args = () if isinstance(x, dict) else x if isinstance(x, tuple) else (x,)
    kwargs = x if isinstance(x, dict) else None
    return torch.func.functional_call(model, every_name(model, w), args, kwargs, tie_weights=False)


def picked(returned: Any, pick: Picker | None) -> Tensor:
    """The tensor that a picker finds in what a model returns.

    Raises:
        NoOutputs: There is none.
    """
    if pick is None:
        if not isinstance(returned, Tensor):
            raise NoOutputs(
                f"`model` must return a tensor; got {_described(returned)}. Say which part holds the outputs, as with "
                f"outputs={_likely(returned)!r}."
            )
        return returned
    try:
        if callable(pick):
            part = pick(returned)
        elif isinstance(returned, Tensor):
            raise TypeError("a tensor has no parts")
        elif isinstance(pick, str) and not isinstance(returned, Mapping):
            part = getattr(returned, pick)
        else:
            part = returned[pick]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise NoOutputs(
            f"`outputs` must name a part of what the model returns, {_described(returned)}; got {pick!r}. Name another."
        ) from error
    if not isinstance(part, Tensor):
        raise NoOutputs(f"`outputs` must pick a tensor; got {_described(part)} for {pick!r}. Pick another part.")
    return part


def _described(returned: Any) -> str:
    """Its type, and the names of its parts."""
    names = [name for name in _parts(returned) if isinstance(name, str)]
    return type(returned).__name__ + (f" of {', '.join(names)}" if names else "")


def _parts(returned: Any) -> dict[Any, Any]:
    """What a model returned, by name or place."""
    if isinstance(returned, Mapping):
        return {str(name): part for name, part in returned.items()}
    if is_dataclass(returned):
        return vars(returned)
    if isinstance(returned, (tuple, list)):
        return dict(zip(getattr(returned, "_fields", range(len(returned))), returned, strict=True))
    return {}


def _likely(returned: Any) -> str | int:
    """The part that may well be the outputs: (rows, outputs) in floating point, or at least such numbers."""
    floats = {
        name: part for name, part in _parts(returned).items() if isinstance(part, Tensor) and part.is_floating_point()
    }
    best = [name for axes in (2, 1) for name, part in floats.items() if part.dim() == axes]
    return next(iter([*best, *floats]), "logits")
