"""Together: one experiment on several ranks, which must agree on what it is before the first message."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from fedtangent import catalog
from fedtangent.errors import SettingError, UserError
from fedtangent.experiments import record
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.same import short
from fedtangent.experiments.setup import Setup, setup
from fedtangent.transports import ranks

Told = Mapping[str, Any]


def agreed(experiment: Experiment) -> Setup:
    """The experiment's setup of this rank, as soon as every rank has one, and the same.

    Raises:
        ValueError: A rank has none, or another one; the same sentence on every rank.
    """
    built: Setup | None = None
    try:
        _check_device(str(experiment.device))
        built = setup(experiment, partial(ranks.ranks, device=experiment.device))
        mine = {"manifest": json.dumps(record.manifest(built))}
    except Exception as error:
        known = str(error) if isinstance(error, (UserError, OSError)) else catalog.failed(error)
        mine = {"error": known or f"{type(error).__name__}: {error}"}
    check(ranks.everybody(mine))
    assert built is not None
    return built


def check(told: Sequence[Told]) -> None:
    """Raises one sentence where a rank has no setup, or another than rank 0; it names the rank and what is wrong."""
    errors = [(place, own["error"]) for place, own in enumerate(told) if "error" in own]
    if errors:
        place, first = errors[0]
        alike = len(errors) == len(told) and len({error for _, error in errors}) == 1
        raise SettingError(first if alike else f"rank {place} must be able to run this; got there: {first}")
    manifests = [json.loads(own["manifest"]) for own in told]
    for place, own in enumerate(manifests[1:], 1):
        for name in ("experiment", "versions", "sources", "threads", "fingerprint"):
            _compare(name, manifests[0][name], own[name], place)


def _compare(name: str, first: Any, other: Any, place: int) -> None:
    if first == other:
        return
    if isinstance(first, dict) and isinstance(other, dict):
        for key in {**first, **other}:
            _compare(key, first.get(key), other.get(key), place)
    if name == "fingerprint":
        raise SettingError(
            f"`ranks` must all have the same data and first weights; got others on rank {place}. Give all the "
            "same files."
        )
    raise SettingError(
        f"`{name}` must be the same on every rank; got {short(first)} on rank 0 and {short(other)} on rank {place}. "
        "Start all with the same command, code and versions."
    )


def _check_device(device: str) -> None:
    if not device.startswith("cuda"):
        return
    if device != "cuda":
        raise SettingError(f"`device` must be cuda without a number on ranks; got {device}. Each takes one of its own.")
    if torch.cuda.is_available() and torch.cuda.current_device() >= torch.cuda.device_count():
        raise SettingError("`device` must have a GPU for every rank; got fewer. Start fewer ranks, or use cpu.")
