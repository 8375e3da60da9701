"""Many small trees at once: stacked, taken apart, joined and summed leaf by leaf, not tree by tree.

A tensor operation takes some microseconds, whatever its size. With thousands of trees of a few numbers those are all
that counts, so every function here calls one for a leaf of all trees, where `trees` and `shard` call one for each.
The numbers are the same; on an accelerator, where every operation is a launch, but for the order of sums.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, cast

import torch
from torch import Tensor

from fedtangent import shard, trees

SMALL, FEW = 2**12, 64  # numbers of a leaf, and trees, above which a look at how they lie in memory may spare a copy
SMALL_ON_ACCELERATOR = 2**24  # a launch takes as long as some million numbers
AT_ONCE = 2**28  # numbers that are copied so that they can be added at once


def stacked(column: Sequence[Any]) -> Any:
    """`trees.stack`; what lies evenly spaced in one memory, as results of an earlier call do, is not copied."""
    unique = {id(part): part for part in column}
    if 1 < len(unique) <= len(column) // 2:  # a question goes to all neighbours
        places = dict(zip(unique, range(len(unique)), strict=True))
        whole = stacked(list(unique.values()))
        index = torch.tensor([places[id(part)] for part in column])
        return trees.map(lambda leaf: leaf.index_select(0, index.to(leaf.device)), whole)
    found = _by_leaf(column, _joined)
    return trees.map(lambda *parts: _joined(parts), *column) if found is None else found[0]


def unstacked(tree: Any, count: int) -> list[Any]:
    """The `count` trees along the leading axis, without padding: `shard.trim` of each of `trees.unstack`."""
    if not trees.leaves(tree):
        return [tree] * count
    found = _rows(tree, count, None)
    return [shard.trim(part) for part in trees.unstack(tree, count)] if found is None else found


def trimmed(values: Sequence[Any]) -> Sequence[Any]:
    """`shard.trim` of every tree; where nothing is padded, that takes one look at all masks."""
    masks: dict[torch.device, list[Tensor]] = {}
    for mask in chain.from_iterable(map(shard.masks, values)):
        masks.setdefault(mask.device, []).append(mask.flatten())
    fine = all(bool(torch.cat(its).all()) for its in masks.values())
    return values if fine else [shard.trim(value) for value in values]


def moved(values: Sequence[Any], device: torch.device | str) -> list[Any]:
    """`trees.to` of every tree, in one transfer a leaf."""

    def put(parts: Sequence[Tensor], rows: bool) -> list[Tensor] | None:
        if len({part.dtype for part in parts}) > 1:
            return None
        whole = torch.cat([part.flatten() for part in parts]).to(device)
        split = torch.split(whole, [part.numel() for part in parts])
        return [flat.reshape(part.shape) for flat, part in zip(split, parts, strict=True)]

    found = _put(values, put, False, len(values)) if values else []
    return [trees.to(value, device) for value in values] if found is None else found


def joined(groups: Sequence[Sequence[Any]]) -> list[Any]:
    """`shard.join` of every group."""
    flat = list(chain.from_iterable(groups))
    ends = list(pairwise([0, *accumulate(map(len, groups))]))

    def put(parts: Sequence[Tensor], rows: bool) -> list[Tensor] | None:
        if not rows:
            whole = torch.stack(list(parts)) if _alike(parts) else None
            return None if whole is None else list(torch.split(whole, [end - start for start, end in ends]))
        counts = [len(part) for part in parts]
        return list(torch.split(torch.cat(list(parts)), [sum(counts[start:end]) for start, end in ends]))

    found = _put(flat, put, False, len(groups)) if len(groups) > 1 and all(groups) else None
    return [shard.join(group) for group in groups] if found is None else found


def weighted_sums(groups: Sequence[Sequence[Any]], weights: Sequence[Sequence[float]]) -> list[Any]:
    """`trees.weighted_sum` of every group with its weights."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for place, its in enumerate(weights):
        alike.setdefault(tuple(its), []).append(place)
    found: list[Any] = [None] * len(groups)
    for given, places in alike.items():
        some = [groups[place] for place in places]
        sums = _sums(some, given) if len(places) > 1 else _sum(some[0], given)
        for i, place in enumerate(places):
            found[place] = trees.weighted_sum(groups[place], given) if sums is None else sums[i]
    return found


def are_finite(values: Sequence[Any]) -> list[bool]:
    """`trees.is_finite` of every tree."""
    sums: list[Tensor] = []

    def look(parts: Sequence[Tensor]) -> Tensor | None:
        if len({(part.dtype, part.device) for part in parts}) > 1:
            return None
        small = _small(parts)
        its = _whole(parts).reshape(len(parts), -1).sum(1) if small else torch.stack([part.sum() for part in parts])
        sums.append(its.isfinite())
        return sums[-1]

    if len(values) < 2 or _by_leaf(values, look) is None:
        return [trees.is_finite(value) for value in values]
    fine = torch.stack(sums).all(0).tolist() if sums else [True] * len(values)
    return [good or trees.is_finite(value) for good, value in zip(fine, values, strict=True)]


def floats(values: Sequence[Any]) -> list[float]:
    """float() of every value: numbers, or tensors of one."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) == len(values) > 1 and _alike(tensors) and tensors[0].numel() == 1:
        values = torch.stack(tensors).flatten().tolist()
    return [float(value) for value in values]


def _sums(groups: Sequence[Sequence[Any]], weights: tuple[float, ...]) -> list[Any] | None:
    places: dict[int, int] = {}  # of each value, which many groups may share, among all
    values: list[Any] = []
    for value in chain.from_iterable(groups):
        if id(value) not in places:
            places[id(value)] = len(values)
            values.append(value)
    index = torch.tensor([[places[id(value)] for value in group] for group in groups])

    def added(parts: Sequence[Tensor]) -> Tensor | None:
        if not _small(parts):
            return None
        whole, slots = _whole(parts), index.to(parts[0].device)
        total = whole[slots[:, 0]] * weights[0]
        for slot, weight in enumerate(weights[1:], 1):
            total.add_(whole[slots[:, slot]], alpha=weight)
        return total

    found = _by_leaf(values, added)
    return None if found is None else trees.unstack(found[0], len(groups))


def _sum(values: Sequence[Any], weights: Sequence[float]) -> list[Any] | None:
    """The weighted sum, alone in a list; None where adding tree by tree is as fast."""
    if len(values) < 2 or not _launches(values[0]):
        return None
    alike = {*weights} == {1}

    def added(parts: Sequence[Tensor]) -> Tensor:
        large = len(parts) * parts[0].numel() > AT_ONCE
        if large or not _small(parts) or not (alike or parts[0].is_floating_point()):
            return cast(Tensor, trees.weighted_sum(parts, weights))
        whole = _whole(parts)
        if not alike:
            whole = whole * whole.new_tensor(weights).reshape(-1, *[1] * parts[0].dim())
        return whole.sum(0, dtype=whole.dtype)

    return _by_leaf(values, added)


def _by_leaf(column: Sequence[Any], one: Callable[[Sequence[Tensor]], Tensor | None]) -> list[Any] | None:
    """The tree of `one(leaves of all trees)`, alone in a list; None where `_put` knows none."""

    def alone(parts: Sequence[Tensor], rows: bool) -> list[Tensor] | None:
        found = one(parts)
        return None if found is None else [found]

    return _put(column, alone, False, 1)


def _put(
    column: Sequence[Any], one: Callable[[Sequence[Tensor], bool], list[Tensor] | None], rows: bool, count: int
) -> list[Any] | None:
    """`count` trees of the leaves that `one` makes of all trees' leaves, and of whether these are rows.

    None where the trees are not of one plain structure, or `one` gives None.
    """
    first = column[0]
    kind = type(first)
    if isinstance(first, Tensor):
        return one(column, rows) if {*map(type, column)} == {Tensor} else None
    if {*map(type, column)} != {kind}:
        return None
    if kind is dict:
        if any(part.keys() != first.keys() for part in column):
            return None
        made = {key: _put([part[key] for part in column], one, rows, count) for key in first}
        if None in made.values():
            return None
        return _zipped(lambda parts: dict(zip(made, parts, strict=True)), list(made.values()), count)
    if kind in (tuple, list) or hasattr(first, "_fields"):
        if {*map(len, column)} != {len(first)}:
            return None
        rows = rows or shard.masked(first)
        parts = [_put(its, one, rows, count) for its in zip(*column, strict=True)]
        return None if None in parts else _zipped(lambda its: _made(kind, its), parts, count)
    return None


def _rows(tree: Any, count: int, mask: Tensor | None) -> list[Any] | None:
    """The trees along the leading axis, their rows those of a mask (count, rows); None for a structure unknown here."""
    kind = type(tree)
    if isinstance(tree, Tensor):
        if mask is None:
            return list(tree.unbind(0))
        return list(torch.split(tree[mask], mask.sum(1).tolist()))
    if kind is dict:
        made = [_rows(part, count, mask) for part in tree.values()]
        return None if None in made else _zipped(lambda parts: dict(zip(tree, parts, strict=True)), made, count)
    if kind in (tuple, list) or hasattr(tree, "_fields"):
        if shard.masked(tree):
            mask = None if bool(tree.real.all()) else tree.real
        made = [_rows(part, count, mask) for part in tree]
        return None if None in made else _zipped(lambda parts: _made(kind, parts), made, count)
    return None


def _zipped(make: Callable[[Any], Any], columns: Sequence[Any], count: int) -> list[Any]:
    if not columns:
        return [make(()) for _ in range(count)]
    return [make(parts) for parts in zip(*columns, strict=True)]


def _made(kind: Any, parts: Any) -> Any:
    return tuple.__new__(kind, parts) if issubclass(kind, tuple) else kind(parts)


def _alike(parts: Sequence[Tensor]) -> bool:
    return len({part.shape for part in parts}) == len({part.dtype for part in parts}) == 1


def _small(parts: Sequence[Tensor]) -> bool:
    """Whether copies of some leaves of one shape cost less than an operation each, and lie as they do."""
    return (
        parts[0].numel() <= (SMALL_ON_ACCELERATOR if _launches(parts[0]) else SMALL)
        and parts[0].layout == torch.strided
        and _alike(parts)
        and all(part.is_contiguous() for part in parts)
    )


def _launches(tree: Any) -> bool:
    """Whether the tensors of a tree are an accelerator's."""
    return any(isinstance(leaf, Tensor) and leaf.device.type != "cpu" for leaf in trees.leaves(tree))


def _whole(parts: Sequence[Tensor]) -> Tensor:
    """All parts along a new leading axis, in place where they lie evenly spaced in one memory."""
    spaced = _spaced(parts) if len(parts) > 1 and parts[0].numel() > SMALL else None
    return _stack(parts) if spaced is None else spaced


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """torch.stack; tensors that stand in many places are read once."""
    unique = {id(part): part for part in parts}
    if 2 * len(unique) > len(parts):
        return torch.stack(list(parts))
    places = {key: place for place, key in enumerate(unique)}
    index = torch.tensor([places[id(part)] for part in parts], device=parts[0].device)
    return torch.stack(list(unique.values())).index_select(0, index)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """`trees.stack` of a leaf."""
    first = parts[0]
    if first.numel() > 0 and (len(parts) <= FEW or first.numel() > SMALL) and (spaced := _spaced(parts)) is not None:
        return spaced
    if _alike(parts):
        return _stack(parts)
    ragged = all(part.shape[1:] == first.shape[1:] and part.dtype == first.dtype for part in parts)
    if first.dim() == 0 or first.numel() > SMALL or not ragged:
        return cast(Tensor, trees.stack(parts))
    counts = torch.tensor([len(part) for part in parts], device=first.device)
    rows = torch.arange(int(counts.max()), device=first.device) < counts[:, None]
    found = first.new_zeros((*rows.shape, *first.shape[1:]))
    found[rows] = torch.cat(list(parts))
    return found


def _spaced(parts: Sequence[Tensor]) -> Tensor | None:
    """All parts as one view, where they lie evenly spaced in one memory."""
    first, second = parts[:2]
    start, step = first.storage_offset(), second.storage_offset() - first.storage_offset()
    layout = first.shape, first.stride(), first.dtype, first.untyped_storage().data_ptr()
    spaced = step >= 0 and all(
        (part.shape, part.stride(), part.dtype, part.untyped_storage().data_ptr()) == layout
        and part.storage_offset() == start + i * step
        for i, part in enumerate(parts)
    )
    return first.as_strided((len(parts), *first.shape), (step, *first.stride())) if spaced else None
