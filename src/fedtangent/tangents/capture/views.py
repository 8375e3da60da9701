"""Parameters seen through functions that only rearrange their numbers: transposed, reshaped, sliced.

Such a view is no use of a parameter yet. What is done with it is one, and knows by the view's layout which of the
parameter's numbers is where.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


def both(*names: str) -> set[Any]:
    """The functions of these names, of torch and of tensors, as far as there are any."""
    return {getattr(owner, name) for name in names for owner in (torch, Tensor) if hasattr(owner, name)}


# Of one tensor; every number of it is kept or left out, or repeated.
_REARRANGING = both(
    "adjoint", "broadcast_to", "chunk", "contiguous", "expand", "flatten", "hsplit", "movedim", "moveaxis", "narrow",
    "permute", "ravel", "reshape", "select", "split", "squeeze", "swapaxes", "swapdims", "t", "tensor_split",
    "transpose", "unbind", "unflatten", "unsqueeze", "view", "vsplit", "__getitem__",
) | {Tensor.T.__get__, Tensor.mT.__get__, Tensor.H.__get__, Tensor.mH.__get__}  # type: ignore[attr-defined]  # fmt: skip

# Where shape, type and device stay, these give the tensor as it is.
_IDENTITIES = both("to", "float", "double", "type", "type_as", "cpu", "cuda")


class Step(NamedTuple):
    """A call that rearranges a tensor: the leaves of its arguments and their structure, the tensor's place, a part."""

    function: Callable[..., Any]
    leaves: tuple[Any, ...]
    structure: Any
    place: int
    part: int | None

    def of(self, view: Tensor) -> Tensor:
        """The tensor rearranged."""
        leaves = [*self.leaves]
        leaves[self.place] = view
        args, kwargs = optree.tree_unflatten(self.structure, leaves)
        found = self.function(*args, **kwargs)
        return found if self.part is None else found[self.part]  # type: ignore[no-any-return]


Steps = tuple[Step, ...]


def then(steps: Steps, function: Callable[..., Any], *rest: Any) -> Steps:
    """One more step: `function` with these further arguments."""
    leaves: list[Any]
    leaves, structure = optree.tree_flatten(((None, *rest), {}), none_is_leaf=True)  # type: ignore[arg-type]
    return (*steps, Step(function, tuple(leaves), structure, 0, None))


def seen(w: Tensor, steps: Steps) -> Tensor:
    """A parameter through these steps."""
    for step in steps:
        w = step.of(w)
    return w


def views(function: Any, leaves: list[Any], structure: Any, steps: Steps, result: Any) -> list[tuple[Tensor, Steps]]:
    """The tensors of a result that are views of its one tensor argument, seen through `steps` itself; else none."""
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if len(places) != 1 or (function not in _REARRANGING and function not in _IDENTITIES):
        return []
    own = leaves[places[0]]
    if function in _IDENTITIES:
        same = (result.shape, result.dtype, result.device) == (own.shape, own.dtype, own.device)
        return [(result, steps)] if same else []
    if function is Tensor.__getitem__ and not _picks_once(optree.tree_unflatten(structure, leaves)[0][1]):
        return []
    parts = [*enumerate(result)] if isinstance(result, (tuple, list)) else [(None, result)]
    if any(part.dtype != own.dtype for _, part in parts):
        return []
    given = tuple(None if place == places[0] else leaf for place, leaf in enumerate(leaves))
    return [(part, (*steps, Step(function, given, structure, places[0], number))) for number, part in parts]


def _picks_once(index: Any) -> bool:
    """Whether an index leaves every number at most one place."""
    each = index if isinstance(index, tuple) else (index,)
    return all(one is None or one is Ellipsis or type(one) in (int, slice) for one in each)


@dataclass(frozen=True)
class Layout:
    """Every number of a parameter (*axes) at one place of a view (*shape), by way of split axes in another order."""

    axes: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    once = True

    @property
    def in_order(self) -> bool:
        """Whether the view has the numbers in the parameter's order."""
        return self.order == tuple(range(len(self.order)))

    def of(self, w: Tensor) -> Tensor:
        """(..., *axes) as (..., *shape)."""
        return self._moved(w, self.axes, self.split, self.order, self.shape)

    def back(self, view: Tensor) -> Tensor:
        """(..., *shape) as (..., *axes), the transpose of `of`."""
        inverse = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return self._moved(view, self.shape, tuple(self.split[axis] for axis in self.order), inverse, self.axes)

    @staticmethod
    def _moved(
        w: Tensor, axes: tuple[int, ...], split: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]
    ) -> Tensor:
        ahead = w.dim() - len(axes)
        lead = w.shape[:ahead]
        if order == tuple(range(len(order))):
            return w.reshape((*lead, *shape))
        moved = w.reshape((*lead, *split)).permute(*range(ahead), *(ahead + axis for axis in order))
        return moved.reshape((*lead, *shape))


@dataclass(frozen=True)
class Picked:
    """A view (*shape) of a part of a parameter (*axes), or one that repeats numbers.

    Attributes:
        once: Whether none is repeated.
    """

    axes: tuple[int, ...]
    steps: Steps
    order: tuple[int, ...]
    shape: tuple[int, ...]
    once: bool
    in_order = False

    def of(self, w: Tensor) -> Tensor:
        """(..., *axes) as (..., *shape)."""
        lead = w.shape[: w.dim() - len(self.axes)]
        if not lead:
            return self._one(w)
        return torch.func.vmap(self._one)(w.reshape((-1, *self.axes))).reshape(*lead, *self.shape)

    def back(self, view: Tensor) -> Tensor:
        """(..., *shape) as (..., *axes), the transpose of `of`: repeated numbers are summed, absent ones zero."""
        lead = view.shape[: view.dim() - len(self.shape)]
        vjp = torch.func.vjp(self._one, view.new_zeros(self.axes))[1]
        return torch.func.vmap(vjp)(view.reshape(-1, *self.shape))[0].reshape(*lead, *self.axes)  # type: ignore[no-any-return]

    def _one(self, w: Tensor) -> Tensor:
        return seen(w, self.steps).permute(self.order).reshape(self.shape)


def view_shape(axes: Sequence[int], steps: Steps) -> tuple[int, ...]:
    """The shape of a parameter (*axes) seen through some steps."""
    with temporarily_clear_interpreter_stack():
        return tuple(seen(torch.empty(tuple(axes), device="meta"), steps).shape)


def layout(axes: Sequence[int], steps: Steps, order: Sequence[int], shape: Sequence[int]) -> Layout | Picked | None:
    """How a parameter (*axes), seen through steps, its axes then in another order, has `shape`; None if it cannot."""
    axes, order, shape = tuple(axes), tuple(order), tuple(shape)
    with temporarily_clear_interpreter_stack():
        view = whole = torch.empty(axes, device="meta")
        sizes = [whole.numel()]
        try:
            for step in steps:
                view = step.of(view)
                sizes.append(view.numel())
        except RuntimeError:  # of a parameter that is not contiguous
            return None
        view = view.permute(order)
        same = view.untyped_storage()._cdata == whole.untyped_storage()._cdata
    once = all(after <= before for before, after in pairwise(sizes))
    if same and once and view.numel() == whole.numel():
        return _dense(axes, view, shape)
    return Picked(axes, steps, order, shape, once)


def _dense(axes: tuple[int, ...], view: Tensor, shape: tuple[int, ...]) -> Layout:
    """The layout of a view that has all numbers, from its strides; axes that stay neighbours are one."""
    sides = [(stride, size) for stride, size in zip(view.stride(), view.shape, strict=True) if size != 1]
    ranks = sorted(range(len(sides)), key=lambda axis: -sides[axis][0])
    rank = [ranks.index(axis) for axis in range(len(sides))]
    runs: list[list[int]] = []
    for one in rank:
        if runs and runs[-1][-1] == one - 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    first = sorted(run[0] for run in runs)
    order = tuple(first.index(run[0]) for run in runs)
    size = {run[0]: math.prod(sides[ranks[one]][1] for one in run) for run in runs}
    return Layout(axes, tuple(size[start] for start in first), order, shape)
