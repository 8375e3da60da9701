"""What a method is, and what many of them share."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation.coding import Message
from fedtangent.federation.fleet import Fleet
from fedtangent.federation.graph import Graph
from fedtangent.federation.values import Central, Each
from fedtangent.shard import Shard

Exposure = Literal["none", "aggregate", "kernel", "raw-equivalent"]


WEIGHTS_AT_SERVER = MappingProxyType({"weights": Message(("up", "down"), lasting=True)})
WEIGHTS_BETWEEN = MappingProxyType({"weights": Message(("between",), lasting=True)})


class Traits(NamedTuple):
    """What is true of a method, stated and never guessed.

    Attributes:
        neighbours: Its nodes talk to neighbours, and so need a topology.
        tangent: It works in the tangent space of one function of the weights, on all rows and no batches: the function
            must not change by chance, and augmentation has no place.
        averages: It averages weights at a server and supports partial updates: its state's `w` are the server's
            weights, whose coordinates are updated independently, and it uses no nodes but its `clients`.
        gossips: It averages weights between neighbours and supports partial updates: its state's `w_k` are the nodes'
            weights, whose coordinates are updated independently, by local training and `mix` alone.
        personal: Its nodes' models are meant to differ, and are measured as they are.
        needs_all: Why no node may be absent, to follow "which"; empty where nodes may be.
        unaveraged: No verb averages or adds up what its nodes learn, so that a rule would find nothing to do.
        own_start: Its nodes may begin with weights of their own, by `first_weights`.
    """

    neighbours: bool = False
    tangent: bool = False
    averages: bool = False
    gossips: bool = False
    personal: bool = False
    needs_all: str = ""
    unaveraged: bool = False
    own_start: bool = False


class Schedule(NamedTuple):
    """cycle: The fewest rounds of a run. opening: How many initial rounds later cycles do not repeat."""

    cycle: int = 1
    opening: int = 0


def everybody(fleet: Fleet) -> Fleet:
    """All nodes, who take part where a method says nothing else."""
    return fleet


def server_weights(fleet: Fleet, state: Any, data_k: Each[Shard]) -> Central[Any]:
    """The `aggregate` of a method whose state holds the server's `w`."""
    return state.w  # type: ignore[no-any-return]


def of_nodes(state: Any) -> Each[Any]:
    """The `personal` weights of a method whose state holds each node's `w_k`."""
    return state.w_k  # type: ignore[no-any-return]


class Method(NamedTuple):
    """A federated method: a pair of pure functions, and what an experiment must know of it.

    Attributes:
        name: The file's.
        init: (fleet, data_k) -> State, a NamedTuple of Each and Central.
        round: (fleet, state, data_k, k) -> (State, what goes on the record). k counts from 1.
        exposure: What leaves a node: `none`, `aggregate` (sums over its samples), `kernel`, `raw-equivalent`.
        traits: What is true of it.
        aggregate: (fleet, state, data_k) -> the one model that is evaluated, as a Central; the server's `w` by itself.
        personal: State -> the nodes' own weights, where each has its own.
        clients: Fleet -> who takes part in a round.
        node_bytes: (rows, degree) -> the peak memory of one node's work; None for a few copies of weights and data.
        coded_bytes: The same where channels change its messages, where that is more.
        schedule: Of its rounds, where they are not all alike.
        messages: Those that bear channels, by the name that the verbs are given.
        graph: (nodes, rng) -> the graph of a round, of a method that draws its own and takes no topology.
        predict: (w, x) -> the aggregate's outputs, where they are not the model's at these weights; `aggregate` may
            then give more than weights, under names of the method's own.
    """

    name: str
    init: Callable[[Fleet, Each[Shard]], Any]
    round: Callable[[Fleet, Any, Each[Shard], int], tuple[Any, dict[str, Any]]]
    exposure: Exposure
    traits: Traits = Traits()
    aggregate: Callable[[Fleet, Any, Each[Shard]], Central[dict[str, Tensor]]] = server_weights
    personal: Callable[[Any], Each[dict[str, Tensor]]] | None = None
    clients: Callable[[Fleet], Fleet] = everybody
    node_bytes: Callable[[int, int], int] | None = None
    coded_bytes: Callable[[int, int], int] | None = None
    schedule: Schedule = Schedule()
    messages: Mapping[str, Message] = MappingProxyType({})
    graph: Callable[[int, np.random.Generator], Graph] | None = None
    predict: Callable[[dict[str, Tensor], Any], Tensor] | None = None


def rows(data: Shard) -> Tensor:
    """n_k, the number of a node's real rows."""
    return data.real.sum()


def first_weights(fleet: Fleet, task: Any) -> Each[dict[str, Tensor]]:
    """Every node's first weights: the task's, or those that it draws for each, where the experiment asks for these.

    Args:
        fleet: Before the first round.
        task: A `training.Task`.
    """
    if task.first is None:
        return fleet.everywhere(task.w_0)

    def drawn(rng: np.random.Generator) -> dict[str, Tensor]:
        w = task.first(rng)
        return {name: w[name] for name in task.w_0}  # of a part of the model the trained ones

    return fleet.draw(drawn, purpose="first weights")


def participants(participation: float) -> Callable[[Fleet], Fleet]:
    """Of a round's fleet, max(C K, 1) drawn nodes, all of them where fewer are present; C is the share of all K."""
    if not 0 < participation <= 1:
        raise SettingError(f"`participation` must be in (0, 1]; got {participation}. Use 1 for all clients.")
    # 0.29 of 100 is 28.99...
    return lambda fleet: fleet.cohort(min(max(int(participation * fleet.total + 1e-9), 1), len(fleet.nodes)))


def node_mean(aggregation: str) -> Callable[[Fleet, Any, Each[Shard]], Central[Any]]:
    """The `aggregate` of a method whose state holds `w_k`: their mean, `plain` or `weighted` by rows."""
    if aggregation not in ("plain", "weighted"):
        raise SettingError(f"`aggregation` must be 'plain' or 'weighted'; got {aggregation!r}. Choose one of the two.")
    return lambda fleet, state, data_k: fleet.mean(
        state.w_k, fleet.map(rows, data_k) if aggregation == "weighted" else None
    )
