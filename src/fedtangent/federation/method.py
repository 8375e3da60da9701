"""What a method is, and what many of them share."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import Tensor

from fedtangent.federation.fleet import Fleet
from fedtangent.federation.values import Central, Each
from fedtangent.shard import Shard

Exposure = Literal["none", "aggregate", "kernel", "raw-equivalent"]


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
