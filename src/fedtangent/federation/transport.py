"""The protocol of communication: how messages reach the nodes of other processes; and where all of them pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from fedtangent import trees
from fedtangent.federation.cache import Cache
from fedtangent.federation.coding import Coding, Way
from fedtangent.federation.ledger import SERVER, Ledger, Link
from fedtangent.federation.lies import Liars
from fedtangent.federation.rule import Rule

T = TypeVar("T")


class Tag(NamedTuple):
    """Which messages belong together.

    Attributes:
        verb: How many verbs the run has called before.
        leg: Of the verb: an `ask` has two.
        wave: Of the nodes that are computed together.
    """

    verb: int
    leg: int = 0
    wave: int = 0


class Transport(Protocol):
    """A way to bring messages to where they are due. Every process runs the same program, and calls it alike.

    Values are trees of tensors and numbers. Whoever receives one may find it in the sender's own memory, and must not
    write on it.
    """

    name: str

    def here(self, node: int) -> bool:
        """Whether a node, or SERVER, is of this process."""
        ...

    def blocks(self, nodes: Sequence[int]) -> tuple[list[list[int]], int]:
        """The nodes of every process, each in the order given, and which of the processes this one is."""
        ...

    def exchange(self, tag: Tag, out: Mapping[Link, Any], links: Sequence[Link]) -> dict[Link, Any]:
        """What came for the nodes of this process, by link.

        Args:
            tag: The same on every process, and never twice.
            out: What the nodes of this process send.
            links: All links on which something is sent, the same on every process.
        """
        ...

    def total(self, tag: Tag, out: Mapping[Link, tuple[float, Any]], links: Sequence[Link]) -> dict[int, Any]:
        """The sum of weight times value, for every receiver of this process, added in the order of the links.

        Args:
            tag: As of `exchange`.
            out: Weights and values of the nodes of this process.
            links: As of `exchange`.
        """
        ...

    def tell(self, tag: Tag, value: T) -> T:
        """The value of the process that holds SERVER, on every process."""
        ...


Bill = Callable[[Link, Any], int]


class Wire:
    """Where every message passes: it is put on the bill here, by the process of its sender, and handed on.

    Args:
        transport: What brings it to its receiver.
        ledger: The bill.
        coding: What channels make of messages; None where there are none.
        liars: Who lies, and how; None where nobody does.
        rule: How messages are averaged in place of a plain mean; None for that.

    Attributes:
        away: What processes have booked that take no part at present, by their first nodes; where the server is.
    """

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger | None = None,
        coding: Coding | None = None,
        liars: Liars | None = None,
        rule: Rule | None = None,
    ) -> None:
        self.transport, self.ledger, self.coding = transport, Ledger() if ledger is None else ledger, coding
        self.liars, self._rule = liars, rule
        self.cache = Cache()
        self.away: dict[int, Any] = {}
        self._verbs = 0
        self._begun = 0, 0  # the round, and how many verbs there were before it

    @property
    def rule(self) -> Rule | None:
        """The rule; none for evaluation, of which nothing is booked."""
        return None if self.ledger.is_paused else self._rule

    def begin(self, round: int) -> None:
        """A round begins: what liars draw is keyed by it."""
        self._begun = round, self._verbs

    def said(
        self, tag: Tag, out: Mapping[Link, Any], links: Sequence[Link], weights: Mapping[Link, float] | None = None
    ) -> Mapping[Link, Any]:
        """What nodes send, liars' lies in place of their messages; nobody lies to evaluation.

        Args:
            tag: As of `exchange`.
            out: What they would send.
            links: As of `exchange`.
            weights: Of the messages in their receivers' averages, where neighbours average.
        """
        if self.liars is None or self.ledger.is_paused:
            return out
        overhear = partial(self.transport.exchange, tag._replace(leg=2))
        round, before = self._begun
        found = self.liars.said((round, tag.verb - before), out, links, overhear, weights)
        if self.coding is not None:
            for link, value in found.items():
                if value is not out[link]:
                    self.coding.note_as(value, out[link])
        return found

    def channels(self, message: str | None, way: Way) -> Coding | None:
        """What changes messages of this name on their way; None where nothing does."""
        return self.coding if self.coding is not None and self.coding.applies(message, way) else None

    def tag(self) -> Tag:
        """The tag of a new verb."""
        self._verbs += 1
        return Tag(self._verbs)

    def exchange(
        self, tag: Tag, out: Mapping[Link, Any], links: Sequence[Link], bill: Bill | None = None
    ) -> dict[Link, Any]:
        """`Transport.exchange`; `bill` replaces the byte count of a message, from all that is sent."""
        self._book(out, bill)
        return self.transport.exchange(tag, out, links)

    def total(
        self, tag: Tag, out: Mapping[Link, tuple[float, Any]], links: Sequence[Link], bill: Bill | None = None
    ) -> dict[int, Any]:
        """`Transport.total`; `bill` replaces the byte count of a message."""
        self._book({link: value for link, (_, value) in out.items()}, bill)
        return self.transport.total(tag, out, links)

    def tell(self, value: T) -> T:
        """The value of the process that holds SERVER, on every process; never billed."""
        return self.transport.tell(self.tag(), value)

    def books(self, nodes: Sequence[int]) -> Ledger:
        """What all processes have booked, where the server is; elsewhere what this one has.

        Args:
            nodes: All of them.
        """
        if len(self.transport.blocks(nodes)[0]) == 1:
            return self.ledger
        total = Ledger()
        for state in {**self.away, **self.books_of(nodes)}.values():
            total.add(state)
        return total

    def books_of(self, nodes: Sequence[int]) -> dict[int, Any]:
        """What every process has booked, where the server is, by the first of its nodes; elsewhere its own.

        Args:
            nodes: All of them.
        """
        return self._by_process(nodes, self.ledger.state())

    def kept(self, nodes: Sequence[int]) -> list[Any]:
        """What the channels of all processes remember, where the server is; elsewhere that of this one."""
        if self.coding is None:
            return []
        return [part for state in self._of_all(nodes, self.coding.state()) for part in state]

    def everybody(self, nodes: Sequence[int], own: T) -> list[T]:
        """The values of all processes, on every process; never billed. Without nodes only the server's may be.

        Args:
            nodes: All of them.
            own: This process's.
        """
        return self.tell(self._of_all(nodes, own))

    def _of_all(self, nodes: Sequence[int], own: T) -> list[T]:
        """The values of all processes, its own first, where the server is; elsewhere its own."""
        return [*self._by_process(nodes, own).values()]

    def _by_process(self, nodes: Sequence[int], own: T) -> dict[int, T]:
        """The same, by the first node of each, or SERVER where it has none."""
        blocks, place = self.transport.blocks(nodes)
        links = [Link(block[0], SERVER) for block in blocks if block]
        out = {link: own for link in links if self.transport.here(link.source)}
        came = self.transport.exchange(self.tag(), out, links)
        first = blocks[place][0] if blocks[place] else SERVER
        return {first: own, **{link.source: value for link, value in came.items() if link not in out}}

    def payload_bytes(self, value: Any) -> int:
        """The bytes of a message."""
        return int(trees.payload_bytes(value)) - self.spared(value)

    def once(self, round: int, values: Iterable[Any]) -> Bill:
        """The bill of messages that their receivers keep: what they have in this round, or had, is not sent again.

        Args:
            round: In which they are sent.
            values: The messages.
        """
        if not self.ledger.is_paused:
            self.cache.look(values)

        def bill(link: Link, value: Any) -> int:
            return 0 if link[0] == link[1] else sum(map(self.payload_bytes, self.cache.fresh(link, value, round)))

        return bill

    def spared(self, value: Any) -> int:
        """The bytes that a message takes less than its numbers as they are, by its channels."""
        return 0 if self.coding is None else self.coding.spared(value)

    def _book(self, out: Mapping[Link, Any], bill: Bill | None) -> None:
        if self.ledger.is_paused or bill is nothing:
            return
        sent: dict[int, int] = {}
        received: dict[int, int] = {}
        known: dict[int, int] = {}  # many links carry one and the same value
        for link, value in out.items():
            if bill is not None:
                size = bill(link, value)
            elif (size := known.get(id(value), -1)) < 0:
                size = known[id(value)] = self.payload_bytes(value)
            if size and link[0] != link[1]:
                sent[link[0]] = sent.get(link[0], 0) + size
                received[link[1]] = received.get(link[1], 0) + size
        self.ledger.book(sent, received)


def nothing(link: Link, value: Any) -> int:
    """The bill of what is no part of a method: for the record, for evaluation."""
    return 0
