"""FedPart: most rounds train and send one group of layers only, under any method that averages weights.

Wang et al. Why Go Full? Elevating Federated Learning Through Partial Network Updates. NeurIPS 2024. arXiv 2410.11559.
The schedule is that of the authors' code, whose full rounds open every cycle.

    server:  w   <- w_0
    client:  local copy <- none
    round:   u   <- (k - 1) mod (W + R M)
             G   <- all of w                                if u < W
                    the group number (u - W) div R of M, in order                    else
             S   <- the host's clients
             what S lack of w is sent to them
             w_G <- the host's round on S, on G alone, with all else frozen

Under a host without a server, which is not in the paper, every node has its own weights: G alone is trained and mixed
with the neighbours', and what is frozen stays as it is at each node.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import optree

from fedtangent import catalog
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Method, Schedule
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights, holding
from fedtangent.training.groups import chosen, layer_groups

Order = Literal["sequential", "reverse", "random", "drawn"]


class State(NamedTuple):
    """host: its state, whole. What a client lacks of it, the wire knows."""

    host: Any


def fedpart(
    task: Task,
    *,
    host: Callable[[Task], Method] | None = None,
    warm_up: int = 5,
    warm_up_once: bool = False,
    rounds_per_group: int = 2,
    order: Order = "sequential",
    groups: Sequence[Sequence[str]] | None = None,
) -> Method:
    """FedPart. With one group and no warm-up it is the host.

    Numbers of the host's state that belong to frozen parameters, such as moments and control variates, stand still.
    MOON contrasts with a client's last weights of the group, inside the frozen layers of now. What the host sends
    beside weights is sent for the group in every round. Dropout and batch norm act in frozen layers as in all others.

    Args:
        task: Model and loss. Its example tells in which order the layers are used; without one it is the model's own.
        host: The method inside; none is fedavg.
        warm_up: W, the full rounds that open a cycle.
        warm_up_once: Whether full rounds open the first cycle only, as in the paper's study of them.
        rounds_per_group: R, successive rounds of one group.
        order: Of the groups: from input to output, `reverse`, a new permutation every cycle (`random`), or each visit
            to any group, drawn evenly (`drawn`).
        groups: Names of parameters, or of modules for all inside; none finds a model's layers.
    """
    if order not in get_args(Order):
        raise SettingError(f"`order` must be one of {', '.join(get_args(Order))}; got {order!r}. Choose one of these.")
    for name, value, least in (("warm_up", warm_up, 0), ("rounds_per_group", rounds_per_group, 1)):
        if value < least:
            raise SettingError(f"`{name}` must be at least {least}; got {value}. Give a number of rounds.")
    build = host or catalog.load("methods", "fedavg")
    parts, everything = layer_groups(task) if groups is None else chosen(task, groups), tuple(task.w_0)
    whole = build(task)
    gossips = whole.traits.gossips
    if not (whole.traits.averages or gossips) or whole.name == "fedpart":
        raise SettingError(
            f"`host` must bear partial updates; got {whole.name}, which does not. Use a method that averages weights "
            "at a server, such as fedavg, or between neighbours, such as dfedavg."
        )

    @cache
    def on(names: tuple[str, ...]) -> Method:
        return build(task.part(names))

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(whole.init(fleet, data_k))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        first, visit = scheduled(k, len(parts), warm_up, rounds_per_group, warm_up_once)
        names = everything if visit is None else parts[_turn(fleet, order, first, visit, len(parts))]
        present = whole.clients(fleet).nodes
        clients = replace(fleet, nodes=present)
        if len(names) == len(everything):
            kept, extra = whole.round(fleet, state.host, data_k, k)
        else:

            def rest(w: Weights) -> Weights:
                return {name: w[name] for name in everything if name not in names}

            if gossips:
                frozen_k = clients.map(rest, state.host.w_k)
            else:
                frozen_k = clients.broadcast(fleet.at_server(rest, state.host.w), "weights")
            part = _each_field(lambda tree: _cut(tree, everything, names), clients, state.host)
            part, extra = on(names).round(fleet.within(holding, frozen_k), part, data_k, k)
            joined = _each_field(lambda old, new: _joined(old, new, everything, names), clients, state.host, part)
            pairs = zip(joined, state.host, strict=True)
            kept = type(joined)(*(fleet.merge(new, old) if isinstance(new, Each) else new for new, old in pairs))
        trained = sum(task.w_0[name].numel() for name in names)
        return State(kept), {**extra, "trained_parameters": trained}

    def aggregate(fleet: Fleet, state: State, data_k: Each[Shard]) -> Central[Weights]:
        return whole.aggregate(fleet, state.host, data_k)

    def personal(state: State) -> Each[Weights]:
        assert whole.personal is not None
        return whole.personal(state.host)

    cycle = max(whole.schedule.cycle, warm_up + rounds_per_group * len(parts))
    opening = warm_up if warm_up_once else 0
    return whole._replace(
        name="fedpart",
        init=init,
        round=round,
        aggregate=aggregate,
        personal=None if whole.personal is None else personal,
        schedule=Schedule(cycle, opening),
    )


def scheduled(k: int, count: int, warm_up: int, rounds_per_group: int, once: bool = False) -> tuple[int, int | None]:
    """The first round of the cycle that round k is in, and the number of the visit to a group; None if all is trained.

    Args:
        k: From 1.
        count: M, of the groups.
        warm_up: W.
        rounds_per_group: R, successive rounds of one group.
        once: Whether full rounds open the first cycle only.
    """
    t, opening = (k - 1 - warm_up, 0) if once else (k - 1, warm_up)
    if t < 0:
        return 1, None
    u = t % (opening + rounds_per_group * count)
    return k - u, None if u < opening else (u - opening) // rounds_per_group


def _turn(fleet: Fleet, order: Order, first: int, visit: int, count: int) -> int:
    """The group of a visit; what is drawn is keyed by the cycle's first round."""
    if order in ("sequential", "reverse"):
        return visit if order == "sequential" else count - 1 - visit
    rng = replace(fleet, round=first).rng("order")
    return int((rng.permutation(count) if order == "random" else rng.integers(count, size=count))[visit])


def _each_field(fn: Callable[..., Any], clients: Fleet, *states: Any) -> Any:
    """The state of fn of every field: at the server, or on the clients."""
    fields = [
        (clients.map if isinstance(parts[0], Each) else clients.at_server)(fn, *parts)
        for parts in zip(*states, strict=True)
    ]
    return type(states[0])(*fields)


def _cut(tree: Any, everything: Sequence[str], names: Sequence[str]) -> Any:
    """The tree, every dict of all parameters in it cut down to those named."""

    def cut(part: Any) -> Any:
        return {name: part[name] for name in names} if _whole(part, everything) else part

    return optree.tree_map(cut, tree, is_leaf=lambda part: _whole(part, everything))


def _joined(old: Any, new: Any, everything: Sequence[str], names: Sequence[str]) -> Any:
    """The old tree, the named parameters of every dict of all parameters, and all else, as in the new one."""

    def join(old: Any, new: Any) -> Any:
        if not _whole(old, everything):
            return new
        if set(new) != set(names):
            raise SettingError(
                f"`host` must give the {len(names)} parameters that it was given; got {len(new)}. A part must never "
                "stand for the whole."
            )
        return {name: new.get(name, old[name]) for name in everything}

    return optree.tree_map(join, old, new, is_leaf=lambda part: _whole(part, everything))


def _whole(part: Any, everything: Sequence[str]) -> bool:
    return isinstance(part, dict) and set(part) == set(everything)
