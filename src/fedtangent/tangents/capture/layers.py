"""The ways in which parameters act on a sample, and their gradients from what goes in and how the outputs react.

A use is one call of a torch function with parameters among its arguments, such as a linear map. From its inputs a and
the sensitivities d of the C outputs to its result follow the gradients of the outputs by its parameters. That by a
matrix which acts at S positions (tokens, pixels) is sum_s d_s u_s^T, and need not be formed.

n samples; G groups of a convolution; I inputs and O results of a group at a position.
"""

import math
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import optree
import torch
from torch import Tensor
from torch.nn import functional as F

from fedtangent import trees
from fedtangent.tangents.capture.functional import PlainLayers, each
from fedtangent.tangents.capture.views import Layout, Picked, Steps, seen

Gradients = dict[str, Tensor]  # (n, C, *shape), by the parameter's name
Tensors = tuple[Tensor, ...]


class Hole(NamedTuple):
    """The place of a tensor in a call: of a parameter, by name and as seen through steps, or of an input, by number."""

    key: str | int
    steps: Steps = ()


@dataclass(frozen=True)
class Call:
    """A call of a torch function on one sample.

    Attributes:
        function: That is called.
        arguments: Its (args, kwargs) as leaves, a `Hole` for every tensor, and their structure.
        names: Its parameters.
        shapes: Of its results.
    """

    function: Callable[..., Any]
    arguments: tuple[list[Any], Any]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def same(self, other: "Call") -> bool:
        """Whether the other one calls the same function with the same arguments, but for its tensors' values."""
        (own, structure), (its, other_structure) = self.arguments, other.arguments
        return (
            (self.function, self.shapes, structure) == (other.function, other.shapes, other_structure)
            and len(own) == len(its)
            and all(map(_same, own, its))
        )

    def results(self, own: dict[str, Tensor], inputs: Tensors) -> Tensors:
        """What it gives with these parameters and inputs."""
        leaves, structure = self.arguments

        def filled(leaf: Any) -> Any:
            if not isinstance(leaf, Hole):
                return leaf
            return seen(own[leaf.key], leaf.steps) if isinstance(leaf.key, str) else inputs[leaf.key]

        args, kwargs = cast(tuple[Any, Any], optree.tree_unflatten(structure, [filled(leaf) for leaf in leaves]))
        with PlainLayers():
            return floats(self.function(*args, **kwargs))


@dataclass(frozen=True)
class AnyCall:
    """Any call. Its gradients come through torch.func, sample by sample and output by output."""

    call: Call
    way = "torch.func"

    def kept(self, inputs: Tensors) -> Tensors:
        """What of the inputs is needed later: a."""
        return inputs

    def gradients(self, w: dict[str, Tensor], a: Tensors, d: Tensors) -> Gradients:
        """The gradients of the outputs by its parameters, for a (n, ...) and d (n, C, ...)."""

        def one(a: Tensors, d: Tensors) -> Any:
            own = {name: w[name] for name in self.call.names}
            vjp = torch.func.vjp(lambda own: self.call.results(own, a), own)[1]
            # not vmap in vmap, for which some torch functions (prelu) have a wrong rule
            return trees.stack([vjp(row)[0] for row in zip(*(part.unbind() for part in d), strict=True)])

        return each(one, a, d)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Affine:
    """Scale and shift of a normalised input, a. The result's axes are (before, *parameter, after)."""

    call: Call
    scale: str
    shift: str | None
    before: int
    after: int
    way = "sums"

    def kept(self, inputs: Tensors) -> Tensors:
        """The normalised input."""
        like, shape = inputs[0], self.call.shapes[0][self.before : len(self.call.shapes[0]) - self.after]
        bare = {name: (torch.ones if name == self.scale else torch.zeros) for name in self.call.names}
        return self.call.results(
            {name: fill(shape, dtype=like.dtype, device=like.device) for name, fill in bare.items()}, inputs
        )

    def gradients(self, w: dict[str, Tensor], a: Tensors, d: Tensors) -> Gradients:
        """The gradients of the outputs by its parameters, for a (n, ...) and d (n, C, ...)."""
        shape = self.call.shapes[0]
        sides = math.prod(shape[: self.before]), math.prod(shape[len(shape) - self.after :])
        (x,), (d_,) = a, d
        x, d_ = x.reshape(len(x), sides[0], -1, sides[1]), d_.reshape(*d_.shape[:2], sides[0], -1, sides[1])
        found = {self.scale: torch.einsum("ncbpa,nbpa->ncp", d_, x)}
        if self.shift is not None:
            found[self.shift] = d_.sum((2, 4))
        return {name: part.reshape(*part.shape[:2], *w[name].shape) for name, part in found.items()}


class Term(NamedTuple):
    """A parameter in a `Sums`, as seen through its layout, broadcast to the result or to a part of it along an axis.

    Attributes:
        slope: The derivative of a number of the result by the parameter's: itself, or a function (parameter, other).
    """

    name: str
    layout: Layout | Picked
    slope: float | Callable[[Tensor, Any], Any] = 1.0
    along: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Sums:
    """Parameters that meet the result's numbers one by one: added, joined to them, or times a slope.

    Attributes:
        terms: The parameters.
        other: What slopes take: the place of an input, or a number.
    """

    call: Call
    terms: tuple[Term, ...]
    other: Any = None
    way = "sums"

    def kept(self, inputs: Tensors) -> Tensors:
        """The input that a slope needs, if one does."""
        return (inputs[int(self.other.key)],) if isinstance(self.other, Hole) else ()

    def gradients(self, w: dict[str, Tensor], a: Tensors, d: Tensors) -> Gradients:
        """The gradients of the outputs by its parameters, for a (n, ...) and d (n, C, ...)."""
        found: Gradients = {}
        for term in self.terms:
            part = d[0]
            if term.along is not None:
                axis, start, length = term.along
                part = part.narrow(2 + axis, start, length)
            view, axes = term.layout.of(w[term.name]), string.ascii_letters[2 : part.dim()]
            own = (*[1] * (len(axes) - view.dim()), *view.shape)
            kept = "".join(axis for axis, size in zip(axes, own, strict=True) if size != 1)
            slope = self._slope(term, view, a, len(axes))
            if isinstance(slope, Tensor):
                total = torch.einsum(f"ab{axes},a{axes}->ab{kept}", part, slope.to(part.dtype))
            else:
                total = slope * torch.einsum(f"ab{axes}->ab{kept}", part)
            one = term.layout.back(total.reshape(*part.shape[:2], *view.shape))
            found[term.name] = found[term.name] + one if term.name in found else one
        return found

    def _slope(self, term: Term, view: Tensor, a: Tensors, axes: int) -> Any:
        """A number, or (n, ...) or (1, ...) with all axes of the result."""
        if not callable(term.slope):
            return term.slope
        other = self.other
        if a:
            other = a[0].reshape(len(a[0]), *[1] * (axes + 1 - a[0].dim()), *a[0].shape[1:])
        slope = term.slope(view, other)
        return (
            slope if a or not isinstance(slope, Tensor) else slope.expand(1, *[1] * (axes - slope.dim()), *view.shape)
        )


class Window(NamedTuple):
    """How a convolution looks at its input: kernel, stride and dilation by axis, and the padding as F.pad has it."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]

    def columns(self, x: Tensor) -> Tensor:
        """What it sees of x (m, channels, ...): (m, channels times kernel, positions)."""
        x = F.pad(x, self.padding)
        axes = len(self.kernel)
        if axes > 2:
            for axis, (kernel, stride, dilation) in enumerate(
                zip(self.kernel, self.stride, self.dilation, strict=True)
            ):
                x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
            ahead = range(2, 2 + axes)
            return x.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *ahead).flatten(2 + axes).flatten(1, 1 + axes)
        if axes == 1:
            x = x.unsqueeze(-2)
        two = {name: part if axes == 2 else (1, *part) for name, part in self._asdict().items()}
        return F.unfold(x, two["kernel"], dilation=two["dilation"], stride=two["stride"])


@dataclass(frozen=True)
class Matrix:
    """A matrix that acts at S positions: a linear map, a convolution (its `window`) or an embedding (`lookup`).

    Attributes:
        layout: Of the weight as (G, O, I), or of an embedding as (1, I, O).
        positions: S.
        reads: The axes of the input in the order groups, I, S.
        writes: The axes of the result in the order groups, O, S.
        bias: Added at every position.
        bias_layout: Of the bias as (G, O).
        spread: Whether the window is one onto the result: a transposed convolution.
        skipped: The row of an embedding that is not trained.
    """

    call: Call
    weight: str
    layout: Layout | Picked
    positions: int
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    bias: str | None = None
    bias_layout: Layout | Picked | None = None
    window: Window | None = None
    spread: bool = False
    lookup: bool = False
    skipped: int | None = None
    way = "factors"

    @property
    def groups(self) -> int:
        """G."""
        return self.layout.shape[0]

    @property
    def fan_out(self) -> int:
        """O."""
        return self.layout.shape[2 if self.lookup else 1]

    @property
    def fan_in(self) -> int:
        """I."""
        return self.layout.shape[1 if self.lookup else 2]

    @property
    def dense(self) -> bool:
        """Whether it maps one vector a sample, whose numbers and those of the result are in order."""
        ordered = all(axes == tuple(sorted(axes)) for axes in (self.reads, self.writes))
        return ordered and self.groups == self.positions == 1 and self.window is None and not self.lookup

    def kept(self, inputs: Tensors) -> Tensors:
        """The input."""
        return inputs[:1]

    def inner(self, a: Tensors) -> Tensor:
        """u, what the matrix meets: (n, G, I, S); the rows that are looked up (n, S) for an embedding."""
        (x,) = a
        if self.lookup:
            return x.reshape(len(x), -1) % self.fan_in
        if self.window is None or self.spread:
            return x.permute(0, *(1 + axis for axis in self.reads)).reshape(len(x), self.groups, self.fan_in, -1)
        columns = self.window.columns(x.flatten(0, 1))
        columns = columns.reshape(len(x), -1, self.groups, self.fan_in, columns.shape[-1])
        return columns[:, 0] if columns.shape[1] == 1 else columns.permute(0, 2, 3, 1, 4).flatten(-2)

    def outer(self, d: Tensors) -> Tensor:
        """d, how the outputs react: (n, C, G, O, S)."""
        (part,) = d
        n, c = part.shape[:2]
        if not self.spread:
            part = part.permute(0, 1, *(2 + axis for axis in self.writes))
            return part.reshape(n, c, self.groups, self.fan_out, self.positions)
        assert self.window is not None
        columns = self.window.columns(part.flatten(0, 2))
        columns = columns.reshape(n, c, -1, self.groups, self.fan_out, columns.shape[-1])
        return columns.permute(0, 1, 3, 4, 2, 5).flatten(-2)

    def gradients(self, w: dict[str, Tensor], a: Tensors, d: Tensors) -> Gradients:
        """The gradients of the outputs by its parameters, for a (n, ...) and d (n, C, ...)."""
        u, out = self.inner(a), self.outer(d)
        if self.lookup:
            found = {self.weight: self.layout.back(self._scattered(u, out)[:, :, None])}
        else:
            found = {self.weight: self.layout.back(torch.einsum("ncgos,ngis->ncgoi", out, u))}
        if self.bias is not None and self.bias_layout is not None:
            found[self.bias] = self.bias_layout.back(out.sum(-1))
        return found

    def unfolded(self, outputs: int) -> int:
        """Numbers that its window makes for one sample of so many outputs."""
        if self.window is None:
            return 0
        wide = outputs * self.fan_out if self.spread else self.fan_in
        return self.groups * wide * self.positions

    def alike(self, u: Tensor, v: Tensor) -> Tensor:
        """u_ns . v_mt, (G, n, S, m, T), the 1 of the bias included."""
        if self.lookup:
            same = u[:, :, None, None] == v
            if self.skipped is not None:
                same = same & (u != self.skipped)[:, :, None, None]
            return same[None]
        rows, columns = (side.permute(1, 0, 3, 2).flatten(1, 2) for side in (u, v))
        found = rows @ columns.mT
        if self.bias is not None:
            found += 1
        return found.view(len(found), len(u), -1, len(v), v.shape[-1])

    def _scattered(self, u: Tensor, out: Tensor) -> Tensor:
        table = out.new_zeros(*out.shape[:2], self.fan_in, self.fan_out)
        rows = u[:, None, :, None].expand(*out.shape[:2], -1, self.fan_out)
        if self.skipped is not None:
            out = torch.where((u != self.skipped)[:, None, None, None], out, 0)
        return table.scatter_add(2, rows, out[:, :, 0].mT)


Use = Matrix | Affine | Sums | AnyCall


def _same(one: Any, other: Any) -> bool:
    """Whether two arguments that are no tensors are equal."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and np.array_equal(one, other)
    return one is other or (type(one) is type(other) and bool(one == other))


def floats(tree: Any) -> Tensors:
    """The floating-point tensors of a result, in order."""
    return tuple(leaf for leaf in optree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point())
