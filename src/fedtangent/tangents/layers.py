"""The ways in which parameters act on a sample, and their gradients from what goes in and how the outputs react.

A use is one call of a torch function with parameters among its arguments, such as a linear map. From its inputs a and
the sensitivities d of the C outputs to its result follow the gradients of the outputs by its parameters. That by a
matrix which acts at S positions (tokens, pixels) is sum_s d_s u_s^T, and need not be formed.

n samples; G groups of a convolution; I inputs and O results of a group at a position.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import optree
import torch
from torch import Tensor
from torch.nn import functional as F

from fedtangent import trees
from fedtangent.tangents.functional import PlainLayers, each

Gradients = dict[str, Tensor]  # (n, C, *shape), by the parameter's name
Tensors = tuple[Tensor, ...]


class Hole(NamedTuple):
    """The place of a tensor in a call: of a parameter, by name, or of an input, by number."""

    key: str | int


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
            (self.function, self.names, self.shapes, structure)
            == (other.function, other.names, other.shapes, other_structure)
            and len(own) == len(its)
            and all(map(_same, own, its))
        )

    def results(self, own: dict[str, Tensor], inputs: Tensors) -> Tensors:
        """What it gives with these parameters and inputs."""
        leaves, structure = self.arguments
        keys = [leaf.key if isinstance(leaf, Hole) else None for leaf in leaves]
        filled = [
            leaf if key is None else own[key] if isinstance(key, str) else inputs[key]
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        args, kwargs = cast(tuple[Any, Any], optree.tree_unflatten(structure, filled))
        with PlainLayers():
            return floats(self.function(*args, **kwargs))


@dataclass(frozen=True)
class Other:
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


class Window(NamedTuple):
    """How a convolution looks at its input: kernel, stride and dilation by axis, and the padding as F.pad has it."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """A matrix that acts at S positions: a linear map, a convolution (its `window`) or an embedding (`lookup`)."""

    call: Call
    weight: str
    bias: str | None
    groups: int
    positions: int
    fan_in: int
    fan_out: int
    window: Window | None = None
    lookup: bool = False
    skipped: int | None = None
    way = "factors"

    def kept(self, inputs: Tensors) -> Tensors:
        """The input."""
        return inputs[:1]

    def inner(self, a: Tensors) -> Tensor:
        """u, what the matrix meets: (n, G, I, S); the rows that are looked up (n, S) for an embedding."""
        (x,) = a
        if self.lookup:
            return x.reshape(len(x), -1)
        if self.window is None:
            return x.reshape(len(x), 1, -1, self.fan_in).mT
        flat = F.pad(x.flatten(0, 1), self.window.padding)
        if len(self.window.kernel) == 1:
            flat = flat.unsqueeze(-2)
        two = {name: part if len(part) == 2 else (1, *part) for name, part in self.window._asdict().items()}
        columns = F.unfold(flat, two["kernel"], dilation=two["dilation"], stride=two["stride"])
        columns = columns.reshape(len(x), -1, self.groups, self.fan_in, columns.shape[-1])
        return columns[:, 0] if columns.shape[1] == 1 else columns.permute(0, 2, 3, 1, 4).flatten(-2)

    def outer(self, d: Tensors) -> Tensor:
        """d, how the outputs react: (n, C, G, O, S)."""
        (part,) = d
        if self.window is None:
            return part.reshape(*part.shape[:2], 1, -1, self.fan_out).mT
        part = part.reshape(*part.shape[:3], self.groups, self.fan_out, -1)
        return part[:, :, 0] if part.shape[2] == 1 else part.permute(0, 1, 3, 4, 2, 5).flatten(-2)

    def gradients(self, w: dict[str, Tensor], a: Tensors, d: Tensors) -> Gradients:
        """The gradients of the outputs by its parameters, for a (n, ...) and d (n, C, ...)."""
        u, out = self.inner(a), self.outer(d)
        if self.lookup:
            found = {self.weight: self._scattered(u, out)}
        else:
            found = {self.weight: torch.einsum("ncgos,ngis->ncgoi", out, u)}
        if self.bias is not None:
            found[self.bias] = out.sum(-1)
        return {name: part.reshape(*part.shape[:2], *w[name].shape) for name, part in found.items()}

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


Use = Matrix | Affine | Other


def _same(one: Any, other: Any) -> bool:
    """Whether two arguments that are no tensors are equal; of other things than plain values, whether of one type."""
    if isinstance(one, (bool, int, float, complex, str, slice, torch.dtype, torch.device, Hole)):
        return type(one) is type(other) and bool(one == other)
    return one is other or type(one) is type(other)


def floats(tree: Any) -> Tensors:
    """The floating-point tensors of a result, in order."""
    return tuple(leaf for leaf in optree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point())


def use(call: Call, w: dict[str, Tensor], inputs: Tensors) -> Use:
    """The most that is known of a call; `inputs` are those of one sample."""
    leaves, structure = call.arguments
    args, kwargs = optree.tree_unflatten(structure, leaves)
    known = _KNOWN.get(call.function)
    return (known(call, w, inputs, *args, **kwargs) if known else None) or Other(call)


def _parameters(call: Call, weight: Any, bias: Any) -> bool:
    """Whether these two, of which the second may be absent, are all the parameters of the call."""
    roles = [weight] if bias is None else [weight, bias]
    return {role.key for role in roles if isinstance(role, Hole)} == set(call.names) and len(call.names) == len(roles)


def _name(role: Any) -> str | None:
    return None if role is None else role.key


def _linear(
    call: Call, w: dict[str, Tensor], inputs: Tensors, input: Any, weight: Any, bias: Any = None
) -> Matrix | None:
    if not _parameters(call, weight, bias):
        return None
    fan_out, fan_in = w[weight.key].shape
    return Matrix(call, weight.key, _name(bias), 1, math.prod(call.shapes[0][:-1]), fan_in, fan_out)


def _convolution(
    call: Call,
    w: dict[str, Tensor],
    inputs: Tensors,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Matrix | None:
    if not _parameters(call, weight, bias):
        return None
    shape = w[weight.key].shape
    axes = len(shape) - 2
    if inputs[input.key].dim() != axes + 2:
        return None
    stride, dilation = (_per_axis(value, axes) for value in (stride, dilation))
    sides: list[int] = []
    for axis in reversed(range(axes)):  # F.pad begins with the last
        if padding == "same":
            total = dilation[axis] * (shape[2 + axis] - 1)
            sides += [total // 2, total - total // 2]
        else:
            sides += [0 if padding == "valid" else _per_axis(padding, axes)[axis]] * 2
    window = Window(tuple(shape[2:]), stride, dilation, tuple(sides))
    result = call.shapes[0]
    positions = result[0] * math.prod(result[2:])
    return Matrix(call, weight.key, _name(bias), groups, positions, math.prod(shape[1:]), shape[0] // groups, window)


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values if len(values) == axes else values * axes


def _embedding(
    call: Call,
    w: dict[str, Tensor],
    inputs: Tensors,
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Matrix | None:
    if max_norm is not None or scale_grad_by_freq:
        return None
    rows, width = w[weight.key].shape
    skipped = padding_idx if padding_idx is None or padding_idx >= 0 else padding_idx + rows
    positions = math.prod(call.shapes[0][:-1])
    return Matrix(call, weight.key, None, 1, positions, rows, width, lookup=True, skipped=skipped)


def _normalised(first: int) -> Callable[..., Affine | None]:
    """The rule of a normalisation whose parameters lie on the axes from `first` on, or on that one where it is 1."""

    def rule(call: Call, w: dict[str, Tensor], inputs: Tensors, *args: Any, **kwargs: Any) -> Affine | None:
        scale, shift = _roles(call.function, args, kwargs)
        if not isinstance(scale, Hole) or not _parameters(call, scale, shift):
            return None
        axes, own = len(call.shapes[0]), w[str(scale.key)].dim()
        before = 1 if first == 1 else axes - own
        return Affine(call, str(scale.key), _name(shift), before, axes - before - own)

    return rule


def _roles(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    return bound.get("weight"), bound.get("bias")


_KNOWN: dict[Any, Callable[..., Matrix | Affine | None]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.embedding: _embedding,
    F.layer_norm: _normalised(-1),
    F.rms_norm: _normalised(-1),
    F.group_norm: _normalised(1),
    F.batch_norm: _normalised(1),
    F.instance_norm: _normalised(1),
}
