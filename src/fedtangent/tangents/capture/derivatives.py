"""J v and J^T alpha as training has them, which is what backward passes give, whatever a model does on its way.

Forward mode is the fastest way to J v, but it does not see torch.no_grad, hooks, and functions of autograd with a
backward of their own; `torch.func` cannot differentiate checkpoints and old functions of autograd at all. So the ways
are compared with plain `torch.autograd` on a few samples, and the first that agrees is taken.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.memory import out_of_memory
from fedtangent.multiply_adds import uncounted
from fedtangent.outside_vmap import look
from fedtangent.tangents.capture import products
from fedtangent.tangents.capture.functional import Weights, call, first_line, plain, plain_forward
from fedtangent.tangents.capture.samples import Samples, some

_FEW = 3  # samples that are compared
# Relative differences: that rounding alone makes, and that no rounding makes, not even that of a GPU's short products.
_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-9}
_WRONG = 0.03

Way = Literal["forward", "backward twice", "autograd", "rows"]
_WAYS: tuple[Way, ...] = ("forward", "backward twice", "autograd", "rows")


class Ways(NamedTuple):
    """How derivatives are taken. push: of J v. transforms: whether torch.func gives J^T alpha, or autograd has to."""

    push: Way
    transforms: bool


FASTEST = Ways("forward", True)


def push(model: nn.Module, w: Weights, x: Samples, v: Weights, ways: Ways) -> tuple[Tensor, Tensor]:
    """f(x; w) and J v, (n, C)."""

    def f(w: Weights) -> Tensor:
        return call(model, w, x)

    if ways.push in ("autograd", "rows"):
        return products.push(model, w, x, v, by_rows=ways.push == "rows")
    with plain_forward():
        if ways.push == "forward":
            return torch.func.jvp(f, (w,), (v,))  # type: ignore[return-value]
        value, back = torch.func.vjp(f, w)  # type: ignore[misc]
        return value, torch.func.vjp(lambda alpha: back(alpha)[0], torch.zeros_like(value))[1](v)[0]


def pull(model: nn.Module, w: Weights, x: Samples, alpha: Tensor, ways: Ways) -> Weights:
    """J^T alpha, a tree like w."""
    if not ways.transforms:
        return products.pull(model, w, x, alpha, by_rows=ways.push == "rows")
    with plain():
        return torch.func.vjp(lambda w: call(model, w, x), w)[1](alpha)[0]  # type: ignore[no-any-return]


def ways(model: nn.Module, w: Weights, x: Samples) -> Ways:
    """The ways that agree with backward passes at w on a few of some samples; outside of all transforms.

    Raises:
        ValueError: None does, which is so where a backward pass is not linear; a model without backward passes.
    """
    return _agreeing(model, w, some(x, _FEW)) or FASTEST  # where numbers are not finite, whoever takes them says so


@torch.no_grad()  # what is no parameter may have a history of its own
def _agreeing(model: nn.Module, w: Weights, x: Samples) -> Ways | None:
    with torch.enable_grad(), plain():
        f = call(model, w, x).detach()
    alpha = _normal(f, 0)
    try:
        pulled = products.pull(model, w, x, alpha)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise SettingError(
            f"`model` must have a derivative by its parameters; got {type(error).__name__}: {first_line(error)}. "
            "Freeze the parameters before what has none, or replace it."
        ) from error
    if not trees.is_finite([f, pulled]):
        return None
    floor = 0.01 * max(float(part.norm()) for part in pulled.values()) or 1.0
    size = {name: max(float(part.norm()), floor) for name, part in pulled.items()}
    its = _tried(lambda: pull(model, w, x, alpha, FASTEST))
    transforms = its is not None and all(float((its[n] - part).norm()) <= 1e-3 * size[n] for n, part in pulled.items())

    def off(one: Ways, draw: int) -> float:
        """|alpha . J v - v . J^T alpha|, relative, for a random v in which every parameter weighs alike."""
        v = {name: _normal(part, 1000 * draw + i) / size[name] for i, (name, part) in enumerate(pulled.items(), 1)}
        shares = torch.stack([(v[name] * part).sum() for name, part in pulled.items()])
        j = _tried(partial(push, model, w, x, v, one))
        difference = math.nan if j is None else float((alpha * j[1]).sum() - shares.sum())
        return abs(difference) / max(float(shares.norm()), 1.0) if math.isfinite(difference) else math.inf

    errors: dict[Ways, float] = {}
    # what torch.func cannot pull back, it may push forward, but not inside of every transform
    for way in _WAYS if transforms else _WAYS[2:]:
        one = Ways(way, transforms)
        errors[one] = off(one, 0)
        if errors[one] <= _ROUNDING[f.dtype]:
            return one
    # none to the last digits: the first of those that come as near as any, whichever v is drawn
    errors = {one: max(error, off(one, 1), off(one, 2)) for one, error in errors.items()}
    best = min(errors.values())
    if best > _WRONG:
        raise SettingError(
            "`model` must have backward passes that are linear in the derivatives that they pass on, for only then is "
            f"there a J; got one that is off by {best:.2g}. Leave out what clips or rounds derivatives on their way."
        )
    return next(one for one, error in errors.items() if error <= 4 * best)


_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, Ways]] = WeakKeyDictionary()


def known_ways(model: nn.Module, w_0: Weights, example: Samples | None, x: Samples) -> Ways:
    """`ways` of a task's model, found once, at weights near w_0, where nothing is zero by design.

    Args:
        model: Stays as it is.
        w_0: Its parameters, outside of all transforms.
        example: A few samples, outside of all transforms; without, the first ones of x.
        x: Samples, under whatever transforms.
    """
    known = _KNOWN.setdefault(model, {})
    key = tuple(w_0)
    if key not in known:
        near = {
            name: part + 0.1 * (part.std(correction=0) + 0.1) * _normal(part, i)
            for i, (name, part) in enumerate(w_0.items())
        }

        def find(first: Samples) -> None:
            few = some(first if example is None else example, _FEW)
            known[key] = _agreeing(model, near, few) or ways(model, w_0, few)

        with uncounted():
            look(find, x)
    return known[key]


def _normal(like: Tensor, seed: int) -> Tensor:
    """Random numbers of its shape; not torch's, which vmap would refuse."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(like.shape))).to(like)


def _tried(take: Callable[[], Any]) -> Any:
    """What is found; None where torch cannot, in its many ways to say so."""
    try:
        return take()
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
