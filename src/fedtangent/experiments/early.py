"""Early: rows that every client keeps back, what the model is worth on them, and when a run ends because of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.steps import check_number
from fedtangent.federation import Method, generator
from fedtangent.shard import Shard

LOSS, ACCURACY = "validation_loss", "validation_accuracy"


def check(experiment: Experiment) -> None:
    """Raises where the share or the patience cannot be.

    Raises:
        TypeError: One of them is no number.
        ValueError: A share outside [0, 1), a patience below 1, or one without rows to go by.
    """
    check_number(experiment, "validation", whole=False)
    check_number(experiment, "early_stop", whole=True)
    share, patience = experiment.validation, experiment.early_stop
    if not 0 <= share < 1:
        raise SettingError(f"`validation` must be from 0 to below 1; got {share}. Use a share such as 0.1.")
    if patience is not None and patience < 1:
        raise SettingError(f"`early_stop` must be at least 1; got {patience}. Give a number of rounds, such as 5.")
    if patience is not None and not share:
        raise SettingError(
            f"`early_stop` must have rows to go by; got {patience} without validation. Add --validation 0.1."
        )


def check_best(experiment: Experiment, method: Method, apart: bool) -> None:
    """Raises where there is nothing to choose among, or nothing to choose by.

    Args:
        experiment: What is asked for.
        method: Its method.
        apart: Whether nodes are sites of a real federation.
    """
    check_number(experiment, "aggregate_best", whole=False)
    share = experiment.aggregate_best
    if not 0 < share <= 1:
        raise SettingError(f"`aggregate_best` must be above 0 and at most 1; got {share}. Use 1 for all nodes.")
    if share == 1:
        return
    if method.personal is None:
        raise SettingError(f"`aggregate_best` must be 1 for {method.name}, which has one model; got {share}. Drop it.")
    if apart:
        raise SettingError(f"`aggregate_best` must be 1 between sites, whose rows stay there; got {share}. Drop it.")
    if not experiment.validation:
        raise SettingError(
            f"`aggregate_best` must have rows to go by; got {share} without validation. Add --validation 0.1."
        )


def kept_back(data: Sequence[Shard], share: float, seed: int) -> tuple[list[Shard], list[Shard] | None]:
    """Every node's rows to train on, and those that it keeps back: a share, rounded, and never all; drawn once.

    Raises:
        ValueError: No node has a row to keep back.
    """
    if not share:
        return list(data), None
    train: list[Shard] = []
    held: list[Shard] = []
    for node, own in enumerate(data):
        count = len(own.real)
        cut = min(round(share * count), count - 1)
        rows = generator(seed, 0, "validation", node).permutation(count)
        for part, chosen in ((held, rows[:cut]), (train, rows[cut:])):
            part.append(_at(own, torch.from_numpy(np.sort(chosen)).to(own.real.device)))
    if not any(len(own.real) for own in held):
        raise SettingError(
            f"`validation` must leave a client a row to keep back; got {share} of at most "
            f"{max(len(own.real) for own in data)} rows. Give a larger share, or fewer nodes."
        )
    return train, held


def _at(own: Shard, rows: Tensor) -> Shard:
    """Some rows; where all are one and the same, as of another site's stand-in, without any memory."""
    return trees.map(lambda leaf: leaf[: len(rows)] if leaf.stride(0) == 0 else leaf[rows], own)  # type: ignore[no-any-return]


def best(rounds: Sequence[Mapping[str, Any]]) -> int:
    """The round whose loss on the rows kept back is the least, the first of several; 1 where none is finite."""
    found = (entry.get(LOSS) for entry in rounds)
    losses = [loss if isinstance(loss, (int, float)) else math.inf for loss in found]
    return 1 + min(range(len(losses)), key=lambda place: losses[place])


def ends(rounds: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether the last rounds, so many, were all no better than the best one before them."""
    return patience is not None and bool(rounds) and len(rounds) - best(rounds) >= patience
