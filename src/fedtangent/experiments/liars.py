"""Liars: who lies in an experiment, by which rule the others average, and whether the two go together."""

from collections.abc import Callable, Iterable

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.build import generator, named
from fedtangent.experiments.experiment import Experiment, factory
from fedtangent.experiments.options import plain
from fedtangent.federation import Fleet, Graph, Liars, Lying, Method, Rule
from fedtangent.shard import Shard


def built_liars(experiment: Experiment, method: Method, nodes: int) -> Liars | None:
    """Who lies, and how; None without an attack.

    Raises:
        ValueError: An attack without its target, or liars that are not nodes, or all of them.
    """
    function = factory("attack", experiment.attack)
    if function is None:
        return None
    lying: Lying = function(**experiment.resolved("attack"))
    name = named(function)
    if method.exposure == "none":
        raise SettingError(
            f"`attack` must be left out for {method.name}, whose nodes send nothing; got {name}. Drop it."
        )
    if lying.attack.between and not method.traits.neighbours:
        raise SettingError(
            f"`attack` must be one that needs no neighbours for {method.name}, which has a server; got {name}. "
            "Choose another."
        )
    drawn = generator(experiment, "liars").permutation(nodes)[: max(int(lying.share * nodes + 1e-9), 1)]
    who = sorted(int(node) for node in (drawn if lying.who is None else lying.who))
    if not who or len({*who}) < len(who) or who[0] < 0 or who[-1] >= nodes or len(who) == nodes:
        raise SettingError(
            f"`who` must name some of the nodes from 0 to {nodes - 1}, each once and not all; got {plain(who)}. "
            "Choose among them."
        )
    return Liars(lying.attack, frozenset(who), experiment.seed)


def told(changed: Callable[[Shard, int], Shard], own: Shard, classes: int) -> Shard:
    """The rows that a liar trains on in place of its own.

    Raises:
        TypeError: An attack that gives no Shard.
    """
    found = changed(own, classes)
    if not isinstance(found, Shard):
        raise SettingTypeError(
            f"`data` of an attack must give a Shard; got {type(found).__name__}. Return shard._replace(y=...)."
        )
    return found


def built_rule(
    experiment: Experiment, method: Method, fleet: Fleet, graphs: Iterable[Graph], liars: Liars | None
) -> Rule | None:
    """The rule; None without one.

    Args:
        experiment: What is asked for.
        method: Built from it.
        fleet: Of the first round.
        graphs: Those of all rounds, none where there is a server.
        liars: Who lies, where there is an attack.

    Raises:
        ValueError: A rule that meets nothing it could average, or that tolerates fewer liars than there are; or a
            neighbourhood that is too small for it.
    """
    function = factory("rule", experiment.rule)
    if function is None:
        return None
    rule: Rule = function(**experiment.resolved("rule"))
    name = named(function)
    if method.traits.unaveraged:
        raise SettingError(
            f"`rule` must be left out for {method.name}, which averages no messages; got {name}. Drop it."
        )
    talks = method.traits.neighbours
    if not talks and rule.centred:
        raise SettingError(
            f"`rule` must be one without a centre of its own for {method.name}, which has a server; got {name}. Choose "
            "another."
        )
    if rule.groups > 1 and talks:
        raise SettingError(f"`groups` must be 1 for {method.name}, which has no server; got {rule.groups}. Drop it.")
    if experiment.resolved("method").get("guard"):
        raise SettingError(
            f"`guard` must be off under a rule, which sees parts of the sums that it speaks for; got {name}. Take one "
            "of them off."
        )
    clients = [len(method.clients(fleet).nodes) // rule.groups]
    sizes = [1 + min(map(len, graph.neighbours)) for graph in graphs] if talks else clients
    f = 0 if rule.liars is None else rule.liars
    if min(sizes) < rule.least(f):
        where = "neighbourhood, the node itself included" if talks else "round"
        raise SettingError(
            f"`rule` must have at least {rule.least(f)} messages for {f} liars; got {min(sizes)} in a {where}. Tell it "
            f"fewer liars, or raise {'the degree' if talks else 'participation or nodes'}."
        )
    share = 0.0 if liars is None else len(liars.nodes) / len(fleet.nodes)
    most = rule.liars if rule.liars is not None else (max(sizes) - 1) // 2
    among = (max(sizes) - 1) if talks else clients[0] * rule.groups
    if share * among > most:
        raise SettingError(
            f"`rule` must tolerate the liars there are, about {share * among:.3g} of {among} senders; got {name} for "
            f"{most}. Tell it more liars, or choose another rule."
        )
    return rule
