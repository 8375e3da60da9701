"""Chain: what comes out of several channels, one after the other, and the bytes that go through them.

A channel says what a receiver decodes, and what that takes on the wire. The former is for tensors, works under
`torch.func.vmap` and never sees padding; the latter follows from shapes alone, so that it can be told beforehand.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees


class Coded(NamedTuple):
    """A tensor on the wire. values: what the receiver decodes. sent: which entries travel; it decodes others as 0."""

    values: Tensor
    sent: Tensor


class Size(NamedTuple):
    """What a tensor takes on the wire.

    Attributes:
        entries: Of the tensor.
        sent: How many of them travel.
        bits: Of one that does; they are packed.
        beside: Bytes beside them, such as their positions.
        number: Bytes of a number as it is.
    """

    entries: int
    sent: int
    bits: int
    beside: int
    number: int


class Channel(NamedTuple):
    """What the wire does to one tensor. code: to its values. size: to what it takes."""

    code: Callable[[Coded], Coded]
    size: Callable[[Size], Size]


def received(channels: Sequence[Channel], tree: Any, real: Tensor | None = None) -> Any:
    """What comes out of the channels: a tree like the one that went in, integers and masks as they were.

    Args:
        channels: In the order in which a message meets them.
        tree: Of tensors with one axis at least.
        real: Which rows are, (rows,), of tensors that all have those as their first axis; padding comes out as 0.
    """

    def one(leaf: Tensor) -> Tensor:
        if not _travels(leaf):
            return leaf
        rows = torch.ones_like(leaf, dtype=torch.bool)
        coded = Coded(leaf, rows if real is None else rows & real.reshape(-1, *[1] * (leaf.dim() - 1)))
        for channel in channels:
            coded = channel.code(coded)
        return torch.where(coded.sent, coded.values, 0)

    return trees.map(one, tree)


def payload_bytes(channels: Sequence[Channel], tree: Any) -> int:
    """The bytes of a tree of real rows, sent through the channels: tensor by tensor, in whole bytes."""
    return sum(_bytes(channels, leaf) for leaf in trees.leaves(tree))


def _bytes(channels: Sequence[Channel], leaf: Tensor) -> int:
    size = Size(leaf.numel(), leaf.numel(), 8 * leaf.element_size(), 0, leaf.element_size())
    for channel in channels if _travels(leaf) else ():
        size = channel.size(size)
    return math.ceil(size.sent * size.bits / 8) + size.beside


def _travels(leaf: Tensor) -> bool:
    return leaf.is_floating_point() and leaf.numel() > 0
