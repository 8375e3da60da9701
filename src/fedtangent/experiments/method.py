"""Method: an experiment's method on its task, and what a run asks of it, each answer checked."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.build import named
from fedtangent.experiments.experiment import Experiment, factory
from fedtangent.experiments.options import plain
from fedtangent.federation import Central, Each, Exposure, Fleet, Graph, Method, Traits
from fedtangent.federation.values import is_state
from fedtangent.own import called, check_takes
from fedtangent.shard import Shard
from fedtangent.training import batch_norm, dropout
from fedtangent.training.task import Task, Weights

_FUNCTIONS = {"init": "fleet, data_k", "round": "fleet, state, data_k, k", "aggregate": "fleet, state, data_k"}


def built_method(experiment: Experiment, task: Task, nodes: int) -> Method:
    """The method on a task, around its host; rounds and topology suit it."""
    function = factory("method", experiment.method)
    assert function is not None
    host = factory("host", experiment.hosted)
    hosted = {} if host is None else {"host": partial(_made, "host", host, **experiment.resolved("host"))}
    method = _made("method", function, task, **experiment.resolved("method"), **hosted)
    if experiment.rounds < method.schedule.cycle:
        raise SettingError(
            f"`rounds` must be at least {method.schedule.cycle}, one cycle of {method.name}'s schedule; got "
            f"{experiment.rounds}. Run longer, or shorten the schedule."
        )
    if not method.traits.neighbours or method.graph is not None:
        given = {
            **({} if experiment.topology is None else {"topology": experiment.topology}),
            **experiment.topology_options,
            **({"static": True} if experiment.static else {}),
            **({} if experiment.gossip_weights == "uniform" else {"gossip_weights": experiment.gossip_weights}),
        }
        for name, value in given.items():
            raise SettingError(
                f"`{name}` must be left out for {method.name}, "
                f"{'which draws its own graphs' if method.traits.neighbours else 'whose nodes have no neighbours'}; "
                f"got {plain(value)!r}. Drop it."
            )
    elif isinstance(experiment.topology, Graph) and experiment.topology.nodes != nodes:
        raise SettingError(
            f"`topology` must have as many nodes as the experiment, {nodes}; "
            f"got {experiment.topology.nodes}. Change either of them."
        )
    return method


def _made(part: str, function: Callable[..., Method], task: Task, **options: Any) -> Method:
    """The method, or the host, with what a run asks of it."""
    method = called(part, function, "task", task, **options)
    if not isinstance(method, Method):
        raise SettingTypeError(
            f"`{part}` must give a Method; got {type(method).__name__}. Return fedtangent.federation.Method(...)."
        )
    for name, arguments in _FUNCTIONS.items():
        check_takes(name, getattr(method, name), arguments, *arguments.split(", "))
    if method.exposure not in get_args(Exposure) or not isinstance(method.traits, Traits):
        raise SettingTypeError(
            f"`{part}` must tell an exposure of {', '.join(get_args(Exposure))}, and Traits; got {method.exposure!r} "
            f"and {type(method.traits).__name__}. Return Method(name, init, round, exposure, Traits(...), aggregate)."
        )
    return method


def begun(method: Method, fleet: Fleet, data_k: Each[Shard]) -> Any:
    """The first state, as the method gives it.

    Raises:
        TypeError: It gives something else.
    """
    state = method.init(fleet, data_k)
    if not is_state(state):
        raise SettingTypeError(
            f"`init` of {method.name} must give a state, a NamedTuple or dataclass; got {type(state).__name__}. Return "
            "State(...)."
        )
    return state


def played(method: Method, fleet: Fleet, state: Any, data_k: Each[Shard], k: int) -> tuple[Any, Mapping[str, Any]]:
    """State and what is recorded after round k, as the method gives them.

    Raises:
        TypeError: It gives something else.
    """
    found = method.round(fleet, state, data_k, k)
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping) and is_state(found[0]):
        return found
    raise SettingTypeError(
        f"`{method.name}` must give a state, a NamedTuple or dataclass, and a dict of what to record from every round; "
        f"got {type(found).__name__} in round {k}. Return state, {{}}."
    )


def aggregated(method: Method, fleet: Fleet, state: Any, data_k: Each[Shard]) -> Central[Weights]:
    """The aggregated model's weights, as the method gives them.

    Raises:
        TypeError: It gives something else.
    """
    found = method.aggregate(fleet, state, data_k)
    if not isinstance(found, Central):
        raise SettingTypeError(
            f"`aggregate` of {method.name} must give the server's weights; got {type(found).__name__}. Return a mean, "
            "or what lies at the server."
        )
    return found


def check_compatible(experiment: Experiment, task: Task, method: Method) -> None:
    """Raises ValueError if a method does not support the model's batch norm or dropout, or an augmentation."""
    names, tangent = list(batch_norm.layers(task.model)), method.traits.tangent
    if names and not method.traits.averages:
        raise SettingError(
            f"`model` must have no batch norm for {method.name}, which has no server that sums the clients' statistics "
            f"for averaged weights; got it at {names[0]!r}. Use GroupNorm, in the residual networks norm='group', or "
            "freeze torch's by model.eval()."
        )
    if tangent and task.draws:
        name = dropout.place(task.model)
        raise SettingError(
            f"`model` must draw nothing for {method.name}, which trains in the tangent space of one function; got "
            f"dropout in train mode{'' if name is None else f' at {name!r}'}. Call model.eval()."
        )
    if task.augment is not None and tangent:
        raise SettingError(
            f"`augment` must be left out for {method.name}, which trains on no batches; got "
            f"{named(experiment.augment)!r}. Drop it."
        )
