"""Parameters that meet the numbers of a result one by one, broadcast: sums, scales, slopes, and tokens that are joined.

A position embedding, a layer scale, the scale of a normalisation written by hand, a temperature, a mask's token.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedtangent.tangents.capture.contractions import parameter, sole
from fedtangent.tangents.capture.layers import Call, Hole, Sums, Tensors, Term
from fedtangent.tangents.capture.views import layout, view_shape

Slope = float | Callable[[Tensor, Any], Any]
Rule = Callable[..., Sums | None]


def term(w: dict[str, Tensor], role: Any, slope: Slope = 1.0, along: tuple[int, int, int] | None = None) -> Term | None:
    """A parameter as it is, broadcast."""
    shape = view_shape(w[role.key].shape, role.steps)
    its = layout(w[role.key].shape, role.steps, range(len(shape)), shape)
    return None if its is None else Term(role.key, its, slope, along)


def _made(call: Call, terms: list[Term | None], other: Any = None) -> Sums | None:
    whole = tuple(one for one in terms if one is not None)
    return Sums(call, whole, other) if len(whole) == len(terms) and _plain(other) else None


def _plain(other: Any) -> bool:
    return other is None or isinstance(other, (Hole, int, float))


def sums(first: float, second: float) -> Rule:
    """The rule of a sum with these signs; both sides may be parameters."""

    def rule(
        call: Call, w: dict[str, Tensor], inputs: Tensors, one: Any, two: Any, *, alpha: float = 1, out: Any = None
    ) -> Sums | None:
        if out is not None:
            return None
        pairs = [(one, first), (two, second * alpha)]
        return _made(call, [term(w, role, float(sign)) for role, sign in pairs if parameter(role)])

    return rule


def scales(by_first: Callable[[Tensor, Any], Any], by_second: Callable[[Tensor, Any], Any]) -> Rule:
    """The rule of a function of two numbers, of which one is a parameter's, by its derivatives (parameter, other)."""

    def rule(
        call: Call,
        w: dict[str, Tensor],
        inputs: Tensors,
        one: Any,
        two: Any,
        *,
        rounding_mode: Any = None,
        out: Any = None,
    ) -> Sums | None:
        if rounding_mode is not None or out is not None or parameter(one) == parameter(two):
            return None
        role, other, slope = (one, two, by_first) if parameter(one) else (two, one, by_second)
        return _made(call, [term(w, role, slope)], other)

    return rule


def _turned(rule: Rule) -> Rule:
    """The rule of the function with its two arguments the other way round."""
    return lambda call, w, inputs, one, two, **rest: rule(call, w, inputs, two, one, **rest)


products = scales(lambda v, x: x, lambda v, x: x)
quotients = scales(lambda v, x: 1 / x, lambda v, x: -x / v**2)
reversed_quotients = _turned(quotients)
reversed_differences = _turned(sums(1.0, -1.0))


def choice(
    call: Call, w: dict[str, Tensor], inputs: Tensors, condition: Any, one: Any = None, two: Any = None, out: Any = None
) -> Sums | None:
    """The rule of torch.where with a condition that is an input."""
    if out is not None or not isinstance(condition, Hole) or parameter(condition):
        return None
    pairs = [(one, lambda v, mask: mask), (two, lambda v, mask: ~mask)]
    return _made(call, [term(w, role, slope) for role, slope in pairs if parameter(role)], condition)


def joined(
    call: Call, w: dict[str, Tensor], inputs: Tensors, tensors: Any, dim: int = 0, out: Any = None
) -> Sums | None:
    """The rule of torch.cat."""
    if out is not None or not all(isinstance(role, Hole) for role in tensors):
        return None
    shapes = [
        view_shape(w[role.key].shape, role.steps) if parameter(role) else tuple(inputs[role.key].shape)
        for role in tensors
    ]
    axis = dim % len(call.shapes[0])
    if any(len(shape) != len(call.shapes[0]) for shape in shapes):
        return None
    lengths = [shape[axis] for shape in shapes]
    places = [(axis, sum(lengths[:number]), length) for number, length in enumerate(lengths)]
    return _made(
        call, [term(w, role, 1.0, place) for role, place in zip(tensors, places, strict=True) if parameter(role)]
    )


def slope_of_negatives(call: Call, w: dict[str, Tensor], inputs: Tensors, input: Any, weight: Any) -> Sums | None:
    """The rule of F.prelu, whose weight lies on the second axis."""
    if not sole(call, weight) or not isinstance(input, Hole):
        return None
    shape, size = w[weight.key].shape, w[weight.key].numel()
    into = (1, size, *[1] * (len(call.shapes[0]) - 2)) if size > 1 else ()
    its = layout(shape, weight.steps, range(len(view_shape(shape, weight.steps))), into)
    return None if its is None else Sums(call, (Term(weight.key, its, lambda v, x: x.clamp(max=0)),), input)


def alone(call: Call, w: dict[str, Tensor], inputs: Tensors, input: Any, *args: Any, **kwargs: Any) -> Sums | None:
    """The rule of a differentiable function of one number, where the number is a parameter's."""
    if not sole(call, input) or "out" in kwargs or "inplace" in kwargs:
        return None

    def slope(v: Tensor, _: Any) -> Tensor:
        found = torch.func.vjp(lambda v: call.function(v, *args, **kwargs), v)
        return found[1](torch.ones_like(found[0]))[0]  # type: ignore[no-any-return]

    return _made(call, [term(w, input, slope)])
