"""Coding: what channels make of a message on its way, and what it then takes.

A method names those of its messages that bear it. A channel says what a receiver decodes of a tensor, and what that
takes on the wire; the latter follows from shapes alone. The numbers themselves travel decoded, between processes too:
the bytes on the record are those that packed numbers would take.
"""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import optree
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError

Way = Literal["up", "down", "between"]
Feedback = Literal["none", "error"]
Draw = Callable[[], np.random.Generator]


class Message(NamedTuple):
    """A message of a method that bears channels.

    Attributes:
        ways: On which it goes: `up` to the server, `down` from it, `between` neighbours.
        lasting: Whether it is like the one of the round before, so that what a channel took of it can be sent later.
    """

    ways: tuple[Way, ...]
    lasting: bool = False


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
    """What the wire does to one tensor.

    Attributes:
        code: To its values; of the generator it draws what is random, and calls it only then.
        size: To what it takes.
    """

    code: Callable[[Coded, Draw], Coded]
    size: Callable[[Size], Size]


class Coding:
    """The channels of a run, one after the other, and what they remember.

    Args:
        channels: In the order in which a message meets them.
        messages: The names of those that are coded; none is all that bear it.
        ways: On which.
        feedback: `error` adds to a message what the channels took of the sender's last one of that name (Seide, Fu,
            Droppo, Li, Yu. 1-Bit Stochastic Gradient Descent. Interspeech 2014; Karimireddy et al. ICML 2019).
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        messages: Sequence[str] | None = None,
        ways: Sequence[Way] = ("up", "down", "between"),
        feedback: Feedback = "none",
    ) -> None:
        self._channels, self.messages, self.ways, self.feedback = channels, messages, ways, feedback
        self.lost: dict[tuple[str, int], dict[str, Tensor]] = {}  # by message and sender, by place in it
        self._spared: dict[int, tuple[weakref.ref[Tensor], int]] = {}  # bytes, by the tensor's id

    def applies(self, message: str | None, way: Way) -> bool:
        """Whether messages of this name are coded on their way."""
        return message is not None and way in self.ways and (self.messages is None or message in self.messages)

    def coded(self, value: Any, message: str, draw: Draw, sender: int | None, since: Any = None) -> Any:
        """What receivers see of a value: a tree like it, all but tensors of floats as they were.

        Of a NamedTuple with a field of the message's name that field alone is coded.

        Args:
            value: A tree.
            message: Its name.
            draw: The generator of this message.
            sender: Whose lost parts are added, and kept; None for none.
            since: What the receivers have already, of which the difference is coded.
        """
        if message in getattr(value, "_fields", ()):
            part = self.coded(getattr(value, message), message, draw, sender, since)
            return value._replace(**{message: part})
        keeps = sender is not None and self.feedback == "error"
        before = self.lost.get((message, sender), {}) if sender is not None and keeps else {}
        lost = dict(before)  # of a part of a tree the rest stays as it is
        paths, leaves, spec = optree.tree_flatten_with_path(value)
        starts = [None] * len(leaves) if since is None else optree.tree_leaves(since)
        once = cache(draw)
        found = []
        for path, leaf, start in zip(paths, leaves, starts, strict=True):
            if not _travels(leaf):
                found.append(leaf)
                continue
            place = "/".join(map(str, path))
            whole = leaf if start is None else leaf - start
            whole = whole + before[place] if place in before else whole
            sent = _received(self._channels, whole, once)
            if keeps:
                lost[place] = torch.nan_to_num(whole - sent, 0.0, 0.0, 0.0)
            found.append(self._noted(sent if start is None else start + sent))
        if sender is not None and keeps:
            self.lost[message, sender] = lost
        return optree.tree_unflatten(spec, found)

    def state(self) -> list[Any]:
        """What is remembered, as message, sender and tensors by place, for a checkpoint."""
        return [[message, sender, parts] for (message, sender), parts in self.lost.items()]

    def restore(self, state: Sequence[Any], here: Callable[[int], bool]) -> None:
        """Takes back what senders of this process had of `state()`."""
        self.lost = {(message, sender): parts for message, sender, parts in state if here(sender)}

    def spared(self, value: Any) -> int:
        """The bytes that a value takes less than its numbers as they are."""
        if not self._spared:
            return 0
        notes = (self._spared.get(id(leaf)) for leaf in trees.leaves(value))
        return sum(note[1] for note in notes if note is not None)

    def note_as(self, value: Any, like: Any) -> None:
        """Lets a value take as few bytes as another that was coded, leaf by leaf: what a liar sends in its place."""
        for leaf, other in zip(trees.leaves(value), trees.leaves(like), strict=False):
            if (note := self._spared.get(id(other))) is not None:
                self._note(leaf, note[1])

    def _noted(self, sent: Tensor) -> Tensor:
        self._note(sent, sent.numel() * sent.element_size() - payload_bytes(self._channels, sent))
        return sent

    def _note(self, sent: Tensor, less: int) -> None:
        key = id(sent)
        self._spared[key] = weakref.ref(sent, lambda _: self._spared.pop(key, None)), less


def payload_bytes(channels: Sequence[Channel], tree: Any) -> int:
    """The bytes of a tree, sent through the channels: tensor by tensor, in whole bytes."""
    return sum(_bytes(channels, leaf) for leaf in trees.leaves(tree))


def _received(channels: Sequence[Channel], leaf: Tensor, draw: Draw) -> Tensor:
    values = leaf.detach().reshape(1) if leaf.dim() == 0 else leaf.detach()
    found = Coded(values, torch.ones_like(values, dtype=torch.bool))
    for channel in channels:
        found = channel.code(found, draw)
        if not isinstance(found, Coded) or found.values.shape != values.shape or found.sent.shape != values.shape:
            raise SettingTypeError(
                f"`code` of a channel must give a Coded of its tensor's shape, {tuple(values.shape)}; got "
                f"{type(found).__name__}. Return fedtangent.federation.Coded(values, sent)."
            )
    return torch.where(found.sent, found.values, 0).to(leaf.dtype).reshape(leaf.shape)


def _bytes(channels: Sequence[Channel], leaf: Tensor) -> int:
    size = Size(leaf.numel(), leaf.numel(), 8 * leaf.element_size(), 0, leaf.element_size())
    for channel in channels if _travels(leaf) else ():
        size = channel.size(size)
        if not isinstance(size, Size):
            raise SettingTypeError(
                f"`size` of a channel must give a Size; got {type(size).__name__}. Return size._replace(...)."
            )
    return math.ceil(size.sent * size.bits / 8) + size.beside


def _travels(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() > 0


def check(coding: Coding, method: str, messages: Mapping[str, Message]) -> None:
    """Raises where channels would meet no message of a method, or one that does not support them."""
    names = ", ".join(messages)
    if not messages:
        raise SettingError(
            f"`channel` must be left out for {method}, which names no message that bears one; got a channel. Drop it."
        )
    for name in coding.messages or ():
        if name not in messages:
            raise SettingError(f"`messages` must be of those of {method}, {names}; got {name!r}. Choose one of them.")
    met = {name: [way for way in message.ways if coding.applies(name, way)] for name, message in messages.items()}
    if not any(met.values()):
        told = "; ".join(f"{name} goes {' and '.join(message.ways)}" for name, message in messages.items())
        raise SettingError(
            f"`direction` must be one on which a message of {method} goes ({told}); got {', '.join(coding.ways)}. "
            "Choose another."
        )
    fleeting = [name for name, ways in met.items() if ways and not messages[name].lasting]
    if coding.feedback != "none" and fleeting:
        lasting = [name for name in messages if messages[name].lasting]
        raise SettingError(
            f"`feedback` must be none for {fleeting[0]!r} of {method}, which is another in every round; got "
            f"{coding.feedback!r}. " + (f"Give messages, of {', '.join(lasting)}." if lasting else "Drop it.")
        )
