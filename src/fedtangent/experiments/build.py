"""Build: the parts of an experiment from their names, each checked; what cannot be is one sentence."""

from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent import batch_norm, catalog, losses
from fedtangent.calls import out_of_memory
from fedtangent.channels.project import project, projected
from fedtangent.datasets._check import checked
from fedtangent.experiments.experiment import Experiment, factory
from fedtangent.experiments.options import plain
from fedtangent.fleet import Fleet, Method
from fedtangent.graph import Graph
from fedtangent.losses import Loss
from fedtangent.shard import Dataset, Partition
from fedtangent.task import Augmentation, Task


def generator(experiment: Experiment, purpose: str, round: int = 0) -> np.random.Generator:
    """Of what is drawn for an experiment before its rounds, or for one."""
    return Fleet((), catalog.load("engines", "sequential")(), seed=experiment.seed, round=round).rng(purpose)


def named(part: Any) -> str:
    """What a part is called: the name of the file, function or class."""
    if isinstance(part, (str, Path)):
        path = Path(part)
        return path.stem if path.suffix == ".py" else path.name
    return str(getattr(part, "__name__", type(part).__name__))


def built_device(experiment: Experiment) -> torch.device:
    """The device, which this machine has."""
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


def built_dataset(experiment: Experiment) -> Dataset:
    """The data set, read and checked."""
    function = factory("dataset", experiment.dataset)
    if function is None:
        dataset = experiment.dataset
    else:
        options = experiment.resolved("dataset")
        try:
            signature(function).bind(experiment.data_dir, **options)
        except TypeError as error:
            raise TypeError(
                f"`dataset` must be a function of data_dir alone; got {named(function)}, which is not ({error}). "
                "Call it from Python and give what it returns."
            ) from error
        dataset = function(experiment.data_dir, **options)
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`dataset` must be a Dataset or give one; got {type(dataset).__name__}. Return a Dataset.")
    return checked(dataset)


def built_partition(experiment: Experiment, dataset: Dataset) -> Partition:
    """The partition, whose rows the data set has."""
    function = factory("partition", experiment.partition)
    rows = len(dataset.x_train)
    if function is None:
        partition, _ = experiment.partition, experiment.size
    else:
        rng, chosen = generator(experiment, "partition"), experiment.resolved("partition")
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


def mixed(experiment: Experiment, dataset: Dataset, partition: Partition) -> tuple[Dataset, Partition]:
    """Both with the inputs' mixtures in place of the inputs, where the experiment asks for them."""
    if experiment.project is None:
        return dataset, partition
    inputs = int(np.prod(dataset.x_train.shape[1:]))
    matrix = project(inputs, experiment.project, generator(experiment, "project"))
    train, test = (projected(x, matrix) for x in (dataset.x_train, dataset.x_test))
    shifted = None if partition.x is None else projected(partition.x, matrix)
    return dataset._replace(x_train=train, x_test=test), partition._replace(x=shifted)


def built_model(experiment: Experiment, inputs: tuple[int, ...], outputs: int) -> nn.Module:
    """The model."""
    function = factory("model", experiment.model)
    if function is None:
        model = experiment.model
    else:
        try:
            model = function(inputs, outputs, generator(experiment, "model"), **experiment.resolved("model"))
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise ValueError(f"`model` must fit into memory; got {_short(error)}. Choose a smaller one.") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a module or give one; got {type(model).__name__}. Return a torch.nn.Module.")
    return model


def built_augmentation(experiment: Experiment, x: Tensor) -> Augmentation | None:
    """The augmentation, tried on a few rows."""
    function = factory("augment", experiment.augment)
    found = experiment.augment if function is None else function(**experiment.resolved("augment"))
    if found is None:
        return None
    if not isinstance(found, Augmentation):
        raise TypeError(f"`augment` must give an Augmentation; got {type(found).__name__}. Return one.")
    try:
        changed = found.apply(x, found.draw(generator(experiment, "augment"), len(x)))
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


def built_loss(experiment: Experiment, dataset: Dataset) -> Loss:
    """The loss, or the usual one of labels or of targets."""
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


def check_fit(task: Task, x: Tensor, y: Tensor, classes: int) -> None:
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


def built_method(experiment: Experiment, task: Task, nodes: int) -> Method:
    """The method on a task, around its host; rounds and topology suit it."""
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
            **({} if experiment.topology is None else {"topology": experiment.topology}),
            **experiment.topology_options,
            **({"static": True} if experiment.static else {}),
            **({} if experiment.gossip_weights == "uniform" else {"gossip_weights": experiment.gossip_weights}),
        }
        for name, value in given.items():
            raise ValueError(
                f"`{name}` must be left out for {method.name}, whose nodes have no neighbours; "
                f"got {plain(value)!r}. Drop it."
            )
    elif isinstance(experiment.topology, Graph) and experiment.topology.nodes != nodes:
        raise ValueError(
            f"`topology` must have as many nodes as the experiment, {nodes}; "
            f"got {experiment.topology.nodes}. Change either of them."
        )
    return method


def check_borne(experiment: Experiment, task: Task, method: Method) -> None:
    """Raises where a method cannot bear the model's batch norm, or would not use the augmentation."""
    names = list(batch_norm.layers(task.model))
    if names and method.clients is None:
        raise ValueError(
            f"`model` must have no batch norm for {method.name}, which has no server that sums the clients' statistics "
            f"for averaged weights; got it at {names[0]!r}. Use GroupNorm, in the residual networks norm='group'."
        )
    if task.augment is not None and method.node_bytes is not None:  # in the tangent space
        raise ValueError(
            f"`augment` must be left out for {method.name}, which trains on no batches; got "
            f"{named(experiment.augment)!r}. Drop it."
        )


def _short(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
