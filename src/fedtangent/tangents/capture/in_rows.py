"""Gradients by plain automatic differentiation, of a large matrix by some of its rows at a time.

Automatic differentiation gives the gradient by a whole tensor or none. In a graph where every piece of a matrix is a
leaf of its own, and the layer's result is put together from theirs, it gives that of a piece.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent.tangents.capture.functional import Weights, call, holding, plain
from fedtangent.tangents.capture.layers import Hole
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.numerics.kernel_parts import Part, cuts

Pieces = dict[str, list[Tensor]]


class Graph:
    """f(x; w) together with its graph, to be pulled back along alpha (n, C).

    Attributes:
        together: f, (n, C).
    """

    def __init__(self, model: nn.Module, leaves: Weights, pieces: Pieces, x: Samples, alpha: Tensor) -> None:
        self._leaves, self._pieces, self._alpha = leaves, pieces, alpha
        with torch.enable_grad(), _InRows(leaves, pieces):
            self.together = call(model, leaves, x)

    def gradients(self, names: list[str]) -> list[Tensor | None]:
        """J^T alpha by these parameters; None where nothing depends on one."""
        found = self._pulled([self._leaves[name] for name in names])
        for i, name in enumerate(names):
            rows = self._pulled(self._pieces.get(name, []))
            if any(row is not None for row in rows):
                whole, rest = torch.cat([row for row in rows if row is not None]), found[i]
                found[i] = whole if rest is None else whole + rest
        return found

    def in_rows(self, part: Part) -> bool:
        """Whether the gradient by a part's matrix comes in pieces, for nothing but layers that are cut uses it."""
        matrix = part.matrix
        if matrix is None or matrix.lookup or matrix.groups > 1 or matrix.weight not in self._pieces:
            return False
        return self._pulled([self._leaves[matrix.weight]]) == [None]

    def rows(self, name: str) -> list[slice]:
        """The rows of every piece of such a matrix."""
        ends = [0, *accumulate(map(len, self._pieces[name]))]
        return [slice(start, end) for start, end in pairwise(ends)]

    def gradient_of_rows(self, name: str, number: int) -> Tensor:
        """The gradient by a piece, (rows, I)."""
        piece = self._pieces[name][number]
        (found,) = self._pulled([piece])
        return (torch.zeros_like(piece) if found is None else found).flatten(1)

    def _pulled(self, leaves: list[Tensor]) -> list[Tensor | None]:
        if not leaves or not self.together.requires_grad:
            return [None] * len(leaves)
        found = torch.autograd.grad(self.together, leaves, self._alpha, retain_graph=True, allow_unused=True)
        return list(found)


@contextmanager
def graph(model: nn.Module, w: Weights, x: Samples, alpha: Tensor, most: int) -> Iterator[Graph]:
    """The graph of some samples, in which matrices of more than `most` numbers are cut into pieces of about so many."""
    leaves = {name: part.detach().requires_grad_() for name, part in w.items()}
    pieces = {
        name: [part.detach()[rows].requires_grad_() for rows in cuts(len(part), piece_rows(part.shape, most))]
        for name, part in w.items()
        if part.dim() > 1 and part.numel() > most
    }
    with holding(model, leaves), plain():
        yield Graph(model, leaves, pieces, x, alpha)


def piece_rows(shape: tuple[int, ...], most: int) -> int:
    """Rows of a piece."""
    return max(1, most // max(1, torch.Size(shape[1:]).numel()))


def can_be_cut(part: Part) -> bool:
    """Whether all uses of a part are layers whose matrix can be cut."""
    matrix = part.matrix
    if matrix is None or matrix.groups > 1:
        return False
    roles = [leaf for one in part.uses for leaf in one.call.arguments[0] if isinstance(leaf, Hole)]
    plain = not any(leaf.steps for leaf in roles if leaf.key == matrix.weight)
    return plain and all(one.call.function in _CUT for one in part.uses)


class _InRows(TorchFunctionMode):
    """While it is entered: layers whose matrix is cut are put together from its pieces."""

    def __init__(self, leaves: Weights, pieces: Pieces) -> None:
        super().__init__()
        self._pieces = {id(leaves[name]): its for name, its in pieces.items()}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _CUT:
            return _CUT[function](function, self._pieces, *args, **kwargs)
        return function(*args, **kwargs)


def _linear(function: Any, cut: dict[int, list[Tensor]], input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    pieces = cut.get(id(weight))
    if pieces is None:
        return function(input, weight, bias)  # type: ignore[no-any-return]
    found = torch.cat([function(input, piece) for piece in pieces], -1)
    return found if bias is None else found + bias


def _convolution(
    function: Any,
    cut: dict[int, list[Tensor]],
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    pieces = cut.get(id(weight))
    if pieces is None or groups > 1:
        return function(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]
    axes = weight.dim() - 2
    found = torch.cat([function(input, piece, None, stride, padding, dilation) for piece in pieces], -1 - axes)
    return found if bias is None else found + bias.reshape(-1, *[1] * axes)


_CUT: dict[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
}
