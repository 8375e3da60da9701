"""Models that are a chain of linear maps of one vector a sample, with functions of one number between them.

Elsewhere samples go one by one, under vmap, and through the model's own modules, for it may do anything. Of a chain a
pass of all samples is a product a map; it is tried on some samples before it is relied on. The result of a map may be
`given`: one that is known already is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent.tangents.capture.dependence import tensors
from fedtangent.tangents.capture.flow import ELEMENTWISE
from fedtangent.tangents.capture.functional import Weights, call, plain
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.samples import Samples

if TYPE_CHECKING:
    from fedtangent.tangents.capture.uses import Uses

# What may be done to the samples before the first map, and asked of any tensor.
_BEFORE = {torch.flatten, Tensor.flatten, Tensor.reshape, Tensor.view, Tensor.squeeze, Tensor.contiguous}
_SHAPES = {Tensor.size, Tensor.dim, Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.__len__, Tensor.numel}  # type: ignore[attr-defined]

Function = tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]


class Link(NamedTuple):
    """A linear map: its use, its weight and bias, and the functions of one number that follow."""

    key: str
    weight: str
    bias: str | None
    after: tuple[Function, ...]


@dataclass(frozen=True)
class Chain:
    """The maps in the order of a pass; the last one's result is f."""

    links: tuple[Link, ...]

    def run(
        self, w: Weights, x: Tensor, probes: Mapping[str, Tensor] | None = None, given: Weights | None = None
    ) -> tuple[Tensor, Weights]:
        """f (n, C) and the input (n, I) of every map, by use.

        Args:
            w: The parameters; of many models along a leading axis, as f then is, where all first results are `given`.
            x: All samples, (n, ...).
            probes: To add to results (n, O), by use.
            given: Results, by use, that are not computed.
        """
        kept: Weights = {}
        a = x.flatten(1)
        for link in self.links:
            kept[link.key] = a
            if given is not None and link.key in given:
                a = given[link.key]
            else:
                a = _mapped(a, w[link.weight], None if link.bias is None else w[link.bias])
            if probes is not None and link.key in probes:
                a = a + probes[link.key]
            for function, args, kwargs in link.after:
                a = function(a, *args, **kwargs)
        return a, kept


def _mapped(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.dim() == 2:
        return F.linear(a, weight, bias)
    return a @ weight.mT if bias is None else torch.baddbmm(bias[:, None], a, weight.mT)


def chain(model: nn.Module, w: Weights, x: Samples, uses: Uses) -> Chain | None:
    """The chain that a model is by a pass of samples x (n, ...), which has yet to be tried; None where it is none."""
    names = [name for use in uses.by_name.values() for name in use.call.names]
    linear = all(isinstance(use, Matrix) and use.dense and use.layout.in_order for use in uses.by_name.values())
    if not linear or len(names) != len({*names}) or uses.sums or not isinstance(x, Tensor):
        return None
    follower = _Follower(w, x, {id(w[use.weight]): key for key, use in uses.by_name.items() if isinstance(use, Matrix)})
    try:
        with torch.no_grad(), plain(), follower:
            f = call(model, w, x)
    except _NoChain:
        return None
    if f is not follower.last or [link.key for link in follower.links] != [*uses.by_name]:
        return None
    return Chain(
        tuple(link._replace(after=tuple(after)) for link, after in zip(follower.links, follower.after, strict=True))
    )


class _NoChain(Exception):
    """A function that no chain has."""


class _Follower(TorchFunctionMode):
    """While it is entered: notes the maps and functions of a chain, and stops where a pass is none."""

    def __init__(self, w: Weights, x: Tensor, keys: dict[int, str]) -> None:
        super().__init__()
        self._names, self._keys = {id(part): name for name, part in w.items()}, keys
        self.links: list[Link] = []
        self.after: list[list[Function]] = []
        self.last: Tensor = x

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function."""
        kwargs = kwargs or {}
        if function in _SHAPES:
            return function(*args, **kwargs)
        if function is Tensor.clone and not self.links:  # the pass begins with it
            self.last = function(*args, **kwargs)
            return self.last
        if not args or args[0] is not self.last:
            raise _NoChain
        if function is F.linear:
            self._map(*args, **kwargs)
        elif len(tensors((args, kwargs))) > 1 or function not in (ELEMENTWISE if self.links else _BEFORE):
            raise _NoChain
        elif self.links:
            self.after[-1].append((function, args[1:], kwargs))
        self.last = function(*args, **kwargs)
        return self.last

    def _map(self, a: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        if id(weight) not in self._keys or (bias is not None and id(bias) not in self._names) or a.dim() != 2:
            raise _NoChain
        name = None if bias is None else self._names[id(bias)]
        self.links.append(Link(self._keys[id(weight)], self._names[id(weight)], name, ()))
        self.after.append([])
