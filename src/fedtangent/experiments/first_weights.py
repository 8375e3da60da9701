"""First weights: one draw for all nodes, or one for each; and what parts of one's own draw by global generators."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment, factory
from fedtangent.federation import Method
from fedtangent.training.task import Task

_ONE = RLock()  # torch's generator is the process's, and nodes in threads each build a model of their own


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch, numpy and Python draw by this seed alone; afterwards their generators are where they were."""
    with _ONE, torch.random.fork_rng(devices=[]):
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # a user's file may draw from them
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def drawn(rng: np.random.Generator, function: Callable[..., Any], /, *given: Any, **options: Any) -> Any:
    """function(*given, **options); what torch, as in its layers, numpy and Python draw in it is by `rng` too."""
    with seeded(int(deepcopy(rng).integers(2**63))):
        return function(*given, **options)


def built_first(
    experiment: Experiment, inputs: Any, outputs: int, dtype: torch.dtype
) -> Callable[[np.random.Generator], dict[str, Tensor]] | None:
    """What draws a node's own first weights; None where all nodes begin with the same."""
    if experiment.first_weights == "same":
        return None
    function = factory("model", experiment.model)
    if function is None:
        raise SettingError(
            "`first_weights` must be same for a module of your own, which comes with its weights; got distinct. Give a "
            "model's name or function."
        )
    chosen = experiment.resolved("model")

    def first(rng: np.random.Generator) -> dict[str, Tensor]:
        model = drawn(rng, function, inputs, outputs, rng, **chosen)
        return {name: p.detach().to(dtype) for name, p in model.named_parameters() if p.requires_grad}

    return first


def check_start(task: Task, method: Method) -> None:
    """Raises ValueError where a method cannot begin with weights of every node's own."""
    if task.first is not None and not method.traits.own_start:
        raise SettingError(
            f"`first_weights` must be same for {method.name}, all of whose nodes begin alike; got distinct. Drop it."
        )
