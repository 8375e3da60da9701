"""Engine: what runs the nodes, the one asked for or the faster one of those that can run the model."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent import catalog, trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.build import short
from fedtangent.experiments.experiment import Experiment
from fedtangent.federation import Engine, Method
from fedtangent.own import called
from fedtangent.shard import Shard, at
from fedtangent.tangent_steps.step import linearised_rows, score
from fedtangent.training import solvers
from fedtangent.training.task import Task, Weights

LARGE = 2**21  # bytes of a node's work in the tangent space from which its products take longer than calling them
MANY = 32  # nodes from which calling small products for all at once pays
ROWS = (3, 2)  # of the two nodes that are tried: unequal, so that one is padded
_SLOW = "There is a performance drop"  # torch.func.vmap's words for a function that it takes node by node


def built_engine(
    experiment: Experiment,
    device: torch.device,
    task: Task,
    method: Method,
    data: Sequence[Shard],
    needs: Callable[[], float],
) -> tuple[Engine, str | None]:
    """The engine, and why it is not the usual one where it is not.

    Args:
        experiment: What is asked for.
        device: Where it runs.
        task: Model and loss.
        method: The method.
        data: A shard a node.
        needs: The mean memory of a node's work, in bytes; called where the choice hangs on it.

    Raises:
        ValueError: The one asked for cannot run the model, or torch.func cannot differentiate it.
    """
    name = experiment.engine or _faster(device, method, task, len(data), needs)
    many, local = name == "vectorized" and len(data) > 1, not method.traits.tangent
    fn, rows = _trial(task, local, data if many else data[:1])
    alone = _alone(fn, rows, local) if many or local else None
    reason = None
    if many and alone is not None:
        fault = _fault(fn, rows, alone, task.w_0)
        if fault is not None and experiment.engine is None:
            name, reason = "sequential", f"vectorized cannot run this model on many nodes at once: {fault}"
        elif fault is not None and _SLOW not in fault:
            raise SettingError(
                f"`engine` must be able to run the model on many nodes at once; got {name}: {fault}. Use sequential, "
                "or leave it out."
            )
    engine: Engine = called("engine", catalog.load("engines", name), "", **_budget(experiment, device))
    if not all(hasattr(engine, part) for part in ("name", "one_by_one", "chunks", "call")):
        raise SettingTypeError(
            f"`engine` must give an Engine; got {type(engine).__name__}. Return an object with name, one_by_one, "
            "chunks and call."
        )
    return engine, reason


def _faster(device: torch.device, method: Method, task: Task, nodes: int, needs: Callable[[], float]) -> str:
    """The engine's name: on a GPU many nodes at once; on a CPU one by one where a node's own products are large.

    That is so for convolutions and attention: stacked they become grouped convolutions and batched products, which run
    slower than the same one after the other (benchmarks/engines.py, benchmarks/conv_clients.py). In the tangent space a
    node's kernels and factors are large, or they are so small that all its time goes into calling them, and then some
    dozens of nodes at once win (benchmarks/many_nodes.py).
    """
    large = any(isinstance(part, (nn.MultiheadAttention, nn.Embedding)) for part in task.model.modules())
    large = large or any(w.dim() > 2 for w in task.w_0.values())
    if device.type == "cpu" and not large and method.traits.tangent:
        large = nodes < MANY or needs() > LARGE
    return "sequential" if device.type == "cpu" and large else "vectorized"


def _trial(task: Task, local: bool, data: Sequence[Shard]) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """A function like those that nodes run, in local training or in the tangent space, and a few rows of two nodes."""
    few = [Shard(*(at(part, slice(0, rows)) for part in own)) for own, rows in zip(data, ROWS, strict=False)]
    return partial(_gradient if local else _linearized, task), [(task.w_0, own, _batches(task, own)) for own in few]


def _alone(fn: Callable[..., Any], rows: list[tuple[Any, ...]], local: bool) -> Any:
    """What comes out node by node; None where it fails in the tangent space, or in a way that the run tells better."""
    try:
        return catalog.load("engines", "sequential")().call(fn, rows)
    except Exception as error:
        if not local or not isinstance(error, RuntimeError):
            return None
        raise SettingError(
            f"`model` must have gradients by torch.func in training; got {short(error)}. Leave out what has none."
        ) from error


def _fault(fn: Callable[..., Any], shared: list[tuple[Any, ...]], alone: Any, w_0: Weights) -> str | None:
    """What is wrong where nodes at once, with one model or each its own, give nothing, or other results than alone."""
    floor = 16 * max(float(w.abs().max()) * torch.finfo(w.dtype).eps for w in w_0.values() if w.numel())
    for rows in (shared, [(trees.map(torch.clone, w), *rest) for w, *rest in shared]):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", _SLOW, UserWarning)
            try:
                together = catalog.load("engines", "vectorized")().call(fn, rows)
            except Exception as error:
                return short(error)
        for one, other in zip(trees.leaves(alone), trees.leaves(together), strict=True):
            if one.is_floating_point() and not _agree(one, other, floor):
                return "its gradients are others there than node by node"
    return None


def _agree(one: Tensor, other: Tensor, floor: float) -> bool:
    """Whether both are the same but for rounding; what is not finite tells nothing."""
    if not one.numel() or not bool(one.isfinite().all()):
        return True
    return bool((one - other).abs().max() <= 0.01 * one.abs().max() + floor)


def _batches(task: Task, data: Shard) -> solvers.Batches:
    """One step on all rows, drawn as in local training."""
    drawn = solvers.shuffled(1, len(data.real), task.augment).of_round(1)(np.random.default_rng(0), data)
    return trees.to(drawn, data.real.device)  # type: ignore[no-any-return]


def _gradient(task: Task, w: Weights, data: Shard, batches: solvers.Batches) -> Weights:
    return trees.subtract(w, solvers.sgd(task, lr=1.0)(w, data, batches))  # type: ignore[no-any-return]


def _linearized(task: Task, w: Weights, data: Shard, _: solvers.Batches) -> Any:
    tries = trees.map(lambda part: torch.stack([part, part]), w)
    return linearised_rows(task, w, data), score(task, tries, data)


def _budget(experiment: Experiment, device: torch.device) -> dict[str, int]:
    """The budget of a chunk: what was asked for; else a quarter of a GPU, and on a CPU the engine's own."""
    if experiment.memory is not None:
        return {"memory": experiment.memory}
    return {"memory": torch.cuda.get_device_properties(device).total_memory // 4} if device.type == "cuda" else {}
