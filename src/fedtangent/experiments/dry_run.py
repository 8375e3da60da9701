"""Dry run: what an experiment will send, hold and take, before it runs.

Two rounds of the method's own code, or a schedule's cycle after the first, are played by the engine of the run with two
chunks of nodes for all that have arguments of the same shapes; the others take over the result, and the time of the
second, which holds nothing that happens once. Message sizes depend on shapes only, so the bytes are those of the real
rounds. Under faults a round is played with everybody present, and takes that in proportion to the links that hold: who
is there in which round the seed tells beforehand.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor

from fedtangent import trees
from fedtangent.errors import UserError
from fedtangent.experiments.evaluate import measured
from fedtangent.experiments.method import built_method
from fedtangent.experiments.recalibrate import recalibrated
from fedtangent.experiments.setup import Setup
from fedtangent.experiments.warm_up import warm_up
from fedtangent.federation import Central, Each, Engine, Graph
from fedtangent.federation.engine import NodeError
from fedtangent.federation.values import held
from fedtangent.shard import at

_TENSOR = 512  # bytes of a tensor beside its numbers: its object, its description and its storage's


class Needs(NamedTuple):
    """What a run will need.

    Attributes:
        first_round_bytes: Sent in round 1 by all nodes and the server.
        later_round_bytes: Sent in round 2, or on average in the cycle that begins there, and about as much later on.
        total_bytes: Sent in all rounds.
        memory_bytes: The largest chunk of nodes by the method's own account, the data, and the state as it is before a
            round, after it and, where nodes have neighbours, mixed in between.
        seconds_a_round: About, on this machine.
        evaluation_seconds: About, of one round.
        seconds: About, of all rounds with their evaluation.
    """

    first_round_bytes: int
    later_round_bytes: int
    total_bytes: int
    memory_bytes: int
    seconds_a_round: float
    evaluation_seconds: float
    seconds: float


def dry_run(built: Setup) -> Needs:
    """What the experiment will need; it takes as long as a few chunks of nodes in each round that is played.

    Where all shards differ it takes as long as the rounds themselves.

    Raises:
        NodeError: A node failed.
    """
    warm_up(built.experiment.device)
    engine = _Sampling(built.engine)
    sampled, wire = replace(built, engine=engine, presence=None), built.wire()
    start, ledger = sampled.fleet(0, wire), wire.ledger
    data_k = start.each(list(built.data))
    state = built.method.init(start, data_k)
    asked, chunk = built.experiment, 0
    opening = before = ledger.sent_bytes  # of the set-up, in which everybody takes part
    sent: list[int] = []
    taken: list[float] = []
    for k in range(1, min(asked.rounds, built.method.schedule.cycle + 1) + 1):
        fleet = sampled.fleet(k, wire)
        engine.begin()
        begin = time.perf_counter()
        state, _ = sampled.play(fleet, state, data_k, k)
        taken.append(time.perf_counter() - begin + engine.saved)
        sent.append(ledger.sent_bytes - before)
        before = ledger.sent_bytes
        chunk = max(chunk, *(sum(fleet.node_bytes[node] for node in wave.nodes) for wave in fleet.waves))
    once = 1 + built.method.schedule.opening
    holding = [1.0] * asked.rounds
    if built.presence is not None:
        holding = [built.there(built.fleet(k, wire)).held for k in range(1, asked.rounds + 1)]
    again, later = sent[once:], fmean(holding[once:] or holding)
    seconds = fmean(taken[once:] or taken)
    engine.begin()
    begin = time.perf_counter()
    recalibrated(sampled, fleet, fleet.server(built.task.w_0), data_k)
    evaluation = time.perf_counter() - begin + engine.saved + _evaluation(built)
    states = (3 if built.method.traits.neighbours else 2) * sum(map(_held, held(state)))
    kept = _bytes([*built.data, built.x_test, built.y_test]) + states
    return Needs(
        opening + round(holding[0] * sent[0]),
        int(later * sum(again)) // max(1, len(again)),
        opening + round(_total(sent, once, holding)),
        chunk + kept,
        later * seconds,
        evaluation,
        _total([seconds, *taken[1:]], once, holding) + asked.rounds * evaluation,
    )


def foreseen(built: Setup) -> Needs | None:
    """What the run will need, by a dry run of every twentieth of its nodes, at least six, and scaled to all.

    It takes a fiftieth of the run at most. None of a run that is too short for that, of several processes, or whose
    method is not to be had of so few nodes.
    """
    count, graph, asked = len(built.data), built.graph(1), built.experiment
    degree = 0 if graph is None else round(2 * len(graph.edges) / count)
    few = max(6, degree + 1, count // 20)
    few += few % 2 * degree % 2  # on an odd number of nodes no graph has an odd degree
    played = min(asked.rounds, built.method.schedule.cycle + 1)
    if built.share is not None or any(not built.transport.here(i) for i in built.nodes):
        return None
    if few > count or 50 * few * played > count * asked.rounds:
        return None
    by_size = sorted(built.nodes, key=lambda node: len(built.data[node].real))
    chosen = [by_size[(2 * k + 1) * count // (2 * few)] for k in range(few)]
    if graph is not None:
        offsets = [*range(1, degree // 2 + 1), *([few // 2] if degree % 2 else [])]
        ring = Graph(((i, (i + k) % few) for i in range(few) for k in offsets), few)
        asked = replace(asked, topology=ring, topology_options={})
    try:
        part = replace(
            built,
            experiment=asked,
            data=[built.data[node] for node in chosen],
            tests=None if built.tests is None else [built.tests[node] for node in chosen],
            method=built_method(asked, built.task, few),
            presence=None,
            held=None if built.held is None else [built.held[node] for node in chosen],
        )
        needs = dry_run(part)
    except (UserError, NodeError, RuntimeError):
        return None
    share = few / count
    return Needs(
        round(needs.first_round_bytes / share),
        round(needs.later_round_bytes / share),
        round(needs.total_bytes / share),
        needs.memory_bytes,
        needs.seconds_a_round / share,
        needs.evaluation_seconds / share,
        needs.seconds / share,
    )


def _total(rounds: Sequence[float], once: int, holding: Sequence[float]) -> float:
    """The sum over all rounds, of those that happen once and those that come again and again, as far as each holds."""
    first, again = rounds[:once], rounds[once:]
    every = [*first, *(again[k % len(again)] for k in range(len(holding) - len(first)) if again)]
    return sum(share * one for share, one in zip(holding, every, strict=False))


class _Sampling:
    """An engine that runs two chunks of nodes of the same shapes, and counts the time that the others would take."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.one_by_one, self._engine, self.saved = engine.name, engine.one_by_one, engine, 0.0
        self._seen: dict[Any, _Seen] = {}

    def chunks(self, nodes: Sequence[int], node_bytes: Mapping[int, int]) -> list[list[int]]:
        return self._engine.chunks(nodes, node_bytes)

    def begin(self) -> None:
        """Forgets the round before, whose times include what happens once only."""
        self._seen.clear()
        self.saved = 0.0

    def call(self, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        key = (id(fn), tuple(map(_signature, rows)))
        seen = self._seen.get(key)
        if seen is not None and seen.seconds is not None:
            self.saved += seen.seconds
            return seen.results
        start = time.perf_counter()
        results = self._engine.call(fn, rows)
        seconds = None if seen is None else time.perf_counter() - start
        self._seen[key] = _Seen(results, seconds, fn)
        return results


class _Seen(NamedTuple):
    """A chunk that was run: what it gave, how long its second run took, and its function, whose id stands for it."""

    results: list[Any]
    seconds: float | None
    fn: Callable[..., Any]


def _signature(tree: Any) -> Any:
    leaves = trees.leaves(tree)
    return tuple((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)


def _evaluation(built: Setup) -> float:
    """About how long it takes to evaluate the aggregated model and, as often as asked for, the nodes' own."""
    built.task.predict(built.task.w_0, at(built.x_test, slice(0, 1)))  # what the first call sets up
    begin = time.perf_counter()
    measured(built, built.task.w_0)
    once, every = time.perf_counter() - begin, built.experiment.evaluate_nodes_every
    return once * (1 + (len(built.data) / every if every and built.classes and built.method.personal else 0))


def _held(part: Any) -> int:
    if isinstance(part, Each):
        return sum(map(_bytes, part.values))
    return _bytes(part.value if isinstance(part, Central) else part)


def _bytes(tree: Any) -> int:
    """What a tree takes, the tensors' own objects included: with thousands of small nodes they are most of it."""
    return int(trees.payload_bytes(tree)) + _TENSOR * len(trees.leaves(tree))
