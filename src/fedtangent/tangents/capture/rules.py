"""What a call of a torch function is as a use of the parameters among its arguments."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import optree
import torch
from torch import Tensor
from torch.nn import functional as F

from fedtangent.tangents.capture import sums
from fedtangent.tangents.capture.contractions import (
    biased,
    einsum,
    linear,
    parameter,
    product,
    reversed_product,
    sole,
    tensordot,
)
from fedtangent.tangents.capture.layers import Affine, AnyCall, Call, Hole, Matrix, Sums, Tensors, Term, Use, Window
from fedtangent.tangents.capture.views import both, layout, then, view_shape

ADDITIONS = both("add", "__add__", "__radd__")


def use(call: Call, w: dict[str, Tensor], inputs: Tensors) -> Use:
    """The most that is known of a call; `inputs` are those of one sample."""
    known = _KNOWN.get(call.function)
    if known is None or len(call.shapes) != 1:
        return AnyCall(call)
    leaves, structure = call.arguments
    args, kwargs = optree.tree_unflatten(structure, leaves)
    return known(call, w, inputs, *args, **kwargs) or AnyCall(call)


def with_bias(matrix: Any, call: Call, w: dict[str, Tensor]) -> Matrix | None:
    """A matrix together with the parameter that `call` adds to its result, if that is a bias of its own."""
    biases = [leaf for leaf in call.arguments[0] if parameter(leaf)]
    if not isinstance(matrix, Matrix) or matrix.bias or matrix.spread or matrix.lookup or len(biases) != 1:
        return None
    (bias,), shape = biases, matrix.call.shapes[0]
    view = view_shape(w[bias.key].shape, bias.steps)
    own = [axis for axis, size in enumerate((*[1] * (len(shape) - len(view)), *view)) if size != 1]
    if call.shapes != (shape,) or own != _leading(matrix.writes, shape, matrix.groups * matrix.fan_out):
        return None
    return biased(matrix, bias, w)


def _leading(axes: tuple[int, ...], shape: tuple[int, ...], size: int) -> list[int]:
    """The first of some axes that are longer than 1, as many as hold together so many numbers."""
    found: list[int] = []
    for axis in axes:
        if math.prod(shape[one] for one in found) < size and shape[axis] != 1:
            found.append(axis)
    return found


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
    made = _window(call, w, inputs, input, weight, bias)
    if made is None:
        return None
    shape, axes = made
    stride, dilation = (_per_axis(value, axes) for value in (stride, dilation))
    sides: list[int] = []
    for axis in reversed(range(axes)):  # F.pad begins with the last
        if padding == "same":
            total = dilation[axis] * (shape[2 + axis] - 1)
            sides += [total // 2, total - total // 2]
        else:
            sides += [0 if padding == "valid" else _per_axis(padding, axes)[axis]] * 2
    window = Window(shape[2:], stride, dilation, tuple(sides))
    size = groups, shape[0] // groups, math.prod(shape[1:])
    its = layout(w[weight.key].shape, weight.steps, range(len(shape)), size)
    if its is None or not its.once:
        return None
    result = call.shapes[0]
    found = Matrix(
        call, weight.key, its, result[0] * math.prod(result[2:]), writes=_channels_first(result), window=window
    )
    return biased(found, bias, w) if parameter(bias) else found


def _transposed_convolution(
    call: Call,
    w: dict[str, Tensor],
    inputs: Tensors,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Matrix | None:
    """A matrix at the positions of the input, whose results a window spreads; a bias is a sum of its own."""
    made = None if parameter(bias) else _window(call, w, inputs, input, weight, None)
    if made is None:
        return None
    shape, axes = made
    stride, dilation, padding, more = (_per_axis(value, axes) for value in (stride, dilation, padding, output_padding))
    sides = [side for axis in reversed(range(axes)) for side in (padding[axis], padding[axis] - more[axis])]
    window = Window(shape[2:], stride, dilation, tuple(sides))
    inner, outer = shape[0] // groups, math.prod(shape[1:])
    # (G, I, O) with G and I on one axis: told apart before they change places
    split = then(weight.steps, Tensor.unflatten, 0, (groups, shape[0] // groups))
    its = layout(w[weight.key].shape, split, [0, *range(2, 2 + axes + 1), 1], (groups, outer, inner))
    if its is None or not its.once:
        return None
    x = inputs[input.key].shape
    at = x[0] * math.prod(x[2:])
    return Matrix(
        call, weight.key, its, at, reads=_channels_first(x), writes=_channels_first(call.shapes[0]),
        window=window, spread=True,
    )  # fmt: skip


def _window(
    call: Call, w: dict[str, Tensor], inputs: Tensors, input: Any, weight: Any, bias: Any
) -> tuple[tuple[int, ...], int] | None:
    """The shape of a convolution's weight and how many axes it moves along, if the weight is a parameter of its own."""
    if not parameter(weight) or not sole(call, weight, *([bias] if parameter(bias) else [])):
        return None
    shape = view_shape(w[weight.key].shape, weight.steps)
    axes = len(shape) - 2
    return (shape, axes) if isinstance(input, Hole) and inputs[int(input.key)].dim() == axes + 2 else None


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, 0, *range(2, len(shape)))


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
    return _lookup(call, w, inputs, weight, input, padding_idx)


def _lookup(
    call: Call,
    w: dict[str, Tensor],
    inputs: Tensors,
    weight: Any,
    index: Any,
    skipped: int | None = None,
    axis: int = 0,
) -> Matrix | None:
    """Rows of a table by their numbers, or what lies along another axis."""
    if not sole(call, weight) or not isinstance(index, Hole) or parameter(index):
        return None
    shape = view_shape(w[weight.key].shape, weight.steps)
    rest = [other for other in range(len(shape)) if other != axis]
    size = (1, shape[axis], math.prod(shape[other] for other in rest))
    its = layout(w[weight.key].shape, weight.steps, [axis, *rest], size)
    if its is None or not its.once:
        return None
    rows = inputs[int(index.key)]
    at = range(axis, axis + rows.dim())
    writes = (*(other for other in range(len(call.shapes[0])) if other not in at), *at)
    skipped = skipped % shape[0] if skipped is not None else None
    return Matrix(call, weight.key, its, rows.numel(), writes=writes, lookup=True, skipped=skipped)


def _picked(call: Call, w: dict[str, Tensor], inputs: Tensors, weight: Any, index: Any) -> Matrix | None:
    """A table indexed with one tensor of integers, perhaps after whole axes."""
    *ahead, rows = (index,) if isinstance(index, Hole) or not isinstance(index, tuple) else index
    if not isinstance(rows, Hole) or isinstance(rows.key, str) or any(one != slice(None) for one in ahead):
        return None
    kind = inputs[rows.key].dtype
    return _lookup(call, w, inputs, weight, rows, axis=len(ahead)) if kind in (torch.int64, torch.int32) else None


def _index_select(
    call: Call, w: dict[str, Tensor], inputs: Tensors, weight: Any, dim: int, index: Any, out: Any = None
) -> Matrix | None:
    axis = dim % max(1, len(view_shape(w[weight.key].shape, weight.steps))) if parameter(weight) else 0
    return _lookup(call, w, inputs, weight, index, axis=axis) if out is None else None


def _normalised(first: int) -> Callable[..., Affine | Sums | None]:
    """The rule of a normalisation whose parameters lie on the axes from `first` on, or on that one where it is 1."""

    def rule(call: Call, w: dict[str, Tensor], inputs: Tensors, *args: Any, **kwargs: Any) -> Affine | Sums | None:
        bound = inspect.signature(call.function).bind(*args, **kwargs).arguments
        scale: Any = bound.get("weight")
        shift: Any = bound.get("bias")
        roles = [role for role in (scale, shift) if parameter(role)]
        if not roles or not sole(call, *roles) or any(role.steps for role in roles):
            return None
        axes, own = len(call.shapes[0]), w[roles[0].key].dim()
        before = 1 if first == 1 else axes - own
        if parameter(scale):
            if isinstance(shift, Hole) and not parameter(shift):
                return None  # what is kept would hold it
            return Affine(call, scale.key, shift.key if shift is not None else None, before, axes - before - own)
        shape = (*w[shift.key].shape, *[1] * (axes - before - own))
        its = layout(w[shift.key].shape, (), range(own), shape)
        return None if its is None else Sums(call, (Term(shift.key, its),))

    return rule


_KNOWN: dict[Any, Callable[..., Use | None]] = {
    F.linear: linear,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _transposed_convolution),
    F.embedding: _embedding,
    Tensor.__getitem__: _picked,
    F.layer_norm: _normalised(-1),
    F.rms_norm: _normalised(-1),
    F.group_norm: _normalised(1),
    F.batch_norm: _normalised(1),
    F.instance_norm: _normalised(1),
    F.prelu: sums.slope_of_negatives,
    torch.einsum: einsum,
    torch.tensordot: tensordot,
    Tensor.__rmatmul__: reversed_product,
    Tensor.__rsub__: sums.reversed_differences,
    Tensor.__rdiv__: sums.reversed_quotients,
    **dict.fromkeys(both("index_select"), _index_select),
    **dict.fromkeys(both("matmul", "mm", "bmm", "mv", "__matmul__"), product),
    **dict.fromkeys(ADDITIONS, sums.sums(1.0, 1.0)),
    **dict.fromkeys(both("sub", "subtract", "__sub__"), sums.sums(1.0, -1.0)),
    **dict.fromkeys(both("mul", "multiply", "__mul__", "__rmul__"), sums.products),
    **dict.fromkeys(both("div", "divide", "true_divide", "__truediv__", "__div__"), sums.quotients),
    **dict.fromkeys(both("where"), sums.choice),
    **dict.fromkeys(both("cat", "concat", "concatenate"), sums.joined),
    **dict.fromkeys(
        both("clone", "neg", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "sigmoid", "tanh", "abs", "relu")
        | {F.softplus, F.sigmoid, F.tanh},
        sums.alone,
    ),
}
