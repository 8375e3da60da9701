"""A forward pass of any module: how it is called on rows, and which of its results are the outputs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.tied import every_name

Picker = str | int | Callable[[Any], Tensor]  # a key, an attribute or a place, or a function of what a model returns


class NoOutputs(TypeError):
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


def picked(found: Any, pick: Picker | None) -> Tensor:
    """The tensor that a picker finds in what a model returns.

    Raises:
        NoOutputs: There is none.
    """
    if pick is None:
        if not isinstance(found, Tensor):
            raise NoOutputs(
                f"`model` must return a tensor; got {_described(found)}. Say which part holds the outputs, as with "
                "outputs='logits'."
            )
        return found
    try:
        if callable(pick):
            part = pick(found)
        elif isinstance(pick, str) and not isinstance(found, Mapping):
            part = getattr(found, pick)
        else:
            part = found[pick]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise NoOutputs(
            f"`outputs` must name a part of what the model returns, {_described(found)}; got {pick!r}. Name another."
        ) from error
    if not isinstance(part, Tensor):
        raise NoOutputs(f"`outputs` must pick a tensor; got {_described(part)} for {pick!r}. Pick another part.")
    return part


def _described(found: Any) -> str:
    """Its type, and the names of its parts."""
    names = list(map(str, found)) if isinstance(found, Mapping) else getattr(found, "_fields", ())
    return type(found).__name__ + (f" of {', '.join(names)}" if names else "")
