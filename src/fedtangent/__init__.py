"""Federated learning in the tangent space of any PyTorch model, with or without a server."""

from __future__ import annotations

import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fedtangent import batch_norm as batch_norm
    from fedtangent import datasets as datasets
    from fedtangent import federation as federation
    from fedtangent import losses as losses
    from fedtangent import methods as methods
    from fedtangent import models as models
    from fedtangent import shard as shard
    from fedtangent import tangents as tangents
    from fedtangent import task as task
    from fedtangent.experiments.experiment import Experiment, experiment
    from fedtangent.experiments.model_file import load
    from fedtangent.experiments.run import Result
    from fedtangent.federation import Method
    from fedtangent.shard import Dataset, Partition

__version__ = "0.2.0"
__all__ = ["Dataset", "Experiment", "Partition", "Result", "experiment", "load", "run"]

# PyTorch is imported when the first of these is used.
_HOMES = {
    "Dataset": "shard",
    "Experiment": "experiments.experiment",
    "Partition": "shard",
    "Result": "experiments.run",
    "experiment": "experiments.experiment",
    "load": "experiments.model_file",
}


def run(
    method: str | Callable[..., Method] | Experiment,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    on_round: Callable[[dict[str, Any]], None] | None = None,
    tensorboard: bool = False,
    track: Sequence[str] = (),
    **settings: Any,
) -> Result:
    """The result of one run of a method.

    Args:
        method: A method's name, a file of your own that ends in .py, or a method's function; or a whole `experiment`,
            without other settings.
        out: The folder for the record; none keeps it in memory only.
        resume: Go on with a run that is there, to the same record.
        on_round: Called with the entry of every round that ends.
        tensorboard: Log the rounds for TensorBoard too, in the folder.
        track: The trackers that are given settings, rounds and files, such as mlflow.
        settings: Those of an `Experiment`, and the options of the parts that it chooses.
    """
    from fedtangent.errors import SettingError
    from fedtangent.experiments.experiment import Experiment, experiment
    from fedtangent.experiments.run import run as run_experiment

    if isinstance(method, Experiment) and settings:
        raise SettingError(
            f"`settings` must be left out of an experiment, which has them; got {', '.join(settings)}. Give them to "
            "fedtangent.experiment."
        )
    chosen = method if isinstance(method, Experiment) else experiment(method, **settings)
    page = importlib.import_module("fedtangent.reports.page").of_run if track else None
    return run_experiment(
        chosen, out, resume=resume, on_round=on_round, tensorboard=tensorboard, track=track, page=page
    )


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fedtangent.{_HOMES[name]}"), name)
    # `fedtangent.tangents.kernel` needs no import of its own
    if name.startswith("_") or importlib.util.find_spec(f"fedtangent.{name}") is None:
        raise AttributeError(f"module 'fedtangent' has no attribute {name!r}")
    return importlib.import_module(f"fedtangent.{name}")


def __dir__() -> list[str]:
    """What there is: the names above, and the modules, each imported when it is first used."""
    modules = {found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")}
    return sorted({*__all__, *modules, "__version__"})
