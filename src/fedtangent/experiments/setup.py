"""Setup: everything that an experiment's words stand for, built and checked."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent import batch_norm, catalog, losses, shard, trees
from fedtangent.channels.project import project, projected
from fedtangent.datasets._check import checked
from fedtangent.experiments.experiment import DEFAULT_TOPOLOGY, Experiment, factory
from fedtangent.experiments.options import plain
from fedtangent.fleet import Each, Engine, Fleet, Method
from fedtangent.graph import Graph
from fedtangent.ledger import Ledger
from fedtangent.losses import Loss
from fedtangent.shard import Dataset, Partition, Shard
from fedtangent.task import Augmentation, Task
from fedtangent.values import held


@dataclass(frozen=True, eq=False)
class Setup:
    """An experiment, ready to run.

    Attributes:
        experiment: What was asked for.
        dataset: The data set's name.
        classes: Their number; 0 in a regression.
        data: One shard a node.
        x_test: The test inputs.
        y_test: Their labels or targets.
        task: Model, loss and first weights.
        method: Built from the task.
        engine: Runs the nodes.
    """

    experiment: Experiment
    dataset: str
    classes: int
    data: Sequence[Shard]
    x_test: Tensor
    y_test: Tensor
    task: Task
    method: Method
    engine: Engine

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes' numbers."""
        return tuple(range(len(self.data)))

    def graph(self, round: int) -> Graph | None:
        """The graph of a round; None for a method without neighbours."""
        if not self.method.neighbours:
            return None
        if isinstance(self.experiment.topology, Graph):
            return self.experiment.topology
        draw = factory("topology", self.experiment.topology)
        assert draw is not None
        rng = _rng(self.experiment, "topology", 1 if self.experiment.static else round)
        return draw(len(self.data), rng, **self.experiment.resolved("topology"))  # type: ignore[no-any-return]

    def fleet(self, round: int, ledger: Ledger) -> Fleet:
        """The fleet of a round; before the first one, with the first one's graph."""
        graph = self.graph(max(round, 1))
        return Fleet(
            self.nodes,
            self.engine,
            seed=self.experiment.seed,
            round=round,
            graph=graph,
            gossip_weights=self.experiment.gossip_weights,
            ledger=ledger,
            node_bytes=self._node_bytes(graph),
            method=self.method.name,
            device=self.experiment.device,
        )

    def play(self, fleet: Fleet, state: Any, data_k: Each[Shard], k: int) -> tuple[Any, dict[str, Any]]:
        """State and what the method records after round k, every value computed."""
        state, extra = self.method.round(fleet, state, data_k, k)
        for part in (*held(state), *extra.values()):
            if isinstance(part, Each):
                part.settle()
        return state, extra

    def with_engine(self, engine: Engine) -> "Setup":
        """The same with another engine."""
        return replace(self, engine=engine)

    @property
    def description(self) -> dict[str, Any]:
        """The experiment with everything resolved, as JSON holds it."""
        asked, talks = self.experiment, self.method.neighbours
        return {
            "method": asked.name,
            "options": plain(asked.resolved("method")),
            **_described(asked, "host", asked.hosted),
            "dataset": self.dataset,
            "dataset_options": plain(asked.resolved("dataset")),
            **_described(asked, "augment", asked.augment),
            "model": _name(asked.model),
            "model_options": plain(asked.resolved("model")),
            "loss": self.task.loss.name,
            "project": asked.project,
            "partition": _name(asked.partition),
            "partition_options": plain(asked.resolved("partition")),
            "nodes": len(self.data),
            "topology": _name(asked.topology or DEFAULT_TOPOLOGY) if talks else None,
            "topology_options": plain(asked.resolved("topology")) if talks else {},
            "static": asked.static if talks else None,
            "gossip_weights": asked.gossip_weights if talks else None,
            "rounds": asked.rounds,
            "seed": asked.seed,
            "engine": self.engine.name,
            "memory": asked.memory,
            "device": str(asked.device),
            "dtype": asked.dtype,
            "evaluate_nodes_every": asked.evaluate_nodes_every,
        }

    @cached_property
    def fingerprint(self) -> str:
        """A digest of data and first weights, which no description can hold."""
        digest = hashlib.blake2b(digest_size=16)
        for leaf in trees.leaves([list(self.data), self.x_test, self.y_test, self.task.w_0]):
            digest.update(str((tuple(leaf.shape), leaf.dtype)).encode())
            digest.update(np.ascontiguousarray(leaf.cpu().numpy()).data)
        return digest.hexdigest()

    def _node_bytes(self, graph: Graph | None) -> Mapping[int, int]:
        """The peak memory of each node's work."""
        needs = self.method.node_bytes
        if needs is None:  # a few copies of weights and data
            weights = trees.payload_bytes(self.task.w_0)
            return {i: 8 * weights + 4 * trees.payload_bytes(data) for i, data in enumerate(self.data)}
        return {i: needs(len(data.x), graph.degree(i) if graph else 0) for i, data in enumerate(self.data)}


def setup(experiment: Experiment) -> Setup:
    """The experiment, built and checked.

    Raises:
        ValueError: A setting that cannot be, or that would be ignored.
        TypeError: A part of the wrong kind.
        OSError: A data set that cannot be read or written.
    """
    device, dtype = _device(experiment), getattr(torch, experiment.dtype)
    dataset = _dataset(experiment)
    outputs = dataset.classes or dataset.y_train.shape[1]
    partition = _partition(experiment, dataset)
    dataset, partition = _projected(experiment, dataset, partition)
    model = _model(experiment, tuple(dataset.x_train.shape[1:]), outputs)
    example = dataset.x_train[:2]
    task = Task(model, _loss(experiment, dataset), example, augment=_augment(experiment, example)).to(device, dtype)
    x_test, y_test = trees.to((dataset.x_test, dataset.y_test), device, dtype)
    _check_fit(task, x_test[:2], y_test[:2], dataset.classes)
    method = _method(experiment, task, len(partition.index))
    _check_norms(task, method)
    if task.augment is not None and method.node_bytes is not None:  # in the tangent space
        raise ValueError(
            f"`augment` must be left out for {method.name}, which trains on no batches; got "
            f"{_name(experiment.augment)!r}. Drop it."
        )
    data = [trees.to(part, device, dtype) for part in shard.shards(dataset, partition)]
    name = experiment.engine or _fastest(device, method, task)
    engine = catalog.load("engines", name)(**_budget(experiment, device))
    return Setup(experiment, dataset.name, dataset.classes, data, x_test, y_test, task, method, engine)


def _rng(experiment: Experiment, purpose: str, round: int = 0) -> np.random.Generator:
    return Fleet((), catalog.load("engines", "sequential")(), seed=experiment.seed, round=round).rng(purpose)


def _fastest(device: torch.device, method: Method, task: Task) -> str:
    """The engine's name: on a GPU many nodes at once; on a CPU one by one where a node's own products are large.

    That is so for methods in the tangent space, which state what a node needs, and for convolutions and attention:
    stacked they become grouped convolutions and batched products, which run slower than the same one after the other
    (benchmarks/engines.py, benchmarks/conv_clients.py).
    """
    large = any(isinstance(part, (nn.MultiheadAttention, nn.Embedding)) for part in task.model.modules())
    large = large or any(w.dim() > 2 for w in task.w_0.values()) or method.node_bytes is not None
    return "sequential" if device.type == "cpu" and large else "vectorized"


def _described(experiment: Experiment, part: str, chosen: Any) -> dict[str, Any]:
    """A part that may be left out, and its options, where there is one."""
    if chosen is None:
        return {}
    return {part: _name(chosen), f"{part}_options": plain(experiment.resolved(part))}


def _name(part: Any) -> str:
    """What a part is called: the name of the file, function or class."""
    if isinstance(part, (str, Path)):
        path = Path(part)
        return path.stem if path.suffix == ".py" else path.name
    return str(getattr(part, "__name__", type(part).__name__))


def _budget(experiment: Experiment, device: torch.device) -> dict[str, int]:
    """The budget of a chunk: what was asked for; else a quarter of a GPU, and on a CPU the engine's own."""
    if experiment.memory is not None:
        return {"memory": experiment.memory}
    return {"memory": torch.cuda.get_device_properties(device).total_memory // 4} if device.type == "cuda" else {}


def _device(experiment: Experiment) -> torch.device:
    try:
        device = torch.device(experiment.device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"`device` must be cpu or cuda; got {experiment.device!r}. Choose one of the two.") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be cpu or cuda; got {experiment.device!r}. Choose one of the two.")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count and device.type == "cuda":
        raise ValueError(
            f"`device` must be one that this machine has; got {experiment.device!r} with {count} CUDA devices. "
            "Use cpu, or a number below that."
        )
    return device


def _dataset(experiment: Experiment) -> Dataset:
    function = factory("dataset", experiment.dataset)
    if function is None:
        dataset = experiment.dataset
    else:
        options = experiment.resolved("dataset")
        try:
            signature(function).bind(experiment.data_dir, **options)
        except TypeError as error:
            raise TypeError(
                f"`dataset` must be a function of data_dir alone; got {_name(function)}, which is not ({error}). "
                "Call it from Python and give what it returns."
            ) from error
        dataset = function(experiment.data_dir, **options)
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`dataset` must be a Dataset or give one; got {type(dataset).__name__}. Return a Dataset.")
    return checked(dataset)


def _partition(experiment: Experiment, dataset: Dataset) -> Partition:
    function = factory("partition", experiment.partition)
    rows = len(dataset.x_train)
    if function is None:
        partition, _ = experiment.partition, experiment.size
    else:
        rng, chosen = _rng(experiment, "partition"), experiment.resolved("partition")
        site = signature(function).parameters.get("site")  # a fifth argument of that name is the data set's sites
        sites = (dataset.site_train,) if site and site.kind is site.POSITIONAL_OR_KEYWORD else ()
        partition = function(dataset.x_train, dataset.y_train, experiment.size, rng, *sites, **chosen)
    if not isinstance(partition, Partition):
        raise TypeError(
            f"`partition` must be a Partition or give one; got {type(partition).__name__}. Return a Partition."
        )
    for node, index in enumerate(partition.index):
        array = np.asarray(index)
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise TypeError(
                f"`partition` must list integers for every node; got {array.dtype} for node {node}. Cast it."
            )
        if len(array) and (array.min() < 0 or array.max() >= rows):
            raise ValueError(
                f"`partition` must list rows from 0 to {rows - 1}; got {array.min()} to {array.max()} for node {node}. "
                "Use the data set that it was made for."
            )
    return partition


def _projected(experiment: Experiment, dataset: Dataset, partition: Partition) -> tuple[Dataset, Partition]:
    """Both with the inputs' mixtures in place of the inputs, where the experiment asks for them."""
    if experiment.project is None:
        return dataset, partition
    inputs = int(np.prod(dataset.x_train.shape[1:]))
    matrix = project(inputs, experiment.project, _rng(experiment, "project"))
    train, test = (projected(x, matrix) for x in (dataset.x_train, dataset.x_test))
    shifted = None if partition.x is None else projected(partition.x, matrix)
    return dataset._replace(x_train=train, x_test=test), partition._replace(x=shifted)


def _model(experiment: Experiment, inputs: tuple[int, ...], outputs: int) -> nn.Module:
    function = factory("model", experiment.model)
    if function is None:
        model = experiment.model
    else:
        model = function(inputs, outputs, _rng(experiment, "model"), **experiment.resolved("model"))
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a module or give one; got {type(model).__name__}. Return a torch.nn.Module.")
    return model


def _augment(experiment: Experiment, x: Tensor) -> Augmentation | None:
    """The augmentation, tried on a few rows."""
    function = factory("augment", experiment.augment)
    found = experiment.augment if function is None else function(**experiment.resolved("augment"))
    if found is None:
        return None
    if not isinstance(found, Augmentation):
        raise TypeError(f"`augment` must give an Augmentation; got {type(found).__name__}. Return one.")
    try:
        changed = found.apply(x, found.draw(_rng(experiment, "augment"), len(x)))
    except Exception as error:
        raise ValueError(
            f"`augment` must take inputs of shape (rows, {', '.join(map(str, x.shape[1:]))}); got {_short(error)}. "
            "Leave it out, or choose one for these data."
        ) from error
    if changed.shape != x.shape or changed.dtype != x.dtype:
        raise ValueError(
            f"`augment` must keep the inputs' shape {tuple(x.shape)} and type; got {tuple(changed.shape)} of "
            f"{changed.dtype}. Return such inputs."
        )
    return found


def _loss(experiment: Experiment, dataset: Dataset) -> Loss:
    loss = experiment.loss
    if loss is None:
        return losses.cross_entropy if dataset.classes else losses.squared
    if isinstance(loss, Loss):
        found = loss
    elif isinstance(loss, str):
        if loss not in losses.NAMES:
            names = ", ".join(losses.NAMES)
            raise ValueError(
                f"`loss` must be one of {names}; got {loss!r}. Choose one, or give a function from Python."
            )
        found = losses.NAMES[loss]
    elif callable(loss):
        found = losses.custom(loss)
    else:
        raise TypeError(f"`loss` must be a name or a function; got {type(loss).__name__}. Give one of these.")
    if found is losses.cross_entropy and not dataset.classes:
        raise ValueError("`loss` must suit targets in a regression; got cross_entropy. Use squared or leave it out.")
    return found


def _check_fit(task: Task, x: Tensor, y: Tensor, classes: int) -> None:
    """Raises one clear sentence when the model does not take the inputs, or its outputs do not suit the labels."""
    try:
        f = task.predict(task.w_0, x).detach()
    except Exception as error:
        raise ValueError(
            f"`model` must take inputs of shape (rows, {', '.join(map(str, x.shape[1:]))}); got "
            f"{_short(error)}. Fit its first layer to the data."
        ) from error
    if not isinstance(f, Tensor) or f.ndim != 2 or len(f) != len(x) or (classes and f.shape[1] != classes):
        got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(
            f"`model` must give outputs of shape (rows, {classes or 'outputs'}), {len(x)} rows here; got {got}. "
            "Fit its last layer to the data."
        )
    try:
        each = task.loss.per_sample(f, y)
    except Exception as error:
        raise ValueError(
            f"`loss` must take outputs {tuple(f.shape)} and labels or targets {tuple(y.shape)}; got "
            f"{_short(error)}. Fit the last layer or the loss."
        ) from error
    if each.shape != (len(x),):
        raise ValueError(f"`loss` must give one number a row; got shape {tuple(each.shape)}. Reduce over the outputs.")


def _method(experiment: Experiment, task: Task, nodes: int) -> Method:
    function = factory("method", experiment.method)
    assert function is not None
    host = factory("host", experiment.hosted)
    hosted = {} if host is None else {"host": partial(host, **experiment.resolved("host"))}
    method = function(task, **experiment.resolved("method"), **hosted)
    if not isinstance(method, Method):
        raise TypeError(
            f"`method` must give a Method; got {type(method).__name__}. Return fedtangent.fleet.Method(...)."
        )
    if experiment.rounds < method.cycle:
        raise ValueError(
            f"`rounds` must be at least {method.cycle}, one cycle of {method.name}'s schedule; got "
            f"{experiment.rounds}. Run longer, or shorten the schedule."
        )
    if not method.neighbours:
        given = {
            "topology": experiment.topology is not None,
            "topology_options": bool(experiment.topology_options),
            "static": experiment.static,
            "gossip_weights": experiment.gossip_weights != "uniform",
        }
        for name in (name for name, is_given in given.items() if is_given):
            raise ValueError(
                f"`{name}` must be left out for {method.name}, whose nodes have no neighbours; "
                f"got {plain(getattr(experiment, name))!r}. Drop it."
            )
    elif isinstance(experiment.topology, Graph) and experiment.topology.nodes != nodes:
        raise ValueError(
            f"`topology` must have as many nodes as the experiment, {nodes}; "
            f"got {experiment.topology.nodes}. Change either of them."
        )
    return method


def _check_norms(task: Task, method: Method) -> None:
    """Raises where a model's batch norm would have no statistics."""
    names = list(batch_norm.layers(task.model))
    if names and method.clients is None:
        raise ValueError(
            f"`model` must have no batch norm for {method.name}, which has no server that sums the clients' statistics "
            f"for averaged weights; got it at {names[0]!r}. Use GroupNorm, in the residual networks norm='group'."
        )


def _short(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
