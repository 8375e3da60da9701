"""Build: the parts of an experiment from their names, each checked; what cannot be is one sentence."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedtangent import forward, trees
from fedtangent.datasets import _check
from fedtangent.datasets._check import checked
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.deterministic import prepare
from fedtangent.experiments.experiment import Experiment, check_nodes, factory
from fedtangent.experiments.first_weights import drawn, seeded
from fedtangent.experiments.options import plain
from fedtangent.federation import Coding, Method, Presence, coding
from fedtangent.federation import generator as keyed
from fedtangent.memory import out_of_memory
from fedtangent.module_state import copied
from fedtangent.own import called
from fedtangent.project import project, projected
from fedtangent.shard import Dataset, Partition, count
from fedtangent.training import losses
from fedtangent.training.losses import Loss
from fedtangent.training.task import Augmentation


def generator(experiment: Experiment, purpose: str, round: int = 0) -> np.random.Generator:
    """Of what is drawn for an experiment before its rounds, or for one."""
    return keyed(experiment.seed, round, purpose)


def named(part: Any) -> str:
    """What a part is called: the name of the file, function or class."""
    if isinstance(part, (str, Path)):
        path = Path(part)
        return path.stem if path.suffix == ".py" else path.name
    part = getattr(part, "_orig_mod", part)  # a compiled module is called what it was made of
    return str(getattr(part, "__name__", type(part).__name__))


def built_device(experiment: Experiment) -> torch.device:
    """The device, which this machine has."""
    try:
        device = torch.device(experiment.device)
    except (RuntimeError, TypeError) as error:
        raise SettingError(
            f"`device` must be cpu or cuda; got {experiment.device!r}. Choose one of the two."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"`device` must be cpu or cuda; got {experiment.device!r}. Choose one of the two.")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count and device.type == "cuda":
        raise SettingError(
            f"`device` must be one that this machine has; got {experiment.device!r} with {count} CUDA devices. "
            "Use cpu, or a number below that."
        )
    if experiment.deterministic:
        prepare(device)
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
            raise SettingTypeError(
                f"`dataset` must be a function of data_dir alone; got {named(function)}, which is not ({error}). "
                "Call it from Python and give what it returns."
            ) from error
        dataset = drawn(generator(experiment, "dataset"), function, experiment.data_dir, **options)
    if not isinstance(dataset, Dataset):
        raise SettingTypeError(
            f"`dataset` must be a Dataset or give one; got {type(dataset).__name__}. Return a Dataset."
        )
    return checked(dataset)


def built_partition(experiment: Experiment, dataset: Dataset) -> Partition:
    """The partition, whose rows the data set has."""
    function = factory("partition", experiment.partition)
    rows = len(dataset.y_train)
    if function is None:
        partition, _ = experiment.partition, experiment.size
    else:
        rng, chosen = generator(experiment, "partition"), experiment.resolved("partition")
        site = signature(function).parameters.get("site")  # a fifth argument of that name is the data set's sites
        # of inputs that are several tensors a partition is given the rows' numbers
        x = dataset.x_train if isinstance(dataset.x_train, Tensor) else torch.arange(rows)
        parts: list[Tensor | None] = [x, dataset.y_train]
        if site and site.kind is site.POSITIONAL_OR_KEYWORD:
            parts.append(dataset.site_train)
        if not str(function.__module__).startswith("fedtangent.partitions."):  # one's own may write on what it is given
            parts = [part if part is None else part.clone() for part in parts]
        arguments = "x, y, nodes, rng" + ", site" * (len(parts) - 2)
        given = (*parts[:2], experiment.size, rng, *parts[2:])
        partition = drawn(rng, called, "partition", function, arguments, *given, **chosen)
    if not isinstance(partition, Partition):
        raise SettingTypeError(
            f"`partition` must be a Partition or give one; got {type(partition).__name__}. Return a Partition."
        )
    check_nodes(partition)
    _check_index("index", partition.index, rows)
    if partition.x is not None:
        partition = partition._replace(x=_shifted(partition.x, dataset.x_train))
    if partition.test_index is not None:
        if len(partition.test_index) != len(partition.index):
            raise SettingError(
                f"`test_index` must have as many nodes as `index`, {len(partition.index)}; got "
                f"{len(partition.test_index)}. Give every node some test rows."
            )
        _check_index("test_index", partition.test_index, len(dataset.y_test))
    return partition


def _check_index(what: str, indices: Sequence[Any], rows: int) -> None:
    """Raises where a node's rows are no integers, or not those of the data set; all nodes must have test rows."""
    told = "partition" if what == "index" else what
    for node, index in enumerate(indices):
        array = np.asarray(index)
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise SettingTypeError(
                f"`{told}` must list integers for every node; got {array.dtype} for node {node}. Cast it."
            )
        if what != "index" and not len(array):
            raise SettingError(
                f"`{told}` must give every node at least one row; got none for node {node}. Leave it out to measure "
                "all nodes on all test rows."
            )
        if len(array) and (array.min() < 0 or array.max() >= rows):
            raise SettingError(
                f"`{told}` must list rows from 0 to {rows - 1}; got {array.min()} to {array.max()} for node {node}. "
                "Use the data set that it was made for."
            )


def _shifted(x: Any, x_train: Any) -> Any:
    """A partition's own inputs, in the data set's types; they must have its shape."""
    x, kept = _check.inputs("partition.x", x), shape(x_train)
    if (count(x), shape(x)) != (count(x_train), kept):
        raise SettingError(
            f"`partition.x` must have the {count(x_train)} rows and the shape of `x_train`, {kept}; got {count(x)} of "
            f"shape {shape(x)}. Change the inputs of all rows, in their order."
        )
    return x


def mixed(experiment: Experiment, dataset: Dataset, partition: Partition) -> tuple[Dataset, Partition]:
    """Both with the inputs' mixtures in place of the inputs, where the experiment asks for them."""
    if experiment.project is None:
        return dataset, partition
    if not isinstance(dataset.x_train, Tensor):
        raise SettingError(
            f"`project` must be left out for inputs that are several tensors; got {experiment.project}. Drop it."
        )
    inputs = int(np.prod(dataset.x_train.shape[1:]))
    matrix = project(inputs, experiment.project, generator(experiment, "project"))
    train, test = (projected(x, matrix) for x in (dataset.x_train, dataset.x_test))
    shifted = None if partition.x is None else projected(partition.x, matrix)
    return dataset._replace(x_train=train, x_test=test), partition._replace(x=shifted)


def built_model(experiment: Experiment, inputs: Any, outputs: int) -> nn.Module:
    """The model, for inputs of this shape, or of these where they are several tensors."""
    function = factory("model", experiment.model)
    if _is_ours(experiment.model) and not _is_shape(inputs):
        raise SettingError(
            f"`model` must be one of your own for inputs that are several tensors; got {experiment.model!r}. Give a "
            "module that takes them."
        )
    if function is None:
        model = experiment.model
    else:
        try:
            signature(function).bind(inputs, outputs, None, **experiment.resolved("model"))
        except TypeError as error:
            raise SettingError(
                f"`model` must take the shape of a row, the number of outputs and a generator; got {experiment.model}, "
                f"with {error}. Write def name(inputs, outputs, rng)."
            ) from error
        try:
            rng = generator(experiment, "model")
            model = drawn(rng, function, inputs, outputs, rng, **experiment.resolved("model"))
        except Exception as error:
            if isinstance(function, type):
                raise SettingTypeError(
                    f"`model` must be a module, or take a row's shape, outputs and a generator; got the class "
                    f"{function.__name__}, with {short(error)}. Give {function.__name__}(...)."
                ) from error
            if not out_of_memory(error):
                raise
            raise SettingError(f"`model` must fit into memory; got {short(error)}. Choose a smaller one.") from error
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which torch.func does not go through
    if isinstance(model, torch.jit.ScriptModule):
        raise SettingTypeError(
            f"`model` must be a module of Python code; got a {type(model).__name__}. Give the one that it was made of."
        )
    if not isinstance(model, nn.Module):
        raise SettingTypeError(
            f"`model` must be a module or give one; got {type(model).__name__}. Return a torch.nn.Module."
        )
    return model


def _is_shape(inputs: Any) -> bool:
    return isinstance(inputs, tuple) and all(isinstance(size, int) for size in inputs)


def _is_ours(model: Any) -> bool:
    return isinstance(model, str) and not model.endswith(".py")


def built_augmentation(experiment: Experiment, x: Any) -> Augmentation | None:
    """The augmentation, tried on a few rows."""
    function = factory("augment", experiment.augment)
    if function is None and experiment.augment is None:
        return None
    options = experiment.resolved("augment")
    found = experiment.augment if function is None else called("augment", function, "", **options)
    if not isinstance(found, Augmentation):
        raise SettingTypeError(f"`augment` must give an Augmentation; got {type(found).__name__}. Return one.")
    try:
        drawn = found.draw(generator(experiment, "augment"), count(x))
        changed = found.apply(x, drawn)
    except Exception as error:
        raise SettingError(
            f"`augment` must take inputs of shape {shape(x)}; got {short(error)}. "
            "Leave it out, or choose one for these data."
        ) from error
    if strange := [leaf for leaf in trees.leaves(drawn) if not isinstance(leaf, Tensor)]:
        raise SettingTypeError(f"`augment` must draw tensors; got {type(strange[0]).__name__}. Draw a tensor a row.")
    kept, got = (trees.map(lambda leaf: (tuple(leaf.shape), leaf.dtype), part) for part in (x, changed))
    if got != kept:
        raise SettingError(f"`augment` must keep the inputs' shape and type, {kept}; got {got}. Return such inputs.")
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
            raise SettingError(
                f"`loss` must be one of {names}; got {loss!r}. Choose one, or give a function from Python."
            )
        found = losses.NAMES[loss]
    elif callable(loss):
        found = losses.custom(loss)
    else:
        raise SettingTypeError(f"`loss` must be a name or a function; got {type(loss).__name__}. Give one of these.")
    if found is losses.cross_entropy and not dataset.classes:
        raise SettingError("`loss` must suit targets in a regression; got cross_entropy. Use squared or leave it out.")
    return found


def built_weights(experiment: Experiment, dataset: Dataset, partition: Partition) -> tuple[float, ...] | None:
    """A weight for every class, 1 on average over the clients' rows; None where none are asked for."""
    asked, classes = experiment.class_weights, dataset.classes
    if asked is None:
        return None
    if not classes:
        raise SettingError(f"`class_weights` must be left out in a regression; got {plain(asked)}. Drop it.")
    labels = dataset.y_train.numpy()
    rows = np.zeros(classes)
    for index in partition.index:
        rows += np.bincount(labels[np.asarray(index, dtype=np.int64)], minlength=classes)
    if isinstance(asked, str) and asked == "balanced":
        given = rows.sum() / (np.count_nonzero(rows) * np.maximum(rows, 1))
        return tuple(np.where(rows > 0, given, 1.0).tolist())
    try:
        given = np.asarray(asked, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.zeros(0)
    if given.shape != (classes,) or not np.isfinite(given).all() or given.min() < 0 or not given @ rows > 0:
        raise SettingError(
            f"`class_weights` must be 'balanced' or {classes} numbers, one a class and none negative; got "
            f"{plain(asked)!r}. Give such weights."
        )
    return tuple((given * rows.sum() / (given @ rows)).tolist())


def shape(x: Any) -> str:
    """The shape of inputs, (rows, ...), by name where there are several."""
    if isinstance(x, Tensor):
        return f"(rows, {', '.join(map(str, x.shape[1:]))})"
    parts = x.items() if isinstance(x, dict) else enumerate(x)
    return ", ".join(f"{name}: {shape(part)}" for name, part in parts)


def built_coding(experiment: Experiment) -> Coding | None:
    """What the channels make of messages, with nothing remembered; None without channels."""
    function = factory("channel", experiment.channel)
    return None if function is None else function(**experiment.resolved("channel"))


def check_channel(experiment: Experiment, method: Method) -> None:
    """Raises ValueError if the channels are wrong, or the method's messages do not support them."""
    if (made := built_coding(experiment)) is not None:
        coding.check(made, method.name, method.messages)


def built_presence(experiment: Experiment, method: Method) -> Presence | None:
    """Who is there in every round; None without faults.

    Raises:
        ValueError: A method that needs all nodes, or a fault's option that cannot be.
    """
    function = factory("fault", experiment.fault)
    if function is None:
        return None
    if method.traits.needs_all:
        raise SettingError(
            f"`fault` must be left out for {method.name}, which {method.traits.needs_all}; got {named(function)!r}. "
            "Drop it."
        )
    found: Presence = function(**experiment.resolved("fault"))
    return found


def initialised(experiment: Experiment, model: nn.Module, x: Any) -> nn.Module:
    """The model; a copy of it, passed a few rows, where it has lazy layers, whose weights the seed then decides."""
    if not any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        return model
    model = copied(model)
    modes = {part: part.training for part in model.modules()}
    with seeded(experiment.seed), torch.no_grad():
        try:
            forward.run(model.eval(), {}, x)
        except Exception as error:
            raise SettingError(
                f"`model` must take inputs of shape {shape(x)}; got {short(error)}. Fit its layers to the data."
            ) from error
    for part, mode in modes.items():
        part.training = mode
    return model


def short(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    return shorten(": ".join([type(error).__name__, *str(error).splitlines()[:1]]).rstrip("."), 200, placeholder=" ...")
