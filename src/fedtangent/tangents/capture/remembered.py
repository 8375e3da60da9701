"""Tensors that a model made of its parameters in an earlier pass and keeps: with them it no longer depends on those."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.functional import Weights, call, holding, plain
from fedtangent.tangents.capture.outputs import Picked
from fedtangent.tangents.capture.samples import Samples


def check(model: nn.Module, w: Weights, x: Samples, names: Iterable[str]) -> None:
    """Raises where a tensor that a module keeps was computed from a parameter that no output depends on any more.

    Such as attention biases that a model in eval mode looks up once; a kernel would take them for constants.

    Args:
        model: As given.
        w: Its parameters.
        x: Samples; the first is passed once, where there is reason to.
        names: The parameters of which no use was found.

    Raises:
        ValueError: There is one; the message names the module's attribute.
    """
    module = model.model if isinstance(model, Picked) else model
    own = dict(module.named_parameters())
    asked = {id(own[name]): name for name in names if name in own}
    if not asked:
        return
    for place, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute.startswith("_"):
                continue
            for tensor in _kept(value):
                name = _source(tensor, asked)
                if name is not None and not _moves(model, w, x, name):
                    where = f"{place}.{attribute}" if place else attribute
                    raise SettingError(
                        f"`model` must make what it needs of its parameters in every pass; got {where!r} kept from an "
                        f"earlier one, made of {name!r}. Empty it before: call model.train(), then model.eval()."
                    )


def _moves(model: nn.Module, w: Weights, x: Samples, name: str) -> bool:
    """Whether an output depends on a parameter in a pass of its own."""
    leaves = {name: part.detach().requires_grad_() for name, part in w.items()}
    with holding(model, leaves), plain(), torch.enable_grad():
        total = call(model, leaves, x[:1]).sum()
    if not total.requires_grad:
        return False
    return torch.autograd.grad(total, leaves[name], allow_unused=True)[0] is not None


def _kept(value: Any) -> Iterator[Tensor]:
    """The tensors with a history in an attribute, and in the lists, tuples and dicts of it."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _kept(part)


def _source(tensor: Tensor, asked: dict[int, str]) -> str | None:
    """The first of these parameters in the history of a tensor."""
    left, seen = [tensor.grad_fn], set[Any]()
    while left:
        step = left.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        variable = getattr(step, "variable", None)
        if id(variable) in asked:
            return asked[id(variable)]
        left += [before for before, _ in step.next_functions]
    return None
