"""Products of an input with a parameter, written as sums over labelled axes, as matrices that act at positions.

Of the labels of an input, a parameter and their result, those that all three have are groups; those that the result
lacks are summed, I; those that the input lacks are O; those that the parameter lacks are positions, S.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from torch import Tensor

from fedtangent.tangents.capture.layers import Call, Hole, Matrix, Tensors
from fedtangent.tangents.capture.views import layout, view_shape

Labels = Sequence[Any]


def sole(call: Call, *holes: Any) -> bool:
    """Whether these are all places of parameters in the call, each of another one."""
    places = [leaf for leaf in call.arguments[0] if parameter(leaf)]
    return len(places) == len(call.names) == len(holes) and all(map(parameter, holes))


def parameter(role: Any) -> bool:
    """Whether an argument is a parameter."""
    return isinstance(role, Hole) and isinstance(role.key, str)


def contraction(
    call: Call,
    w: dict[str, Tensor],
    inputs: Tensors,
    input: Any,
    weight: Any,
    labels: tuple[Labels, Labels, Labels],
    bias: Any = None,
) -> Matrix | None:
    """The matrix by which a parameter acts on an input; `labels` are the input's, the parameter's and the result's."""
    if not sole(call, weight, *([bias] if parameter(bias) else [])) or not isinstance(input, Hole):
        return None
    own, its, result = (list(part) for part in labels)
    shape, view, into = inputs[int(input.key)].shape, view_shape(w[weight.key].shape, weight.steps), call.shapes[0]
    sizes: dict[Any, set[int]] = {}
    for part, axes in ((own, shape), (its, view), (result, into)):
        if len(set(part)) != len(part) or len(part) != len(axes):
            return None
        for label, size in zip(part, axes, strict=True):
            sizes.setdefault(label, set()).add(size)
    alone = [label for label in {**dict.fromkeys(own), **dict.fromkeys(its)} if (label in own) + (label in its) == 1]
    idle = [label for label in alone if label not in result]
    if any(len(each) != 1 for each in sizes.values()) or any(sizes[label] != {1} for label in idle):
        return None
    groups = [label for label in result if label in own and label in its]
    summed = [label for label in own if label in its and label not in result]
    out = [label for label in result if label not in own]
    at = [label for label in result if label not in its]
    reads = [own.index(label) for label in [*groups, *summed, *at, *(one for one in idle if one in own)]]
    writes = [result.index(label) for label in [*groups, *out, *at]]
    order = [its.index(label) for label in [*groups, *out, *(one for one in idle if one in its), *summed]]
    lengths = [math.prod(next(iter(sizes[label])) for label in part) for part in (groups, out, summed, at)]
    its_layout = layout(w[weight.key].shape, weight.steps, order, lengths[:3])
    if its_layout is None or not its_layout.once:
        return None
    return Matrix(call, weight.key, its_layout, lengths[3], _ones_last(reads, shape), _ones_last(writes, into))


def _ones_last(axes: list[int], shape: Sequence[int]) -> tuple[int, ...]:
    """An order of axes in which those of size 1 come last, in order: they may be anywhere."""
    ones = sorted(axis for axis in axes if shape[axis] == 1)
    long = [axis for axis in axes if shape[axis] != 1]
    return tuple(long + ones) if long != sorted(long) else tuple(range(len(axes)))


def product(call: Call, w: dict[str, Tensor], inputs: Tensors, first: Any, second: Any, **out: Any) -> Matrix | None:
    """The rule of `first @ second`."""
    if out or not (isinstance(first, Hole) and isinstance(second, Hole)):
        return None
    shapes = [
        view_shape(w[role.key].shape, role.steps) if isinstance(role.key, str) else tuple(inputs[role.key].shape)
        for role in (first, second)
    ]
    labels = _product_labels(*shapes)
    if parameter(second):
        return contraction(call, w, inputs, first, second, labels)
    return contraction(call, w, inputs, second, first, (labels[1], labels[0], labels[2]))


def reversed_product(call: Call, w: dict[str, Tensor], inputs: Tensors, second: Any, first: Any) -> Matrix | None:
    """The rule of Tensor.__rmatmul__."""
    return product(call, w, inputs, first, second)


def linear(
    call: Call, w: dict[str, Tensor], inputs: Tensors, input: Any, weight: Any, bias: Any = None
) -> Matrix | None:
    """The rule of F.linear."""
    if not parameter(weight) or not isinstance(input, Hole) or isinstance(input.key, str):
        return None
    ahead = [("s", axis) for axis in range(inputs[input.key].dim() - 1)]
    out = ["o"] * (len(view_shape(w[weight.key].shape, weight.steps)) - 1)
    found = contraction(call, w, inputs, input, weight, ([*ahead, "i"], [*out, "i"], [*ahead, *out]), bias)
    return biased(found, bias, w) if found and parameter(bias) else found


def biased(matrix: Matrix, bias: Any, w: dict[str, Tensor]) -> Matrix | None:
    """A matrix together with a bias, a number for each of its results; None where it is anything else."""
    view, size = view_shape(w[bias.key].shape, bias.steps), (matrix.groups, matrix.fan_out)
    if bias.key == matrix.weight or math.prod(view) != math.prod(size):
        return None
    its = layout(w[bias.key].shape, bias.steps, range(len(view)), size)
    if its is None or not its.once:
        return None
    call = replace(matrix.call, names=(matrix.weight, bias.key))
    return replace(matrix, bias=bias.key, bias_layout=its, call=call)


def _product_labels(first: Sequence[int], second: Sequence[int]) -> tuple[Labels, Labels, Labels]:
    """The labels of a matrix product; an axis of size 1 that is broadcast has one of its own."""
    fresh = count()
    own: list[Any] = [*([] if len(first) == 1 else ["r"]), "k"]
    its: list[Any] = ["k", *([] if len(second) == 1 else ["c"])]
    result: list[Any] = [*([] if len(first) == 1 else ["r"]), *([] if len(second) == 1 else ["c"])]
    ahead = [first[:-2], second[:-2]]
    for place in range(1, 1 + max(map(len, ahead))):
        sizes = [part[-place] if place <= len(part) else None for part in ahead]
        label = ("b", place)
        broadcast = {sizes[0], sizes[1]} > {1}
        for part, size in zip((own, its), sizes, strict=True):
            if size is not None:
                part.insert(0, ("1", next(fresh)) if broadcast and size == 1 and None not in sizes else label)
        result.insert(0, label)
    return own, its, result


def einsum(call: Call, w: dict[str, Tensor], inputs: Tensors, equation: Any, *operands: Any) -> Matrix | None:
    """The rule of torch.einsum with one input and one parameter."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or not all(isinstance(one, Hole) for one in operands):
        return None
    number = 0 if parameter(operands[1]) else 1
    input, weight = operands[number], operands[1 - number]
    if not parameter(weight) or parameter(input):
        return None
    shape = inputs[input.key].shape
    view = view_shape(w[weight.key].shape, weight.steps)
    terms = _terms(equation, (shape, view) if number == 0 else (view, shape))
    return contraction(call, w, inputs, input, weight, (terms[number], terms[1 - number], terms[2])) if terms else None


def _terms(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[Labels, Labels, Labels] | None:
    """The labels of two operands and the result; those of an ellipsis are numbered from its end."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    sides = left.split(",")
    if len(sides) != 2:
        return None
    lengths = [len(shape) - len(side.replace("...", "")) for side, shape in zip(sides, shapes, strict=True)]
    own, its = (_labels(side, length) for side, length in zip(sides, lengths, strict=True))
    if not arrow:
        letters = [letter for letter in sorted(left.replace("...", "").replace(",", "")) if left.count(letter) == 1]
        right = ("..." if "..." in left else "") + "".join(letters)
    return own, its, _labels(right, max(lengths))


def _labels(term: str, length: int) -> list[Any]:
    before, dots, after = term.partition("...")
    return [*before, *(range(-length, 0) if dots else ()), *after]


def tensordot(
    call: Call, w: dict[str, Tensor], inputs: Tensors, a: Any, b: Any, dims: Any = 2, out: Any = None
) -> Matrix | None:
    """The rule of torch.tensordot."""
    if out is not None or not (isinstance(a, Hole) and isinstance(b, Hole)) or parameter(a) == parameter(b):
        return None
    axes = [
        len(view_shape(w[role.key].shape, role.steps)) if isinstance(role.key, str) else inputs[role.key].dim()
        for role in (a, b)
    ]
    pairs = (range(axes[0] - dims, axes[0]), range(dims)) if isinstance(dims, int) else dims
    own, its = ([(side, axis) for axis in range(length)] for side, length in zip("ab", axes, strict=True))
    for number, (one, other) in enumerate(zip(*pairs, strict=True)):
        own[one] = its[other] = ("k", number)
    result = [label for label in [*own, *its] if label[0] != "k"]
    if parameter(b):
        return contraction(call, w, inputs, a, b, (own, its, result))
    return contraction(call, w, inputs, b, a, (its, own, result))
