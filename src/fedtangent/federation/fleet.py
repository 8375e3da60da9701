"""The contract: values that nodes and a server hold, the verbs that move them, and what a method is.

A method is written once, as a global view of the federation. `Each[T]` is one T per node, `Central[T]` one T at the
server; both are opaque to the method, and only the verbs of a `Fleet` touch them:

    map(fn, *x_k)              Each -> Each               nothing is sent
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
    cohort(size)               a Fleet of drawn nodes     nothing; absent nodes keep their state (`merge`)
    within(scope, x_k)         the same Fleet             nothing; `map` on node i runs inside of scope(x_i)
    holding(x, names)          the same Fleet             nothing; what nodes hold already is not sent to them again

`map` and `ask` only describe: the values are computed, chunk of nodes by chunk, when a verb needs them all, so that the
replies of a round never exist at once. Payload bytes are booked where messages are made.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedtangent import multiply_adds, shard, trees
from fedtangent.federation.engine import Engine as Engine
from fedtangent.federation.engine import NodeError as NodeError
from fedtangent.federation.engine import blamed, inside
from fedtangent.federation.graph import Graph
from fedtangent.federation.ledger import SERVER, Ledger
from fedtangent.federation.values import Cache
from fedtangent.federation.values import Central as Central
from fedtangent.federation.values import Each as Each
from fedtangent.federation.values import Inbox as Inbox
from fedtangent.shard import Shard

T = TypeVar("T")

Exposure = Literal["none", "aggregate", "kernel", "raw-equivalent"]


@dataclass(frozen=True)
class Fleet:
    """The nodes of a federation during one round, and the verbs that move values between them.

    Args:
        nodes: Their numbers.
        engine: What runs functions on them.
        seed: Of the run; every random number is keyed by seed, round, node and purpose.
        round: From 1; 0 while the state is set up.
        graph: Who is whose neighbour in this round; None where there is only a server.
        gossip_weights: How `mix` weighs a neighbourhood.
        ledger: Where payload bytes are booked.
        node_bytes: The peak memory of one node's work, by node.
        method: For error messages.
        device: Where drawn numbers are put.
        scope: What every function of `map` runs inside of; from `within`.
        held: Tensors that nodes hold already; from `holding`.
    """

    nodes: tuple[int, ...]
    engine: Engine
    seed: int = 0
    round: int = 0
    graph: Graph | None = None
    gossip_weights: Literal["uniform", "metropolis"] = "uniform"
    ledger: Ledger = field(default_factory=Ledger)
    node_bytes: Mapping[int, int] = field(default_factory=dict)
    method: str = ""
    device: torch.device | str = "cpu"
    scope: tuple[Callable[[Any], AbstractContextManager[Any]], Each[Any]] | None = None
    held: Mapping[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def everywhere(self, value: T) -> Each[T]:
        """The same value on every node, known beforehand: nothing is sent."""
        return Each(self, dict.fromkeys(self.nodes, value))

    def each(self, values: Sequence[T]) -> Each[T]:
        """One given value a node, in the order of the nodes: the way in for an experiment's data."""
        return Each(self, dict(zip(self.nodes, values, strict=True)))

    def map(self, fn: Callable[..., T], *x_k: Each[Any]) -> Each[T]:
        """fn(*x_i) on every node i. It is written for one node's tensors; `real` tells padded rows."""
        if self.scope is not None:
            (scope, own_k), inner = self.scope, fn
            fn, x_k = inside(scope, inner), (own_k, *x_k)
        self._check(*x_k)

        def pull(nodes: Sequence[int], cache: Cache) -> list[T]:
            return self._call(fn, nodes, _rows([x.pull(nodes, cache) for x in x_k], len(nodes)))

        return Each(self, pull)

    def draw(self, fn: Callable[..., T], *x_k: Each[Any], purpose: str) -> Each[T]:
        """fn(rng, *x_i) on every node i, with a generator keyed by seed, round, node and purpose."""
        self._check(*x_k)
        drawn = [
            self._call(fn, [node], [(self.rng(purpose, node), *row)])[0]
            for node, row in zip(self.nodes, self._settled(x_k), strict=True)
        ]
        return self.each([trees.to(value, self.device) for value in drawn])

    def rng(self, purpose: str, node: int = SERVER) -> np.random.Generator:
        """A generator keyed by seed, round, node and purpose, so that nothing depends on the order of execution."""
        key = [self.seed, zlib.crc32(purpose.encode())]
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, self.round, node % 2**32]))

    def at_server(self, fn: Callable[..., T], *x: Central[Any]) -> Central[T]:
        """fn(*x) at the server."""
        self._check_central(*x)
        return Central(self.ledger.run([SERVER], lambda: multiply_adds.run(fn, *(part.value for part in x))))

    def broadcast(self, x: Central[T]) -> Each[T]:
        """The server's value on every node; what a node holds already is not sent again."""
        self._check_central(x)
        whole = trees.payload_bytes(x.value)
        for node in self.nodes:
            held = {id(tensor) for tensor in self.held.get(node, ())}
            self.ledger.send(SERVER, node, trees.payload_bytes(x.value, held) if held else whole)
        return self.everywhere(x.value)

    def mean(self, x_k: Each[T], weight_k: Each[Any] | None = None) -> Central[T]:
        """sum_k weight_k x_k / sum_k weight_k at the server; the weights travel with the values."""
        values = self._to_server(x_k)
        weights = [1.0] * len(values) if weight_k is None else [float(w) for w in self._to_server(weight_k)]
        if sum(weights) == 0:
            raise ValueError("`weight_k` must not sum to zero; got only zeros. Give every node at least one row.")
        return Central(trees.weighted_sum(values, [w / sum(weights) for w in weights]))

    def sum(self, x_k: Each[T]) -> tuple[Central[T], Central[int]]:
        """sum_k x_k at the server, and how many messages it refused: all that secure aggregation would show it.

        Refused, and no part of the sum, are messages of other shapes than most, or with a number that is not finite.

        Raises:
            ValueError: No message is left.
        """
        values = self._to_server(x_k)
        kinds = [str(trees.map(lambda leaf: (tuple(leaf.shape), leaf.dtype), value)) for value in values]
        usual = max(kinds, key=kinds.count)
        good = [x for x, kind in zip(values, kinds, strict=True) if kind == usual and trees.is_finite(x)]
        if not good:
            raise ValueError(
                f"`{self.method or 'x_k'}` must have a finite message to sum; got none of {len(values)} in round "
                f"{self.round}. Use smaller steps, or look at the data."
            )
        return Central(trees.weighted_sum(good, [1] * len(good))), Central(len(values) - len(good))

    def gather(self, x_k: Each[T], bill: Callable[[T], int] = trees.payload_bytes) -> Central[list[T]]:
        """All values at the server, in the order of the nodes; `bill` replaces the byte count of a message."""
        return Central(self._to_server(x_k, bill))

    def mix(self, x_k: Each[T]) -> Each[T]:
        """The gossip matrix times the values: every node averages with its neighbours."""
        self._check(x_k)
        x = dict(zip(self.nodes, x_k.values_at(self.nodes), strict=True))
        mixed = []
        for i in self.nodes:
            group = sorted([i, *self._neighbours(i)])
            for j in self._neighbours(i):
                self.ledger.send(j, i, trees.payload_bytes(x[j]))
            mixed.append(trees.weighted_sum([x[j] for j in group], self._shares[i]))
        return self.each(mixed)

    def share(self, x_k: Each[T]) -> Each[Inbox]:
        """The neighbours' values, in the slots of an Inbox."""
        return self.ask(lambda _, x: x, self.everywhere(torch.zeros(0)), x_k)

    def ask(
        self,
        fn: Callable[..., T],
        x_k: Each[Any],
        *y_k: Each[Any],
        known_k: Each[Any] | None = None,
        bill: Callable[[T], int] = trees.payload_bytes,
    ) -> Each[Inbox]:
        """Node i sends x_i to every neighbour j, which computes fn(x_i, *y_j) and sends it back: i's Inbox.

        Args:
            fn: Of i's question and j's own values; of what j knows of i, the question and j's own where that is given.
            x_k: The questions.
            y_k: What the answering node holds.
            known_k: What i has asked the same neighbours with before in this round, and so need not send again.
            bill: Replaces the byte count of an answer, where another form of it is what would be sent.
        """
        answers = self._answers(fn, x_k, y_k, known_k, bill)
        return Each(
            self,
            lambda nodes, cache: [self._inbox(i, own) for i, own in zip(nodes, answers(nodes, cache), strict=True)],
        )

    def ask_sum(
        self, fn: Callable[..., T], x_k: Each[Any], *y_k: Each[Any], known_k: Each[Any] | None = None
    ) -> Each[tuple[T, Tensor]]:
        """The sum of what `ask` brings a node and how many of the answers it refused: all that secure sums would show.

        Refused, and no part of the sum, are answers with a number that is not finite.
        """
        answers = self._answers(fn, x_k, y_k, known_k, trees.payload_bytes)

        def total(node: int, own: list[Any]) -> tuple[Any, Tensor]:
            good = [answer for answer in own if trees.is_finite(answer)] if self._neighbours(node) else []
            refused = torch.tensor(len(self._neighbours(node)) - len(good), device=self.device)
            return trees.weighted_sum(good, [1] * len(good)) if good else trees.zeros_like(own[0]), refused

        return Each(
            self, lambda nodes, cache: [total(i, own) for i, own in zip(nodes, answers(nodes, cache), strict=True)]
        )

    def _answers(
        self,
        fn: Callable[..., Any],
        x_k: Each[Any],
        y_k: Sequence[Each[Any]],
        known_k: Each[Any] | None,
        bill: Callable[[Any], int],
    ) -> Callable[[Sequence[int], Cache], list[list[Any]]]:
        """What the neighbours of some nodes answer; a lonely node answers itself, for the shapes."""
        asked = [x_k] if known_k is None else [known_k, x_k]
        self._check(*asked, *y_k)
        self._require_graph()
        own = dict(zip(self.nodes, self._settled(y_k), strict=True))
        unsent = set(self.nodes)  # an answer that is computed again, to spare memory, was sent once

        def pull(nodes: Sequence[int], cache: Cache) -> list[list[Any]]:
            group = {i: self._neighbours(i) or (i,) for i in nodes}
            questions = _rows([each.pull(nodes, cache) for each in asked], len(nodes))
            pairs = [(x, i, j) for x, i in zip(questions, nodes, strict=True) for j in group[i]]
            answers = self._call(fn, [j for _, _, j in pairs], [(*x, *own[j]) for x, _, j in pairs])
            for (x, i, j), answer in zip(pairs, answers, strict=True):
                if i in unsent and i != j:
                    self.ledger.send(i, j, trees.payload_bytes(x[-1]))
                    self.ledger.send(j, i, bill(answer))
            unsent.difference_update(nodes)
            slots = iter(answers)
            return [[next(slots) for _ in group[i]] for i in nodes]

        return pull

    def _inbox(self, node: int, answers: list[Any]) -> Inbox:
        real = torch.ones(len(answers), dtype=torch.bool, device=self.device)
        inbox = Inbox(shard.join(answers), real)
        return inbox if self._neighbours(node) else trees.map(lambda leaf: leaf[:0], inbox)

    def within(self, scope: Callable[[T], AbstractContextManager[Any]], x_k: Each[T]) -> "Fleet":
        """The same nodes, every function of `map` on node i run inside the context scope(x_i)."""
        return replace(self, scope=(scope, x_k))

    def holding(self, x: Central[Mapping[str, Tensor]], names: Central[Mapping[int, Sequence[str]]]) -> "Fleet":
        """The same nodes, some of which hold already the tensors of x that `names` tells: no broadcast bills these."""
        self._check_central(x, names)
        return replace(self, held={i: tuple(x.value[name] for name in own) for i, own in names.value.items()})

    def cohort(self, size: int) -> "Fleet":
        """A fleet of `size` nodes drawn for this round."""
        if not 1 <= size <= len(self.nodes):
            raise ValueError(f"`size` must be between 1 and {len(self.nodes)} nodes; got {size}. Draw fewer nodes.")
        drawn = self.rng("cohort").choice(len(self.nodes), size, replace=False)
        nodes = tuple(self.nodes[i] for i in sorted(drawn))
        return replace(self, nodes=nodes, graph=self.graph and self.graph.induced(nodes))

    def merge(self, new_k: Each[T], old_k: Each[T]) -> Each[T]:
        """The new values where there are some, the old ones of the nodes that were absent."""
        values = dict(zip(old_k.nodes, old_k.values, strict=True))
        return Each(old_k._fleet, values | dict(zip(new_k.nodes, new_k.values, strict=True)))

    def chunks(self) -> list[list[int]]:
        """The nodes, in groups that the engine computes together."""
        return self.engine.chunks(self.nodes, self.node_bytes)

    def _call(self, fn: Callable[..., Any], nodes: Sequence[int], rows: list[tuple[Any, ...]]) -> list[Any]:
        try:
            return self.ledger.run(nodes, lambda: self.engine.call(fn, rows))
        except Exception as error:
            raise blamed(fn, nodes, rows, error, self.method, self.round) from error

    def _to_server(self, x_k: Each[T], bill: Callable[[T], int] = trees.payload_bytes) -> list[T]:
        self._check(x_k)
        values = x_k.values_at(self.nodes)
        for node, value in zip(self.nodes, values, strict=True):
            self.ledger.send(node, SERVER, bill(value))
        return values

    def _settled(self, x_k: Sequence[Each[Any]]) -> list[tuple[Any, ...]]:
        return _rows([x.values_at(self.nodes) for x in x_k], len(self.nodes))

    def _require_graph(self) -> Graph:
        if self.graph is None:
            raise ValueError(
                f"`topology` must be given for {self.method or 'this method'}; got none. Choose one, such as 'regular'."
            )
        return self.graph

    def _neighbours(self, node: int) -> tuple[int, ...]:
        return self._require_graph().neighbours[node]

    @cached_property
    def _shares(self) -> list[list[float]]:
        return self._require_graph().shares(self.gossip_weights)

    def _check(self, *x_k: Each[Any]) -> None:
        for x in x_k:
            if not isinstance(x, Each):
                raise TypeError(f"`x_k` must be of type Each; got {type(x).__name__}. Broadcast a Central first.")
            absent = sorted(set(self.nodes).difference(x.nodes))
            if absent:
                raise ValueError(
                    f"`x_k` must hold a value of every node; got none of node {absent[0]}. "
                    "Merge a cohort's values with all nodes' old ones first."
                )

    def _check_central(self, *x: Central[Any]) -> None:
        for part in x:
            if not isinstance(part, Central):
                raise TypeError(
                    f"`x` must be of type Central; got {type(part).__name__}. Take the mean or gather first."
                )


def _rows(columns: Sequence[list[Any]], count: int) -> list[tuple[Any, ...]]:
    """The arguments of every node's call."""
    return list(zip(*columns, strict=True)) if columns else [()] * count


class Method(NamedTuple):
    """A federated method: a pair of pure functions, and what an experiment must know of it.

    Attributes:
        name: The file's.
        init: (fleet, data_k) -> State, a NamedTuple of Each and Central.
        round: (fleet, state, data_k, k) -> (State, what goes on the record). k counts from 1.
        exposure: What leaves a node: `none`, `aggregate` (sums over its samples), `kernel`, `raw-equivalent`.
        neighbours: Whether nodes talk to neighbours, and so need a topology.
        aggregate: (fleet, state, data_k) -> the one model that is evaluated, as a Central.
        node_bytes: (rows, degree) -> the peak memory of one node's work; None for a few copies of weights and data.
        clients: Fleet -> who takes part in a round, of a method that averages weights at a server and bears partial
            updates: its state's `w` are the server's weights, each number of which moves without regard to how many
            others do, and it computes on and hears of no other nodes than these; of such a method with partial updates
            too. None for all others.
        cycle: The fewest rounds of a run, where a method goes through a schedule.
        opening: The first of these, where they never come again.
    """

    name: str
    init: Callable[[Fleet, Each[Shard]], Any]
    round: Callable[[Fleet, Any, Each[Shard], int], tuple[Any, dict[str, Any]]]
    exposure: Exposure
    neighbours: bool
    aggregate: Callable[[Fleet, Any, Each[Shard]], Central[dict[str, Tensor]]]
    node_bytes: Callable[[int, int], int] | None = None
    clients: Callable[[Fleet], Fleet] | None = None
    cycle: int = 1
    opening: int = 0


def rows(data: Shard) -> Tensor:
    """n_k, the number of a node's real rows."""
    return data.real.sum()


def participants(participation: float) -> Callable[[Fleet], Fleet]:
    """Of a round's fleet, max(C K, 1) drawn nodes; C is the share that takes part."""
    if not 0 < participation <= 1:
        raise ValueError(f"`participation` must be in (0, 1]; got {participation}. Use 1 for all clients.")
    # 0.29 of 100 is 28.99...
    return lambda fleet: fleet.cohort(max(int(participation * len(fleet.nodes) + 1e-9), 1))


def node_mean(aggregation: str) -> Callable[[Fleet, Any, Each[Shard]], Central[Any]]:
    """The `aggregate` of a method whose state holds `w_k`: their mean, `plain` or `weighted` by rows."""
    if aggregation not in ("plain", "weighted"):
        raise ValueError(f"`aggregation` must be 'plain' or 'weighted'; got {aggregation!r}. Choose one of the two.")
    return lambda fleet, state, data_k: fleet.mean(
        state.w_k, fleet.map(rows, data_k) if aggregation == "weighted" else None
    )
