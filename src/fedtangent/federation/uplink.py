"""Uplink: what all nodes send the server in one verb; which messages are good, and what is made of them."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from fedtangent import many
from fedtangent.errors import SettingError
from fedtangent.federation.averaging import at_server
from fedtangent.federation.ledger import SERVER, Link
from fedtangent.federation.rule import kind
from fedtangent.federation.transport import Bill, Tag, Wire, nothing
from fedtangent.federation.values import ABSENT, Each, Nodes, check_each

T = TypeVar("T")


def one(x: Any) -> float:
    """1: a message of a sum that counts like any other."""
    return 1.0


@dataclass(frozen=True)
class Uplink:
    """The way of all nodes to the server in one round; what the server makes of messages is absent elsewhere.

    Args:
        fleet: Who sends.
        wire: What brings the messages, and books them.
        method: For error messages.
        round: For error messages.
        draw: Gives the generator of the groups that are added up before a rule sees them.
    """

    fleet: Nodes
    wire: Wire
    method: str
    round: int
    draw: Callable[[], np.random.Generator]

    def mean(self, x_k: Each[Any], weights: Sequence[float]) -> Any:
        """The mean of the good messages by these weights, one a node; that of all while the ledger is paused."""
        tag, out = self._said(x_k)
        given = dict(zip(self.fleet.nodes, weights, strict=True))
        good = self.fleet.nodes if self.wire.ledger.is_paused else self._good(out)  # evaluation tells what is wrong
        shares = {node: given[node] for node in good if 0 <= given[node] < math.inf} or given
        whole = sum(shares.values())
        if whole == 0:
            raise SettingError("`weight_k` must not sum to zero; got only zeros. Give every node at least one row.")
        return self._totalled(tag, out, {node: w / whole for node, w in shares.items()}, mean=True)

    def sum(self, x_k: Each[T], rows: Callable[[T], Any]) -> tuple[Any, int]:
        """The sum of the good messages, each of so many rows of data; and how many were refused."""
        tag, out = self._said(x_k)
        good = self._good(out, one if self.wire.rule is None else rows)
        if not good:
            raise SettingError(
                f"`{self.method or 'x_k'}` must have a finite message to sum; got none of {len(self.fleet.nodes)} in "
                f"round {self.round}. Use smaller steps, or look at the data."
            )
        return self._totalled(tag, out, good, mean=False), len(self.fleet.nodes) - len(good)

    def gathered(self, x_k: Each[T], bill: Callable[[T], int]) -> list[T]:
        """The good messages one by one, or all where none is good; each takes as many bytes as `bill` says."""
        tag, out = self._said(x_k)
        good = self.fleet.nodes if self.wire.ledger.is_paused else self._good(out)
        links = [Link(node, SERVER) for node in good or self.fleet.nodes]
        out = {link: x for link, x in out.items() if link.source in good or not good}
        came = self.wire.exchange(tag, out, links, lambda link, value: bill(value) - self.wire.spared(value))
        return self._at_server(came, links)

    def told(self, x_k: Each[T], bill: Bill | None) -> list[T]:
        """All values in the order of the nodes, by way of the server, on every process."""
        check_each(self.fleet.nodes, x_k)
        links = [Link(node, SERVER) for node in self.fleet.nodes]
        came = self.wire.exchange(self.wire.tag(), self._out(x_k), links, bill)
        return self.wire.tell(self._at_server(came, links))

    def _out(self, x_k: Each[T]) -> dict[Link, T]:
        """What the nodes of this process send."""
        here = self.fleet.here
        return {Link(node, SERVER): x for node, x in zip(here, x_k.values_at(here), strict=True)}

    def _said(self, x_k: Each[Any]) -> tuple[Tag, Mapping[Link, Any]]:
        """The tag of a verb, and what is sent in it, by liars too."""
        tag, out = self.wire.tag(), self._out(x_k)
        return tag, self.wire.said(tag, out, [Link(node, SERVER) for node in self.fleet.nodes])

    def _good(self, out: Mapping[Link, Any], rows: Callable[[Any], Any] = one) -> dict[int, float]:
        """The nodes whose messages are finite and of the form of most, and of how many rows each is the sum."""
        here = self.fleet.here
        values = [out[Link(node, SERVER)] for node in here]
        finite = many.are_finite(values) if values else []
        own = [(kind(x), fine, float(rows(x)) if fine else 0.0) for x, fine in zip(values, finite, strict=True)]
        told = self.told(Each(self.fleet, dict(zip(here, own, strict=True))), nothing)
        ((usual, _),) = Counter(form for form, _, _ in told).most_common(1)
        kinds = zip(self.fleet.nodes, told, strict=True)
        return {node: count for node, (form, fine, count) in kinds if fine and form == usual and 0 < count < math.inf}

    def _totalled(self, tag: Tag, out: Mapping[Link, Any], weights: Mapping[int, float], mean: bool) -> Any:
        """`averaging.at_server`."""
        found = at_server(self.wire, tag, out, weights, mean, self.draw)
        return found if self._serves else ABSENT

    def _at_server(self, came: Mapping[Link, T], links: Sequence[Link]) -> list[T]:
        return [came[link] for link in links] if self._serves else cast(list[T], ABSENT)

    @property
    def _serves(self) -> bool:
        return self.wire.transport.here(SERVER)
