"""Sending: a value as its receivers will see it, by the run's channels; what has no name is as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fedtangent.federation.coding import Way
from fedtangent.federation.ledger import SERVER, Link
from fedtangent.federation.transport import Wire
from fedtangent.federation.values import Cache, Central, Each, Nodes, Wave, check_each


@dataclass(frozen=True)
class Sending:
    """The channels of one round.

    Args:
        fleet: Who sends beside the server.
        wire: Whose channels they are.
        rng: The generator of a purpose and node.
        between: Whether nodes send to neighbours, and not up to a server.
    """

    fleet: Nodes
    wire: Wire
    rng: Callable[[str, int], np.random.Generator]
    between: bool

    @property
    def way(self) -> Way:
        """Of what nodes send."""
        return "between" if self.between else "up"

    def by_server(self, x: Central[Any], message: str | None) -> Central[Any]:
        """The server's value, which goes down."""
        coding = self.wire.channels(message, "down")
        if coding is None or message is None or not x.is_here:
            return x
        return Central(coding.coded(x.value, message, self._draw(message, SERVER), SERVER, None))

    def by_nodes(self, x_k: Each[Any], message: str | None, since_k: Each[Any] | None) -> Each[Any]:
        """Every node's value; the channels are given the difference to what both ends have already, `since_k`."""
        coding = self.wire.channels(message, self.way)
        if coding is None or message is None:
            return x_k
        check_each(self.fleet.nodes, x_k)

        def pull(wave: Wave, cache: Cache) -> list[Any]:
            before = [None] * len(wave.nodes) if since_k is None else since_k.pull(wave, cache)
            return [
                coding.coded(value, message, self._draw(message, node), node, since)
                for value, node, since in zip(x_k.pull(wave, cache), wave.nodes, before, strict=True)
            ]

        found: Each[Any] = Each(self.fleet, pull)
        return found if coding.feedback == "none" else found.settle()  # what is remembered changes once

    def answers(self, message: str | None) -> Callable[[Any, Link], Any]:
        """What a neighbour sees of an answer, by link."""
        coding = self.wire.channels(message, "between")
        if coding is None or message is None:
            return lambda answer, _: answer
        return lambda answer, link: coding.coded(
            answer, message, self._draw(f"{message} to {link.target}", link.source), None
        )

    def _draw(self, of: str, node: int) -> Callable[[], np.random.Generator]:
        return partial(self.rng, f"channel of {of}", node)
