"""A tiny federation in general position: unequal shards and degrees, no size equal to another, float64."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent import catalog, trees
from fedtangent.experiments.chain import chained
from fedtangent.experiments.options import resolved
from fedtangent.federation import (
    SERVER,
    Central,
    Each,
    Engine,
    Fault,
    Fleet,
    Graph,
    Ledger,
    Method,
    Missing,
    Presence,
    Wire,
)
from fedtangent.federation.presence import completed
from fedtangent.shard import Shard
from fedtangent.training.task import Task
from fedtangent.transports.memory import memory

ROWS = (4, 1, 7, 2, 5, 8)
INPUTS, HIDDEN, OUTPUTS = 9, 10, 3
GRAPH = Graph([(0, 1), (1, 2), (2, 3), (1, 4), (2, 4), (1, 5), (4, 5)], len(ROWS))
LONELY = GRAPH.induced([0, 1, 2, 4, 5])  # node 3 has no neighbour
TREE = Graph([(0, 1), (1, 2), (2, 3), (1, 4), (4, 5)], len(ROWS))
SEED = 7
BUDGETS = (1, 2, len(ROWS))  # a chunk of one, of two, of all: every node's work takes one byte
# More of these repeats what few do, and takes most of the time: defaults of papers, in a federation of 27 rows.
FEW: dict[str, int] = {"epochs": 3, "columns": 40, "stage": 0, "steps": 60, "every": 20, "features": 40}


def shards(rows: Sequence[int] = ROWS, seed: int = 1) -> list[Shard]:
    """Labelled rows for every node."""
    rng = np.random.default_rng(seed)
    return [
        Shard(
            torch.from_numpy(rng.normal(size=(n, INPUTS))),
            torch.from_numpy(rng.integers(0, OUTPUTS, n)),
            torch.ones(n, dtype=torch.bool),
        )
        for n in rows
    ]


def network(seed: int = 2, convolutional: bool = False) -> nn.Sequential:
    """A network of two layers, whose weights hang on the seed alone; the first may be a convolution."""
    first: list[nn.Module] = [nn.Linear(INPUTS, HIDDEN), nn.ReLU()]
    if convolutional:  # of images of three by three
        first = [nn.Unflatten(1, (1, 3, 3)), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*first, nn.Linear(8 if convolutional else HIDDEN, OUTPUTS)).double()
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.data = torch.from_numpy(rng.normal(size=p.shape)) / 3
    return model


class Divided(nn.Module):
    """A network whose first weights are divided by their lengths, and by the inputs; none of its slopes is at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale, self.last = (
            nn.Parameter(torch.from_numpy(np.random.default_rng(seed).normal(size=shape)))
            for seed, shape in enumerate([(HIDDEN, INPUTS), (INPUTS,), (OUTPUTS, HIDDEN)])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, C) of rows (n, INPUTS), none of which is zero."""
        w = self.first / self.first.norm(dim=1, keepdim=True)
        return torch.tanh((x / x.norm(dim=1, keepdim=True) + self.scale / (5 + x.abs()) / x) @ w.T) @ self.last.T


def task(seed: int = 2, convolutional: bool = False) -> Task:
    """The network with cross-entropy."""
    return Task(network(seed, convolutional))


def method(name: str, own: Task | None = None, **options: Any) -> Method:
    """A method of the task, with its paper's defaults but for those of which it needs few."""
    factory = catalog.load("methods", name)
    usual = {key: option.default for key, option in inspect.signature(factory).parameters.items()}
    few = {key: few for key, few in FEW.items() if isinstance(usual.get(key), int) and usual[key] > few}
    return factory(own or task(), **{**few, **options})  # type: ignore[no-any-return]


def engine(name: str = "sequential", memory: int = 1) -> Engine:
    """An engine by name, with a budget in nodes."""
    return catalog.load("engines", name)(memory=memory)  # type: ignore[no-any-return]


def fleet(nodes: int = len(ROWS), **options: Any) -> Fleet:
    """A fleet in round 1 with the graph above."""
    given = {"engine": engine(), "seed": SEED, "round": 1, "graph": GRAPH if nodes == len(ROWS) else None}
    given |= {"node_bytes": dict.fromkeys(range(nodes), 1), "wire": Wire(memory())}
    return Fleet(tuple(range(nodes)), **{**given, **options})


def wire(channel: str, **options: Any) -> Wire:
    """One in this process, with channels."""
    chain = chained(channel)
    assert chain is not None
    return Wire(memory(), coding=chain(**resolved("channel", chain, options)))


def philox(purpose: str, round: int, node: int = SERVER, seed: int = SEED) -> np.random.Generator:
    """The generator that a node owes, typed literally."""
    key = [seed, zlib.crc32(purpose.encode())]
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, round, node % 2**32]))


def graph_of(method: str) -> Graph:
    """The graph above, or one on which the method can run."""
    return TREE if method == "relaysgd" else GRAPH


class Run(NamedTuple):
    """What a run leaves."""

    state: Any
    aggregate: dict[str, Tensor]
    extras: list[dict[str, Any]]
    ledger: Ledger


def absences(*rounds: Missing) -> Presence:
    """What is missing in rounds 1, 2 and so on; nothing in later ones."""
    return Presence({"told": Fault(lambda planned, draw: dict(enumerate(rounds, 1)).get(planned.round, Missing()))})


def run(
    method: Method,
    data: Sequence[Shard] | None = None,
    *,
    rounds: int = 2,
    presence: Presence | None = None,
    **options: Any,
) -> Run:
    """Some rounds of a method, as an experiment runs them."""
    data = shards() if data is None else data
    if len(data) == len(ROWS):
        options = {"graph": graph_of(method.name), **options}
    start = fleet(len(data), round=0, **options)
    data_k = start.each(data)
    state = method.init(start, data_k)
    extras = []
    for k in range(1, rounds + 1):
        now = fleet(len(data), **{"round": k, "wire": start.wire, **options})
        state, extra = attended(method, now, state, data_k, k, presence)
        extras.append(plain(extra))
        plain(state)
    with start.ledger.paused():
        aggregate = method.aggregate(now, state, data_k).value
    return Run(state, aggregate, extras, start.ledger)


def attended(
    method: Method, fleet: Fleet, state: Any, data_k: Each[Shard], k: int, presence: Presence | None
) -> tuple[Any, dict[str, Any]]:
    """A round of those who are there."""
    if presence is None:
        return method.round(fleet, state, data_k, k)
    there = presence.there(fleet, [1] * len(fleet.nodes)).fleet
    if there is None:
        return state, {}
    new, extra = method.round(there, state, data_k, k)
    return completed(there, new, state), extra


def plain(tree: Any) -> Any:
    """A state or an extra, with all that nodes and server hold laid open: NamedTuples and dicts become dicts."""
    if isinstance(tree, Each):
        return tree.values
    if isinstance(tree, Central):
        return tree.value
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    return {name: plain(part) for name, part in tree.items()} if isinstance(tree, Mapping) else tree


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Same structure, same shapes and types, same numbers."""
    assert trees.map(lambda _: 0, found) == trees.map(lambda _: 0, expected)
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_same(found: Any, expected: Any) -> None:
    """Equal to the last bit."""
    assert_close(found, expected, 0.0)
