"""The contract: values that nodes and a server hold, and the verbs that move them.

A method is written once, as a global view of the federation. `Each[T]` is one T per node, `Central[T]` one T at the
server; both are opaque to the method, and only the verbs of a `Fleet` touch them:

    everywhere(x), server(x)   T -> Each T, Central T     nothing is sent: all know it beforehand
    map(fn, *x_k)              Each -> Each               nothing
    draw(fn, *x_k)             Each -> Each               nothing; the only source of randomness
    at_server(fn, *x)          Central -> Central         nothing
    broadcast(x)               Central T -> Each T        server to all
    mean(x_k, weight_k)        Each T -> Central T        all to server
    sum(x_k)                   Each T -> Central T        all to server, which need not see any of them
    gather(x_k)                Each T -> Central [T]      all to server
    mix(x_k)                   Each -> Each               every node to its neighbours: the gossip matrix times values
    share(x_k)                 Each T -> Each Inbox[T]    every node to its neighbours
    ask(fn, x_k, *y_k)         Each Inbox[fn(x_i, y_j)]   a question to the neighbours, and their answers back
    ask_sum(fn, x_k, *y_k)     Each of their sum          the same; none of the answers need be seen
    ask_total(fn, x_k, *y_k)   the same, and the node's own: what a rule makes robust
    cohort(size)               a Fleet of drawn nodes     nothing; absent nodes keep their state (`merge`)
    within(scope, x_k)         the same Fleet             nothing; `map` on node i runs inside of scope(x_i)
    as_sent(x, message)        the same, as it is seen    nothing; where the sender goes on with what receivers see

Where the run has a rule, `mean`, `sum`, `mix` and `ask_total` average by it, and it sees single messages. To every verb
a message that is not finite, or of another shape than most, is as if it were absent.
A message that has a name bears the run's channels, which change it and take fewer bytes; without them it is as it was
(`codes(message)` tells which).
Every process runs the same method on its own nodes, and a Central is absent where the server is not. `map` and `ask`
only describe: the values are computed, wave of nodes by wave, when a verb needs them all, so that the replies of a
round never exist at once. `observe(x_k)` is for the record: what is observed must never come back into a verb.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from fedtangent import many, multiply_adds, trees
from fedtangent.errors import SettingError
from fedtangent.federation.asking import Asking
from fedtangent.federation.averaging import mixed
from fedtangent.federation.engine import Engine, blamed, inside, unwritten
from fedtangent.federation.graph import Graph
from fedtangent.federation.keyed import Numbers, generator
from fedtangent.federation.ledger import SERVER, Ledger, Link
from fedtangent.federation.sending import Sending
from fedtangent.federation.transport import Wire, nothing
from fedtangent.federation.uplink import Uplink, one
from fedtangent.federation.values import ABSENT, Cache, Central, Each, Inbox, Wave, check_central, check_each
from fedtangent.federation.waves import waves

T = TypeVar("T")
Held = TypeVar("Held", Each[Any], Central[Any])


@dataclass(frozen=True)
class Fleet:
    """The nodes of a federation during one round, and the verbs that move values between them.

    Args:
        nodes: Their numbers, the same on every process.
        engine: What runs functions on those that are here.
        wire: What brings messages to the others, and books them.
        seed: Of the run; every random number is keyed by seed, round, node and purpose.
        round: From 1; 0 while the state is set up.
        graph: Who is whose neighbour in this round; None where there is only a server.
        gossip_weights: How `mix` weighs a neighbourhood.
        node_bytes: The peak memory of one node's work, by node.
        method: For error messages.
        device: Where drawn numbers are put.
        scope: What every function of `map` runs inside of; from `within`.
        blind: Whether `observe` is refused.
        total: The number of all nodes of the federation, those that take no part in this round included; 0 stands for
            as many as `nodes`.
    """

    nodes: tuple[int, ...]
    engine: Engine
    wire: Wire
    seed: int = 0
    round: int = 0
    graph: Graph | None = None
    gossip_weights: Literal["uniform", "metropolis"] = "uniform"
    node_bytes: Mapping[int, int] = field(default_factory=dict)
    method: str = ""
    device: torch.device | str = "cpu"
    scope: tuple[Callable[[Any], AbstractContextManager[Any]], Each[Any]] | None = None
    blind: bool = False
    total: int = 0

    def __post_init__(self) -> None:
        """Counts all nodes where nobody said how many they are."""
        if not self.total:
            object.__setattr__(self, "total", len(self.nodes))

    @property
    def proportion(self) -> float:
        """The share of all nodes of the federation that these are."""
        return len(self.nodes) / self.total

    @cached_property
    def here(self) -> tuple[int, ...]:
        """Those of the nodes that are of this process."""
        return tuple(node for node in self.nodes if self.wire.transport.here(node))

    @cached_property
    def waves(self) -> list[Wave]:
        """All nodes, in the groups that engines compute together: one of every process at a time."""
        neighbours = self.graph.neighbours if self.graph is not None else ()
        return waves(self.wire.transport, self.engine, self.nodes, self.node_bytes, neighbours)

    @property
    def ledger(self) -> Ledger:
        """Where bytes and multiply-adds are booked, those of this process."""
        return self.wire.ledger

    def everywhere(self, value: T) -> Each[T]:
        """The same value on every node, known beforehand: nothing is sent."""
        return Each(self, dict.fromkeys(self.here, value))

    def each(self, values: Sequence[T]) -> Each[T]:
        """One given value a node, in the order of the nodes: the way in for an experiment's data."""
        given = dict(zip(self.nodes, values, strict=True))
        return self.of_here([given[node] for node in self.here])

    def of_here(self, values: Sequence[T]) -> Each[T]:
        """One given value for every node of this process, in their order."""
        return Each(self, dict(zip(self.here, values, strict=True)))

    def server(self, value: T) -> Central[T]:
        """A value that the server begins with."""
        return Central(value if self._serves else cast(T, ABSENT))

    def map(self, fn: Callable[..., T], *x_k: Each[Any]) -> Each[T]:
        """fn(*x_i) on every node i. It is written for one node's tensors; `real` tells padded rows."""
        if self.scope is not None:
            scope, own_k = self.scope
            fn, x_k = inside(scope, fn), (own_k, *x_k)
        check_each(self.nodes, *x_k)

        def pull(wave: Wave, cache: Cache) -> list[T]:
            return self._call(fn, wave.nodes, _rows([x.pull(wave, cache) for x in x_k], len(wave.nodes)))

        return Each(self, pull)

    def draw(self, fn: Callable[..., T], *x_k: Each[Any], purpose: str) -> Each[T]:
        """fn(rng, *x_i) on every node i, with a generator keyed by seed, round, node and purpose; no work is booked.

        A function that has `of_round`, such as that of `solvers.shuffled`, is told the round by it.
        """
        check_each(self.nodes, *x_k)
        fn = fn.of_round(self.round) if hasattr(fn, "of_round") else fn
        numbers = Numbers(self.seed, self.round, purpose)
        values = many.trimmed(numbers.drawn(fn, self.here, self._settled(x_k), self.method))
        if torch.device(self.device).type != "cpu":
            values = many.moved(values, self.device)
        return self.of_here(values)

    def rng(self, purpose: str, node: int = SERVER) -> np.random.Generator:
        """A generator keyed by seed, round, node and purpose, so that nothing depends on the order of execution."""
        return generator(self.seed, self.round, purpose, node)

    def at_server(self, fn: Callable[..., T], *x: Central[Any]) -> Central[T]:
        """fn(*x) at the server."""
        check_central(*x)
        if not self._serves:
            return Central(cast(T, ABSENT))
        values = [part.value for part in x]
        with unwritten(fn, values, self.method, self.round):
            return Central(self.ledger.run([SERVER], lambda: multiply_adds.run(fn, *values)))

    def as_sent(self, x: Held, message: str | None, since_k: Each[Any] | None = None) -> Held:
        """A server's or every node's value as its receivers will see it, by a verb that names no message any more.

        Args:
            x: A Central, which goes down, or an Each, which goes to neighbours where there are some and else up.
            message: Its name, by which the run's channels know it; without one it is as it is.
            since_k: What both ends have already, of which the channels are given the difference.
        """
        if isinstance(x, Central):
            return self._sending.by_server(x, message)
        return self._sending.by_nodes(x, message, since_k)

    def codes(self, message: str) -> bool:
        """Whether the run's channels change messages of this name that nodes send."""
        return self.wire.channels(message, self._sending.way) is not None

    def broadcast(self, x: Central[T], message: str | None = None) -> Each[T]:
        """The server's value on every node; what a node holds already is not sent again."""
        check_central(x)
        x = self.as_sent(x, message)
        links = [Link(SERVER, node) for node in self.nodes]
        out = dict.fromkeys(links, x.value) if self._serves else {}
        came = self.wire.exchange(self.wire.tag(), out, links, self.wire.once(self.round, out.values()))
        return Each(self, {node: came[Link(SERVER, node)] for node in self.here})

    def mean(
        self,
        x_k: Each[T],
        weight_k: Each[Any] | None = None,
        message: str | None = None,
        since_k: Each[T] | None = None,
    ) -> Central[T]:
        """sum_k weight_k x_k / sum_k weight_k at the server; the weights travel with the values.

        Args:
            x_k: The values.
            weight_k: Theirs; 1 where not given.
            message: As of `as_sent`.
            since_k: As of `as_sent`.
        """
        check_each(self.nodes, x_k)
        x_k = self.as_sent(x_k, message, since_k)
        weights = [1.0] * len(self.nodes) if weight_k is None else many.floats(self._uplink.told(weight_k, None))
        return Central(self._uplink.mean(x_k, weights))

    def sum(
        self, x_k: Each[T], message: str | None = None, rows: Callable[[T], Any] = one
    ) -> tuple[Central[T], Central[int]]:
        """sum_k x_k at the server, and how many messages it refused: all that secure aggregation would show it.

        Refused, and no part of the sum, are messages of other shapes than most, or with a number that is not finite.

        Args:
            x_k: The values.
            message: As of `as_sent`.
            rows: Of how many rows of data a message is the sum, for a rule, which then sees single messages.

        Raises:
            ValueError: No message is left.
        """
        check_each(self.nodes, x_k)
        total, refused = self._uplink.sum(self.as_sent(x_k, message), rows)
        return Central(total), self.server(refused)

    def gather(
        self, x_k: Each[T], bill: Callable[[T], int] = trees.payload_bytes, message: str | None = None
    ) -> Central[list[T]]:
        """All values at the server, in the order of the nodes; `bill` replaces the byte count of a message."""
        check_each(self.nodes, x_k)
        return Central(self._uplink.gathered(self.as_sent(x_k, message), bill))

    def observe(self, x_k: Each[T]) -> list[T]:
        """All values, in the order of the nodes, on every process: for record and evaluation, and never billed.

        Raises:
            PermissionError: This fleet is a method's, which must not look.
        """
        if self.blind:
            raise PermissionError(
                "`observe` must not be called by a method, which would see what it may not. Use verbs."
            )
        return self._uplink.told(x_k, nothing)

    def mix(self, x_k: Each[T], message: str | None = None) -> Each[T]:
        """The gossip matrix times the values: every node averages with its neighbours what all of them see."""
        check_each(self.nodes, x_k)
        x_k = self.as_sent(x_k, message)
        x = dict(zip(self.here, x_k.values_at(self.here), strict=True))
        every = self._require_graph().neighbours
        neighbours = {i: every[i] for i in self.nodes}
        return self.of_here(mixed(self.wire, x, neighbours, self._shares, self.gossip_weights))

    def share(self, x_k: Each[T]) -> Each[Inbox]:
        """The neighbours' values, in the slots of an Inbox."""
        return self.ask(lambda _, x: x, self.everywhere(torch.zeros(0)), x_k)

    def ask(
        self,
        fn: Callable[..., T],
        x_k: Each[Any],
        *y_k: Each[Any],
        bill: Callable[[T], int] = trees.payload_bytes,
        message: str | None = None,
    ) -> Each[Inbox]:
        """Node i sends x_i to every neighbour j, which computes fn(x_i, *y_j) and sends it back: i's Inbox.

        Args:
            fn: Of i's question and j's own values.
            x_k: The questions. What i has sent the same neighbours before in this round is not sent again.
            y_k: What the answering node holds.
            bill: Replaces the byte count of an answer, where another form of it is what would be sent.
            message: The answers' name, as of `as_sent`; of a question `as_sent` gives what is seen.
        """
        asking = self._asking(fn, x_k, y_k, message)
        return Each(self, partial(asking.inboxes, bill))

    def ask_sum(
        self, fn: Callable[..., T], x_k: Each[Any], *y_k: Each[Any], message: str | None = None
    ) -> Each[tuple[T, Tensor]]:
        """The sum of what `ask` brings a node and how many of the answers it refused: all that secure sums would show.

        Refused, and no part of the sum, are answers with a number that is not finite: their senders send zeros.
        """
        return Each(self, self._asking(fn, x_k, y_k, message).sums)

    def _asking(self, fn: Callable[..., Any], x_k: Each[Any], y_k: Sequence[Each[Any]], message: str | None) -> Asking:
        check_each(self.nodes, x_k, *y_k)
        graph = self._require_graph()
        if graph.directed:
            raise SettingError(
                f"`topology` must be undirected for {self.method or 'this method'}, whose nodes answer one another; "
                "got a directed one. Choose another, such as 'regular'."
            )
        own = dict(zip(self.here, self._settled(y_k), strict=True))
        call, code = partial(self._call, fn), self._sending.answers(message)
        return Asking(
            self.wire, self.nodes, graph.neighbours.__getitem__, call, x_k, own, code, self.device, self.round
        )

    def ask_total(
        self,
        fn: Callable[..., T],
        x_k: Each[Any],
        *y_k: Each[Any],
        message: str | None = None,
        rows: Callable[[T], Any] = one,
    ) -> Each[tuple[T, Tensor]]:
        """fn(x_i, *y_i) and the sum of what `ask_sum` brings, and how many answers were refused.

        Args:
            fn: As of `ask`.
            x_k: The questions.
            y_k: What the answering node holds.
            message: As of `ask`.
            rows: Of how many rows of data an answer is the sum, for a rule, which then sees every answer by itself.
        """
        own_k = self.map(fn, x_k, *y_k)
        rule = self.wire.rule
        if rule is None:
            near_k = self.ask_sum(fn, x_k, *y_k, message=message)
            return self.map(_with_own, own_k, near_k)
        asking = self._asking(fn, x_k, y_k, message)
        return Each(self, lambda wave, cache: asking.totals(rule, rows, own_k.pull(wave, cache), wave, cache))

    def within(self, scope: Callable[[T], AbstractContextManager[Any]], x_k: Each[T]) -> "Fleet":
        """The same nodes, every function of `map` on node i run inside the context scope(x_i)."""
        return replace(self, scope=(scope, x_k))

    def cohort(self, size: int) -> "Fleet":
        """A fleet of `size` nodes drawn for this round."""
        if not 1 <= size <= len(self.nodes):
            raise SettingError(f"`size` must be between 1 and {len(self.nodes)} nodes; got {size}. Draw fewer nodes.")
        drawn = self.rng("cohort").choice(len(self.nodes), size, replace=False)
        nodes = tuple(self.nodes[i] for i in sorted(drawn))
        return replace(self, nodes=nodes, graph=self.graph and self.graph.induced(nodes))

    def merge(self, new_k: Each[T], old_k: Each[T]) -> Each[T]:
        """The new values where there are some, the old ones of the nodes that were absent."""
        values = dict(zip(old_k.here, old_k.values, strict=True))
        return Each(old_k._fleet, values | dict(zip(new_k.here, new_k.values, strict=True)))

    @property
    def _serves(self) -> bool:
        return self.wire.transport.here(SERVER)

    def _call(self, fn: Callable[..., Any], nodes: Sequence[int], rows: list[tuple[Any, ...]]) -> list[Any]:
        if self.engine.one_by_one and len(rows) > 1:  # each is booked its own work
            return [found for node, row in zip(nodes, rows, strict=True) for found in self._call(fn, [node], [row])]
        with unwritten(fn, rows, self.method, self.round):
            try:
                return self.ledger.run(nodes, lambda: self.engine.call(fn, rows)) if rows else []
            except Exception as error:
                raise blamed(fn, nodes, rows, error, self.method, self.round) from error

    @property
    def _uplink(self) -> Uplink:
        return Uplink(self, self.wire, self.method, self.round, partial(self.rng, "groups"))

    @property
    def _sending(self) -> Sending:
        return Sending(self, self.wire, self.rng, between=self.graph is not None)

    def _settled(self, x_k: Sequence[Each[Any]]) -> list[tuple[Any, ...]]:
        return _rows([x.values_at(self.here) for x in x_k], len(self.here))

    def _require_graph(self) -> Graph:
        if self.graph is None:
            raise SettingError(
                f"`topology` must be given for {self.method or 'this method'}; got none. Choose one, such as 'regular'."
            )
        return self.graph

    @cached_property
    def _shares(self) -> list[list[float]]:
        return self._require_graph().shares(self.gossip_weights)


def _with_own(own: Any, near: tuple[Any, Tensor]) -> tuple[Any, Tensor]:
    return trees.add(own, near[0]), near[1]


def _rows(columns: Sequence[list[Any]], count: int) -> list[tuple[Any, ...]]:
    """The arguments of every node's call."""
    return list(zip(*columns, strict=True)) if columns else [()] * count
