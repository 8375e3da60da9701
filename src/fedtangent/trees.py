"""Sums, scalings and inner products of parameter trees: dicts, tuples and lists of tensors, nested at will."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from fedtangent.errors import SettingTypeError


def map(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """The tree of `fn(leaf, *matching leaves)`."""
    return optree.tree_map(fn, tree, *rest)


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, in its fixed order (dicts by sorted key)."""
    return optree.tree_leaves(tree)


def add(a: Any, b: Any) -> Any:
    """a + b."""
    return map(torch.add, a, b)


def subtract(a: Any, b: Any) -> Any:
    """a - b."""
    return map(torch.sub, a, b)


def scale(tree: Any, factor: float | Tensor) -> Any:
    """factor * tree."""
    return map(lambda leaf: leaf * factor, tree)


def add_scaled(a: Any, b: Any, factor: float | Tensor) -> Any:
    """a + factor * b."""
    return map(lambda x, y: x + factor * y, a, b)


def inner(a: Any, b: Any) -> Tensor:
    """The inner product <a, b>, summed over all leaves."""
    return torch.stack([torch.sum(x * y) for x, y in zip(leaves(a), leaves(b), strict=True)]).sum()


def zeros_like(tree: Any) -> Any:
    """The zero of the tree's space."""
    return map(torch.zeros_like, tree)


def weighted_sum(trees: Sequence[Any], weights: Sequence[float]) -> Any:
    """sum_i weights_i trees_i, added in the given order, so that the result does not depend on who computes it."""

    def combine(*parts: Tensor) -> Tensor:
        total = parts[0] * weights[0]
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            total.add_(part, alpha=weight)
        return total

    return map(combine, *trees)


def where(condition: Tensor, a: Any, b: Any) -> Any:
    """`a` where the scalar condition holds, else `b`: a NaN on the side not taken does no harm."""
    return map(lambda x, y: torch.where(condition, x, y), a, b)


def stack(trees: Sequence[Any]) -> Any:
    """One tree with a new leading axis; leaves of unequal length are padded at their ends with zeros (False)."""

    def join(*parts: Tensor) -> Tensor:
        if all(part.shape == parts[0].shape for part in parts):
            return torch.stack(parts)
        longest = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
        joined = parts[0].new_zeros((len(parts), *longest))
        for row, part in zip(joined, parts, strict=True):
            row[tuple(slice(size) for size in part.shape)] = part
        return joined

    return map(join, *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The `count` trees along the leading axis: the inverse of `stack`."""
    parts, structure = optree.tree_flatten(tree)
    return (
        [optree.tree_unflatten(structure, row) for row in zip(*(part.unbind(0) for part in parts), strict=True)]
        if parts
        else [tree] * count
    )


def sent(tree: Any) -> Iterator[Any]:
    """The tensors and numbers of a message of real rows, in no order; the masks of padding are not sent.

    Raises:
        TypeError: It holds something else.
    """
    stack_ = [tree]
    while stack_:
        item = stack_.pop()
        if isinstance(item, (Tensor, int, float)):
            yield item
        elif isinstance(item, dict):
            stack_.extend(item.values())
        elif hasattr(item, "_fields"):
            stack_.extend(getattr(item, name) for name in item._fields if name != "real")
        elif isinstance(item, (tuple, list)):
            stack_.extend(item)
        elif item is not None:
            raise SettingTypeError(f"a message must hold tensors and numbers; got {type(item).__name__}. Convert it.")


def payload_bytes(tree: Any) -> int:
    """The bytes of what is `sent` of a tree, from shapes and dtypes."""
    if isinstance(tree, Tensor):
        return int(tree.nbytes)
    return sum([item.nbytes if isinstance(item, Tensor) else 8 for item in sent(tree)])


def number_bytes(w: dict[str, Tensor]) -> int:
    """The bytes of a number of weights, which have one type."""
    return next(iter(w.values())).element_size()


def in_memory(tensor: Tensor) -> list[int]:
    """The tensor's axes from the outermost in memory to the innermost: the last bits of a product hang on it."""
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda axis: -strides[axis])


def permuted_back(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The tensor of which `tensor` is the one permuted by `order`."""
    return tensor.permute(sorted(range(len(order)), key=order.__getitem__))


def to(tree: Any, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
    """The tree on `device`, its floating-point leaves in `dtype`."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return map(move, tree)


def all_finite(tree: Any) -> Tensor:
    """A scalar: True when no leaf holds a NaN or an infinity."""
    finite = [torch.isfinite(leaf).all() for leaf in leaves(tree)]
    return torch.stack(finite).all() if finite else torch.tensor(True, device="cpu")


def is_finite(tree: Any) -> bool:
    """The same as a plain bool, outside of vmap: the cheap sum of a leaf first, its elements only if that fails."""
    return all(bool(leaf.sum().isfinite()) or bool(leaf.isfinite().all()) for leaf in leaves(tree))
