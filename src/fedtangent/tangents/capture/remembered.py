"""Tensors that a model made of its parameters in an earlier pass and keeps: with them it no longer depends on those."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.functional import Weights, call, holding, plain
from fedtangent.tangents.capture.outputs import Picked
from fedtangent.tangents.capture.samples import Samples


class Kept(NamedTuple):
    """A tensor that a module keeps, made of a parameter in an earlier pass: at the attribute `where`, of `name`."""

    where: str
    name: str


def kept(model: nn.Module, names: Iterable[str]) -> list[Kept]:
    """The tensors that a model keeps of these parameters; of its copy, which has no history, nobody can tell."""
    module = model.model if isinstance(model, Picked) else model
    own = dict(module.named_parameters())
    asked = {id(own[name]): name for name in names if name in own}
    found = []
    for place, part in module.named_modules() if asked else ():
        for attribute, value in vars(part).items():
            if attribute.startswith("_"):
                continue
            of = (_source(tensor, asked) for tensor in _kept(value))
            where = f"{place}.{attribute}" if place else attribute
            found += [Kept(where, name) for name in of if name is not None]
    return found


def check(found: Iterable[Kept], w: Weights, forward: Callable[[Weights], Tensor]) -> None:
    """Raises where no output depends any more on the parameter of which a tensor is kept.

    Such as attention biases that a model in eval mode looks up once; derivatives would take them for constants.

    Args:
        found: The tensors.
        w: The model's parameters.
        forward: Passes a few rows, once for every tensor that is kept.

    Raises:
        ValueError: There is one; the message names the module's attribute.
    """
    for where, name in found:
        if name in w and not _moves(forward, w, name):
            raise SettingError(
                f"`model` must make what it needs of its parameters in every pass; got {where!r} kept from an "
                f"earlier one, made of {name!r}. Empty it before: call model.train(), then model.eval()."
            )


def passing(model: nn.Module, x: Samples) -> Callable[[Weights], Tensor]:
    """The outputs of the first sample, as a function of the parameters."""

    def forward(w: Weights) -> Tensor:
        with holding(model, w), plain():
            return call(model, w, x[:1])

    return forward


def _moves(forward: Callable[[Weights], Tensor], w: Weights, name: str) -> bool:
    """Whether an output depends on a parameter in a pass of its own."""
    leaves = {name: part.detach().requires_grad_() for name, part in w.items()}
    with torch.enable_grad():
        total = forward(leaves).sum()
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
