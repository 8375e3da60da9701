"""Lies: what Byzantine nodes send in place of their messages, for every method and on every transport alike.

A liar computes what the method asks of it, from what it has received, and lies in what it sends. Attacks that collude
know what the honest nodes send (the omniscient adversary of the literature): these messages reach the liars by an
exchange of their own, which is never billed. A question of an `ask` is sent as it is: its answers come back to the
liar alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingTypeError
from fedtangent.federation.keyed import generator
from fedtangent.federation.ledger import Link
from fedtangent.shard import Shard


class Told(NamedTuple):
    """What a liar knows as it sends a tensor to a receiver.

    Attributes:
        own: What it would send.
        honest: What honest senders send the receiver in this place, (h, ...); none where an attack does not collude.
        weights: Of the honest messages in the receiver's average, (h,).
        liars: How many of the receiver's senders lie, this one included.
        weight: Of all their messages together in the receiver's average.
        receiver: What the receiver itself holds, where neighbours average; else None.
        draw: Gives the generator of this message.
    """

    own: Tensor
    honest: Tensor
    weights: Tensor
    liars: int
    weight: float
    receiver: Tensor | None
    draw: Callable[[], np.random.Generator]


class Attack(NamedTuple):
    """What a liar does.

    Attributes:
        lie: Gives a tensor like `own` of what is known; None where messages are honest.
        colludes: Whether it must know the honest messages.
        between: Whether it needs neighbours that average.
        data: (shard, classes) -> the shard that the liar trains on; None for its own.
    """

    lie: Callable[[Told], Tensor] | None = None
    colludes: bool = False
    between: bool = False
    data: Callable[[Shard, int], Shard] | None = None


class Lying(NamedTuple):
    """An attack, and who is to lie.

    Attributes:
        attack: What liars do.
        share: Of the nodes, one at least; drawn by the seed.
        who: The liars' numbers, in place of drawn ones.
    """

    attack: Attack
    share: float = 0.1
    who: tuple[int, ...] | None = None


class Liars(NamedTuple):
    """The liars of a run, and what they send.

    Attributes:
        attack: What they do.
        nodes: Their numbers.
        seed: Of the run.
    """

    attack: Attack
    nodes: frozenset[int]
    seed: int = 0

    def said(
        self,
        verb: tuple[int, int],
        out: Mapping[Link, Any],
        links: Sequence[Link],
        overhear: Callable[[dict[Link, list[Any]], list[Link]], dict[Link, list[Any]]],
        weights: Mapping[Link, float] | None = None,
    ) -> dict[Link, Any]:
        """What the nodes of this process send, liars' messages replaced.

        Args:
            verb: The round and the number of the verb in it, which key what is drawn.
            out: What they would send.
            links: All links, of every process.
            overhear: Brings lists of messages over links, unbilled.
            weights: Of the messages in their receivers' averages, where neighbours average.
        """
        found = dict(out)
        false = [link for link in links if link.source in self.nodes and link.target != link.source]
        lie = self.attack.lie
        if lie is None or not false:
            return found
        heard = self._heard(out, links, false, overhear, weights is not None) if self.attack.colludes else {}
        beside: dict[int, list[Link]] = {}  # the lies to each receiver
        for link in false:
            beside.setdefault(link.target, []).append(link)
        known: dict[Any, Any] = {}  # without collusion a message that goes to many is one lie, and one object
        for link in (link for link in false if link in out):
            key = link if self.attack.colludes else id(out[link])
            if key not in known:
                own = heard.get(link, _Heard(None, [], []))
                known[key] = self._lie(lie, verb, link, out[link], own, beside[link.target], weights)
            found[link] = known[key]
        return found

    def _heard(
        self,
        out: Mapping[Link, Any],
        links: Sequence[Link],
        false: Sequence[Link],
        overhear: Callable[[dict[Link, list[Any]], list[Link]], dict[Link, list[Any]]],
        averages: bool,
    ) -> dict[Link, "_Heard"]:
        """What every liar of this process gets to know of the honest messages to each of its receivers."""
        honest: dict[int, list[Link]] = {}
        for link in links:
            if link.source not in self.nodes and link.source != link.target:
                honest.setdefault(link.target, []).append(link)
        wanted: dict[Link, list[Link]] = {}  # by who tells whom: the links whose messages are told
        both = {*links}
        for link in false:
            if averages and Link(link.target, link.source) in both:
                wanted.setdefault(Link(link.target, link.source), []).append(Link(link.target, link.source))
            for other in honest.get(link.target, ()):
                wanted.setdefault(Link(other.source, link.source), []).append(other)
        telling = {way: [out[one] for one in its] for way, its in wanted.items() if all(one in out for one in its)}
        came = overhear(telling, list(wanted))
        known = {
            (way.target, one): value
            for way, values in came.items()
            for one, value in zip(wanted[way], values, strict=True)
        }
        return {
            link: _Heard(
                known.get((link.source, Link(link.target, link.source))) if averages else None,
                [known[link.source, one] for one in honest.get(link.target, ())],
                honest.get(link.target, []),
            )
            for link in false
            if link in out
        }

    def _lie(
        self,
        lie: Callable[[Told], Tensor],
        verb: tuple[int, int],
        link: Link,
        value: Any,
        heard: "_Heard",
        liars: Sequence[Link],
        weights: Mapping[Link, float] | None,
    ) -> Any:
        rng: list[np.random.Generator] = []

        def draw() -> np.random.Generator:
            if not rng:
                rng.append(generator(self.seed, verb[0], f"attack {verb[1]}", link.source))
            return rng[0]

        weight = float(len(liars)) if weights is None else sum(weights[one] for one in liars)
        leaves, spec = optree.tree_flatten(value)
        others = [trees.leaves(one) for one in heard.honest]
        receiver = None if heard.receiver is None else trees.leaves(heard.receiver)
        given = [1.0] * len(others) if weights is None else [weights[one] for one in heard.links]
        told = []
        for place, leaf in enumerate(leaves):
            if not (isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()):
                told.append(leaf)
                continue
            alike = [i for i, its in enumerate(others) if len(its) == len(leaves) and its[place].shape == leaf.shape]
            honest = torch.stack([others[i][place] for i in alike]) if alike else leaf.new_zeros((0, *leaf.shape))
            given_weights = leaf.new_tensor([given[i] for i in alike])
            what = None if receiver is None else receiver[place]
            false = lie(Told(leaf, honest, given_weights, len(liars), weight, what, draw))
            if not isinstance(false, Tensor):
                raise SettingTypeError(
                    f"`lie` of an attack must give a tensor; got {type(false).__name__}. Return one like told.own."
                )
            # Shapes are agreed: of another one no receiver sees more than that it is wrong.
            fits = false.shape == leaf.shape and false.dtype == leaf.dtype
            told.append(false if fits else torch.full_like(leaf, torch.nan))
        return optree.tree_unflatten(spec, told)


class _Heard(NamedTuple):
    """What a liar knows of one receiver: its own value, the honest messages to it, and their links."""

    receiver: Any
    honest: list[Any]
    links: list[Link]
