"""Experiment: what a run is to do, in words; from Python a part may be an object of your own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from fedtangent import catalog
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.byzantine import completed
from fedtangent.experiments.chain import chained
from fedtangent.experiments.options import Option, options, resolved, unknown
from fedtangent.experiments.parts import CHAINS, DEFAULT_HOST, DEFAULT_NODES, PARTS, found, is_host, shared
from fedtangent.federation import Attack, Channel, Fault, Graph, Method, Rule
from fedtangent.shard import Dataset, Partition
from fedtangent.training.losses import Loss
from fedtangent.training.steps import Precision, Schedule
from fedtangent.training.task import Augmentation

# How to make such an object of what people have.
_MADE = {
    "dataset": ", or make one by fedtangent.datasets.torch_dataset(train, test)",
    "partition": ", or Partition([rows of node 0, ...])",
    "topology": ", or a Graph, such as fedtangent.federation.Graph.from_networkx(g)",
}
# What a part may be from Python beside a function; then it has no options.
OWN: dict[str, tuple[type, ...]] = {
    "dataset": (Dataset,),
    "augment": (Augmentation,),
    "model": (nn.Module,),
    "partition": (Partition,),
    "topology": (Graph,),
}

DType = Literal["float32", "float64"]
GossipWeights = Literal["uniform", "metropolis"]
EvaluateOn = Literal["own", "all"]
FirstWeights = Literal["same", "distinct"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """What a run is to do.

    Args:
        method: A method's name, a file of your own that ends in .py, or from Python its function.
        options: The method's own options by name.
        host: The method inside; none is fedavg. Only of a method that takes one, such as fedpart.
        host_options: The host's options by name.
        dataset: A data set's name, or from Python a Dataset.
        data_dir: Where the data set lies; for npz, the file itself.
        dataset_options: The data set's options by name.
        augment: What happens at random to the rows of batches: a name such as images, a file of your own, or from
            Python an Augmentation; none leaves them. Of methods that train on batches.
        augment_options: The augmentation's options by name.
        model: A model's name or a file of your own; from Python a module, whose weights are then the first ones, in the
            mode that it is to be trained in.
        model_options: The model's options by name.
        outputs: Which of the model's results are the outputs, such as logits: a name or number, or from Python a
            function of what it returns; none where it returns a tensor.
        first_weights: same on all nodes, or distinct: drawn for each node, of methods between neighbours and local.
        loss: cross_entropy or squared, or from Python a function of outputs and targets; none is cross_entropy for
            classes and squared for targets.
        class_weights: Of the loss of a row, by its label: balanced (rows / (classes x the label's rows), over all
            clients), or a number for every class, such as 10,1,0.1. They are scaled to 1 on average over all clients'
            rows, so that all train for one objective; test losses are not weighted.
        project: Replace the inputs by so many random mixtures of them, before anything else but the partition; the
            clients share the seed of the mixing matrix, and a server is not to know it. None leaves them.
        partition: A partition's name, an index file (.npz or .json), or from Python a Partition.
        partition_options: The partition's options by name.
        nodes: How many; none is 20, or as many as a given Partition, index file or the data set's own sites have.
        topology: A topology's name, for methods with neighbours; none is regular. From Python also a Graph.
        topology_options: The topology's options by name.
        static: Keep the first round's graph instead of drawing one every round.
        gossip_weights: How a neighbourhood is averaged: uniform or metropolis.
        channel: What is done to the method's messages on their way, such as topk,quantize one after the other, or files
            of your own; from Python also functions; none leaves them.
        channel_options: The channels' options by name, and messages, direction and feedback.
        fault: Who is absent and which links fail in a simulated round, such as dropout,links together, or files of
            your own; from Python also functions; none is nobody and none.
        fault_options: The faults' options by name, and quorum.
        attack: What some of the nodes send in place of their messages: a name such as sign_flip, a file of your own, or
            from Python a function; none is that all are honest. Accuracies are then of the honest nodes.
        attack_options: The attack's options by name, and share or who.
        rule: How messages are averaged where some may lie: a name such as trimmed_mean, a file of your own, or from
            Python a function; none is the plain average.
        rule_options: The rule's options by name, and groups.
        lr_schedule: Of the learning rate of local steps over the rounds, of methods that train on batches: constant,
            cosine or step.
        lr_warm_up: Rounds at the beginning in which the learning rate rises evenly.
        lr_rounds: The round in which a cosine ends; none is the last one.
        lr_least: The share of the learning rate at which a cosine ends; none is 0.
        lr_every: Rounds of a step of the schedule; none is 10.
        lr_gamma: What every step of the schedule multiplies the learning rate by; none is 0.1.
        clip: The largest L2 norm of a batch's gradient, before a method adds its own terms; none leaves it.
        local_weight_decay: Times the weights, added to the gradient of every local step, as torch.optim has it.
        amp: The type of the forward pass of local steps, by torch.autocast: bfloat16, or on a GPU float16, with a
            scaled loss; none is that of the weights.
        validation: The share of every client's rows to keep back, on which the model is measured every round.
        early_stop: End after so many rounds in which the loss on the rows kept back was not the least so far, and keep
            the model of the round in which it was; none runs all rounds.
        rounds: How many rounds of communication.
        seed: Of everything that is drawn.
        engine: What runs the nodes: a name; none takes the one that is faster here.
        memory: The budget of a chunk of nodes in bytes; none is a quarter of a GPU's, or the engine's own on a CPU.
        device: cpu, or cuda with or without a number.
        dtype: Of weights and inputs, float32 or float64.
        aggregate_best: The share of the nodes whose models are averaged to the aggregated one: those that are best on
            the rows that all keep back (validation); 1 is all of them.
        metric: What is measured beside accuracy, such as f1,auc, or files of your own; from Python also functions of
            outputs (n, C) and labels (n,) that give a number, higher for better, or None where the rows define none.
        evaluate_on: The test rows of a node's measures: own, split like the training rows unless the partition gives
            them, or all; none is the partition's own where it gives them, else all.
        evaluate_nodes_every: Measure the nodes' own models every so many rounds; 0 is never.
        deterministic: Whether two runs on one machine are to give the same bits on a GPU too. An operation that has no
            such form is an error, and some take longer; TF32 stays as PyTorch has it.
    """

    method: str | Callable[..., Method]
    options: Mapping[str, Any] = field(default_factory=dict)
    host: str | Callable[..., Method] | None = None
    host_options: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | Dataset | Callable[..., Dataset] = "digits"
    data_dir: str | None = None
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    augment: str | Augmentation | Callable[..., Augmentation] | None = None
    augment_options: Mapping[str, Any] = field(default_factory=dict)
    model: str | nn.Module | Callable[..., nn.Module] = "mlp"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    outputs: int | str | Callable[[Any], Any] | None = None
    first_weights: FirstWeights = "same"
    loss: str | Loss | Callable[..., Any] | None = None
    class_weights: Literal["balanced"] | Sequence[float] | None = None
    project: int | None = None
    partition: str | Partition | Callable[..., Partition] = "dirichlet"
    partition_options: Mapping[str, Any] = field(default_factory=dict)
    nodes: int | None = None
    topology: str | Graph | Callable[..., Graph] | None = None
    topology_options: Mapping[str, Any] = field(default_factory=dict)
    static: bool = False
    gossip_weights: GossipWeights = "uniform"
    channel: str | Callable[..., Channel] | Sequence[str | Callable[..., Channel]] | None = None
    channel_options: Mapping[str, Any] = field(default_factory=dict)
    fault: str | Callable[..., Fault] | Sequence[str | Callable[..., Fault]] | None = None
    fault_options: Mapping[str, Any] = field(default_factory=dict)
    attack: str | Callable[..., Attack] | None = None
    attack_options: Mapping[str, Any] = field(default_factory=dict)
    rule: str | Callable[..., Rule] | None = None
    rule_options: Mapping[str, Any] = field(default_factory=dict)
    lr_schedule: Schedule = "constant"
    lr_warm_up: int = 0
    lr_rounds: int | None = None
    lr_least: float | None = None
    lr_every: int | None = None
    lr_gamma: float | None = None
    clip: float | None = None
    local_weight_decay: float = 0.0
    amp: Precision | None = None
    validation: float = 0.0
    early_stop: int | None = None
    rounds: int = 30
    seed: int = 0
    engine: str | None = None
    memory: int | None = None
    device: str = "cpu"
    dtype: DType = "float32"
    aggregate_best: float = 1.0
    metric: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | None = None
    evaluate_on: EvaluateOn | None = None
    evaluate_nodes_every: int = 1
    deterministic: bool = False

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is loaded."""
        least_of = {"rounds": 1, "seed": 0, "nodes": 1, "project": 1, "memory": 0, "evaluate_nodes_every": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is None and name in ("nodes", "project", "memory"):
                continue
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise SettingTypeError(f"`{name}` must be an integer; got {value!r}. Give a whole number.")
            count = int(value)  # of numpy's integers, too
            if not least <= count < 2**63:
                bound = f"at least {least}" if count < least else "below 2**63"
                raise SettingError(f"`{name}` must be {bound}; got {count}. Give such a whole number.")
            object.__setattr__(self, name, count)
        kinds = {"dtype": DType, "gossip_weights": GossipWeights, "first_weights": FirstWeights}
        kinds |= {} if self.evaluate_on is None else {"evaluate_on": EvaluateOn}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                raise SettingError(
                    f"`{name}` must be one of {', '.join(get_args(kind))}; got {getattr(self, name)!r}. Choose one."
                )
        for name in ("static", "deterministic"):
            if not isinstance(getattr(self, name), bool):
                raise SettingTypeError(
                    f"`{name}` must be true or false; got {getattr(self, name)!r}. Give one of both."
                )
        for part in PARTS:
            self.resolved(part)
        if self.engine is not None and not isinstance(self.engine, str):
            raise SettingTypeError(f"`engine` must be a name; got {type(self.engine).__name__}. Give one.")
        if self.engine is not None:
            catalog.load("engines", self.engine)
        if self.data_dir is not None and not isinstance(self.data_dir, (str, PathLike)):
            raise SettingTypeError(
                f"`data_dir` must be a path; got {type(self.data_dir).__name__}. Name the folder or file."
            )
        if self.data_dir is not None and isinstance(self.dataset, Dataset):
            raise SettingError(
                f"`data_dir` must be left out when a Dataset is given; got {str(self.data_dir)!r}. Drop it."
            )

    @property
    def name(self) -> str:
        """The method's name."""
        return Path(self.method).stem if isinstance(self.method, (str, Path)) else _name(self.method)

    @property
    def hosted(self) -> str | Callable[..., Method] | None:
        """The host; None for a method that takes none."""
        found: str | Callable[..., Method] | None = _hosted(self.method, self.host)
        return found

    @property
    def size(self) -> int | None:
        """The number of nodes; None where the partition decides, such as an index file."""
        if isinstance(self.partition, Partition):
            check_nodes(self.partition)
            held = len(self.partition.index)
            if self.nodes not in (None, held):
                raise SettingError(f"`nodes` must be the partition's, {held}; got {self.nodes}. Drop it.")
            return held
        return DEFAULT_NODES if self.nodes is None and not _decides(self.partition) else self.nodes

    def resolved(self, part: str) -> dict[str, Any]:
        """The options of a part, the defaults of those not given included.

        Raises:
            ValueError: An option that the part does not have.
        """
        options_field = PARTS[part].options
        given = getattr(self, options_field)
        function = factory(part, self.hosted if part == "host" else getattr(self, part))
        if part == "host" and function is None and given:
            raise SettingError(
                f"`host_options` must be left out for {self.name}, which takes no host; got {', '.join(given)}. "
                "Drop them."
            )
        if function is None and given:
            why = f"when the {part} is an object of your own" if getattr(self, part) is not None else f"without {part}"
            raise SettingError(f"`{options_field}` must be left out {why}; got {', '.join(given)}. Drop them.")
        if function is None:
            return {}
        found = resolved(f"{part} {_name(function)}", function, given)
        if part == "method" and takes_host(function):
            found.pop("host")  # a part of its own
        return found


def experiment(method: str | Callable[..., Method], **settings: Any) -> Experiment:
    """An experiment from one flat list of settings: its own, and the options of the parts that it chooses.

    An option is found by its name where only one of the chosen parts has it; `part.name`, such as `method.lr`, always
    finds it. A name of the experiment's own, such as `seed`, comes first.

    Args:
        method: As of an Experiment.
        settings: By name.

    Raises:
        ValueError: A name that nothing has, or that several parts have; or a value that cannot be.
        TypeError: A value of the wrong type.
    """
    own = {name: value for name, value in settings.items() if name in options(Experiment)}
    parts: dict[str, dict[str, Any]] = {part: dict(own.get(kind.options, {})) for part, kind in PARTS.items()}
    known = choices(method, **{part: own[part] for part in PARTS if part in own})
    for name, value in settings.items():
        if name in own:
            continue
        if name not in known:
            raise SettingError(
                unknown(name, {**options(Experiment), **known}, "a setting or an option of a chosen part")
            )
        if len(known[name]) > 1:
            raise SettingError(shared(name, known[name]))
        part, option = known[name][0]
        parts[part][option.name] = value
    return Experiment(method=method, **{**own, **{PARTS[part].options: given for part, given in parts.items()}})


def choices(method: str | Callable[..., Method], **chosen: Any) -> dict[str, list[tuple[str, Option]]]:
    """The options of the chosen parts by `name` and by `part.name`, and whose each is."""

    def options_of(part: str, value: Any) -> dict[str, Option]:
        function = factory(part, _hosted(method, value) if part == "host" else value)
        return options(function) if function else {}

    return found(options_of, options(Experiment), {**chosen, "method": method})


def factory(part: str, value: Any) -> Callable[..., Any] | None:
    """The function that a part's name, file or function stands for; None for an object of the user's own.

    Raises:
        ValueError: An unknown name.
        TypeError: Neither a name nor anything that the part can be.
    """
    kind = PARTS.get(part)
    if kind is not None and value is None:
        value = kind.default
        if value is None and not kind.required:
            return None
    if part in CHAINS:
        return chained(value, part)
    if isinstance(value, Path):
        value = str(value)
    if part in ("attack", "rule") and (isinstance(value, str) or callable(value)):
        assert kind is not None
        return completed(part, catalog.load(kind.folder, value, part) if isinstance(value, str) else value)
    if kind is not None and isinstance(value, OWN.get(part, ())):
        return None
    if part == "partition" and _is_index_file(value) and value != "index_file":
        return _index_file(value)
    if isinstance(value, str):
        return catalog.load(f"{part}s" if kind is None else kind.folder, value, part)
    if not callable(value):
        raise SettingTypeError(
            f"`{part}` must be a name or an object of its kind; got {type(value).__name__}. Give a name"
            f"{_MADE.get(part, '')}."
        )
    return value  # type: ignore[no-any-return]


def check_nodes(partition: Partition) -> None:
    """Raises ValueError where a partition lists the rows of no node."""
    if not isinstance(partition.index, (Sequence, np.ndarray)) or not len(partition.index):
        raise SettingError(
            f"`partition` must list the rows of at least one node; got {partition.index!r}. Return "
            "Partition([rows of node 0, ...])."
        )


def takes_host(method: Any) -> bool:
    """Whether a method is run around another: its factory has an option `host`, still to be chosen."""
    function = factory("method", method)
    return is_host(options(function).get("host")) if function else False


def _hosted(method: Any, host: Any) -> Any:
    """The host of a method, None where it takes none.

    Raises:
        ValueError: A host for such a method.
    """
    if takes_host(method):
        return DEFAULT_HOST if host is None else host
    if host is not None:
        raise SettingError(
            f"`host` must be left out for {_name(factory('method', method))}, which takes none; got "
            f"{str(host) if isinstance(host, (str, Path)) else _name(host)!r}. Drop it."
        )
    return None


def _decides(partition: Any) -> bool:
    """Whether a partition knows how many nodes there are: its `nodes` may be None."""
    function = factory("partition", partition)
    nodes = signature(function).parameters.get("nodes") if function else None
    return nodes is not None and type(None) in get_args(nodes.annotation)


def _is_index_file(partition: Any) -> bool:
    return partition == "index_file" or (
        isinstance(partition, (str, Path)) and Path(partition).suffix in (".npz", ".json")
    )


def _index_file(path: str) -> Callable[..., Partition]:
    """The partition that an index file lists, with nothing left to choose."""
    read = catalog.load("partitions", "index_file")

    def index_file(x: Any, y: Any, nodes: int | None, rng: Any) -> Partition:
        return read(x, y, nodes, rng, path=path)  # type: ignore[no-any-return]

    return index_file


def _name(function: Any) -> str:
    """The name of a function; of the one inside a partial."""
    return _name(function.func) if isinstance(function, partial) else str(getattr(function, "__name__", "custom"))
