"""Steps: how an experiment has local steps taken, whatever the method; built, described and checked."""

import math
from typing import Any, get_args

import torch

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.parts import LOCAL_STEPS, OF_SCHEDULE
from fedtangent.federation import Method
from fedtangent.training.steps import PLAIN, Precision, Rates, Schedule, Steps
from fedtangent.training.task import Task


def built_steps(experiment: Experiment) -> Steps:
    """How local steps are taken.

    Raises:
        ValueError: A setting that cannot be, or that would be ignored.
    """
    asked = experiment
    for name, kinds in (("lr_schedule", Schedule), ("amp", Precision)):
        value = getattr(asked, name)
        if value not in get_args(kinds) and (name, value) != ("amp", None):
            raise SettingError(f"`{name}` must be one of {', '.join(get_args(kinds))}; got {value!r}. Choose one.")
    for name in ("lr_warm_up", "lr_rounds", "lr_least", "lr_every", "lr_gamma", "clip", "local_weight_decay"):
        check_number(asked, name, name in ("lr_warm_up", "lr_rounds", "lr_every"))
    told: dict[str, Any] = {}
    for name, (usual, schedule) in OF_SCHEDULE.items():
        value = getattr(asked, name)
        if value is not None and asked.lr_schedule != schedule:
            raise SettingError(
                f"`{name}` must be left out with the schedule {asked.lr_schedule}; got {value}. Drop it, or give "
                f"--lr-schedule {schedule}."
            )
        told[name] = usual if value is None else value
    if asked.lr_rounds is not None and asked.lr_rounds < 1:
        raise SettingError(f"`lr_rounds` must be at least 1; got {asked.lr_rounds}. Give a number of rounds.")
    if asked.clip is not None and not 0 < asked.clip < math.inf:
        raise SettingError(
            f"`clip` must be positive and finite; got {asked.clip}. Use a norm such as 1, or leave it out."
        )
    if not 0 <= asked.local_weight_decay < math.inf:
        raise SettingError(
            f"`local_weight_decay` must not be negative, and finite; got {asked.local_weight_decay}. Use 0 for none."
        )
    if asked.amp is not None:
        _check_amp(asked)
    return Steps(_rates(asked, told), asked.clip, asked.local_weight_decay, asked.amp)


def _rates(asked: Experiment, told: dict[str, Any]) -> Rates | None:
    over, warm_up = asked.rounds if told["lr_rounds"] is None else told["lr_rounds"], asked.lr_warm_up
    if not 0 <= warm_up < asked.rounds:
        raise SettingError(
            f"`lr_warm_up` must be from 0 to below the rounds, {asked.rounds}; got {warm_up}. Take fewer."
        )
    if asked.lr_schedule == "cosine" and over <= warm_up:
        raise SettingError(f"`lr_rounds` must be above `lr_warm_up`, {warm_up}; got {over}. Give more rounds.")
    if told["lr_every"] < 1:
        raise SettingError(f"`lr_every` must be at least 1; got {told['lr_every']}. Give a number of rounds.")
    for name in ("lr_least", "lr_gamma"):
        if not 0 <= told[name] <= 1 or (name, told[name]) == ("lr_gamma", 0):
            raise SettingError(f"`{name}` must be from 0 to 1; got {told[name]}. Give a share of the learning rate.")
    if asked.lr_schedule == "constant" and not warm_up:
        return None
    return Rates(asked.lr_schedule, warm_up, over, told["lr_least"], told["lr_every"], told["lr_gamma"])


def described(experiment: Experiment) -> dict[str, Any]:
    """The settings that are not the usual ones, and all that a schedule hangs on."""
    found = {name: getattr(experiment, name) for name in LOCAL_STEPS}
    for name, (usual, schedule) in OF_SCHEDULE.items():
        if found[name] is None and experiment.lr_schedule == schedule:
            found[name] = experiment.rounds if name == "lr_rounds" else usual
    nothing = {"lr_schedule": "constant", "lr_warm_up": 0, "local_weight_decay": 0.0}
    return {name: value for name, value in found.items() if value != nothing.get(name)}


def check_taken(experiment: Experiment, task: Task, method: Method) -> None:
    """Raises ValueError if the settings of local steps would be ignored, since the method takes none by the solvers."""
    if task.steps == PLAIN or "steps" in task.cache:
        return
    name, value = next(iter(described(experiment).items()))
    raise SettingError(
        f"`{name}` must be left out for {method.name}, which takes no steps on batches by fedtangent's solvers; got "
        f"{value!r}. Drop it."
    )


def check_number(asked: Experiment, name: str, whole: bool) -> None:
    """Raises TypeError where a setting is no number, or not none where that may be."""
    value, kinds, default = getattr(asked, name), (int,) if whole else (int, float), getattr(Experiment, name)
    if (value is not None or default is not None) and (not isinstance(value, kinds) or isinstance(value, bool)):
        raise SettingTypeError(f"`{name}` must be {'an integer' if whole else 'a number'}; got {value!r}. Give one.")


def _check_amp(asked: Experiment) -> None:
    on_cpu = torch.device(asked.device).type == "cpu"
    if on_cpu and asked.amp == "float16":
        raise SettingError("`amp` must be bfloat16, or left out, on a CPU; got float16. Choose one, or --device cuda.")
    if asked.dtype != "float32":
        raise SettingError(
            f"`dtype` must be float32 with amp, which casts from it; got {asked.dtype}. Drop one of both."
        )
