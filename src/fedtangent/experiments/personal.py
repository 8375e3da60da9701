"""Personal: own models and the aggregated one on every node's own test rows, and metrics beside accuracy."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent.experiments import metrics
from fedtangent.experiments.evaluate import (
    NOTHING,
    Known,
    Score,
    correct,
    outputs,
    own_weights,
    score,
    with_absent,
    worst_tenth,
)
from fedtangent.experiments.setup import Setup
from fedtangent.federation import Central, Each, Fleet
from fedtangent.federation.values import Cache, Wave
from fedtangent.shard import Shard
from fedtangent.training.task import Weights


class Outputs(NamedTuple):
    """What a model gives for test rows. f: (rows, C). y: labels or targets. real: as of a Shard."""

    f: Tensor
    y: Tensor
    real: Tensor


def measures(
    built: Setup, fleet: Fleet, state: Any, weights: Central[Weights], nodes: bool, k: int
) -> tuple[dict[str, Any], Known]:
    """Accuracy and the metrics that were asked for: of the nodes' own models, and of the aggregated one.

    With test rows of their own, both are measured at every node on these, and mean, deviation and worst tenth are over
    the nodes. A metric that is no sum over rows, such as AUC, is computed where the rows are, so that of its rows a
    node tells these numbers alone; the rows that are right by class are summed over the nodes. Otherwise both are
    measured on all test rows, where the aggregated model has one value. With them what `evaluate` need not compute.

    Args:
        built: The experiment.
        fleet: Of those that are measured.
        state: After the round.
        weights: The aggregated model's.
        nodes: Whether to measure the nodes' own models.
        k: The round.
    """
    if built.experiment.evaluate_on is None and not built.metrics:
        return {}, NOTHING
    known, own, aggregate = NOTHING, None, None
    with fleet.ledger.paused():
        if built.tests is None:
            test_k = fleet.everywhere(_all_rows(built))
            if built.leads:
                whole, _ = _outputs(built, weights.value, _all_rows(built))
                aggregate, known = _on_all(built, whole), known._replace(outputs=whole.f)
        else:
            test_k = fleet.each([built.tests[node] for node in fleet.nodes])
            aggregate, scores = _told(built, fleet, fleet.broadcast(weights), test_k)
            own, known = aggregate if built.method.personal is None else None, known._replace(aggregate=scores)
        if nodes and built.method.personal is not None:
            own, scores = _told(built, fleet, own_weights(built, fleet, state), test_k)
            known = known._replace(own=scores)
    pairs = {"own": own, "aggregate": aggregate}
    found = {name: {kind: part and part[name] for kind, part in pairs.items()} for name in _names(built)}
    if built.leads:
        metrics.check_defined(found, k)
    return {"measures": found}, known


def _on_all(built: Setup, found: Outputs) -> dict[str, Any]:
    """The aggregated model's measures on all test rows."""
    numbers, by_class = _numbers(built, found, "all test rows"), _by_class(built, found).tolist()
    told: dict[str, Any] = {name: {"all": value} for name, value in zip(_names(built), numbers, strict=True)}
    if built.classes:
        told["accuracy"]["classes"] = _shares(*by_class)
    return told


def _told(built: Setup, fleet: Fleet, w_k: Each[Weights], test_k: Each[Shard]) -> tuple[dict[str, Any], list[Score]]:
    """The measures of models at the nodes, over the nodes; and every node's score."""
    found_k = fleet.map(partial(_outputs, built), w_k, test_k)

    def here(fn: Callable[[Outputs, Score, str], Any]) -> Each[Any]:
        def pull(wave: Wave, cache: Cache) -> list[Any]:
            rows = zip(found_k.pull(wave, cache), wave.nodes, strict=True)
            return [fn(found, own, f"{len(found.real)} test rows of node {node}") for (found, own), node in rows]

        return Each(fleet, pull)

    numbers_k, right_k, score_k = here(
        lambda found, own, where: (_tensor(_numbers(built, found, where)), _by_class(built, found), own)
    ).unzip(3)
    columns = torch.stack(fleet.observe(numbers_k)).T.tolist()
    if built.present != built.nodes:
        columns = [
            [math.nan if own is None else own for own in with_absent(built, fleet, column)] for column in columns
        ]
    told = {name: _spread(column) for name, column in zip(_names(built), columns, strict=True)}
    if built.classes:
        total, _ = fleet.sum(right_k)
        told["accuracy"]["classes"] = _shares(*total.value.tolist()) if built.leads else None
    return told, fleet.observe(score_k)


def _names(built: Setup) -> list[str]:
    return [*(["accuracy"] if built.classes else []), *built.metrics]


def _numbers(built: Setup, found: Outputs, where: str) -> list[float | None]:
    """Accuracy, in a classification, and every metric on some rows."""
    right = [float(correct(found.f, found.y).double().mean())] if built.classes else []
    return [*right, *(metrics.value(name, fn, found.f, found.y, where) for name, fn in built.metrics.items())]


def _tensor(numbers: Sequence[float | None]) -> Tensor:
    return torch.tensor([math.nan if number is None else number for number in numbers], dtype=torch.float64)


def _by_class(built: Setup, found: Outputs) -> Tensor:
    """Rows that are right, and all rows, by class, (2, classes)."""
    if not built.classes:
        return torch.zeros(2, 0, dtype=torch.int64)
    right = found.y[correct(found.f, found.y)]
    return torch.stack([torch.bincount(y.cpu(), minlength=built.classes) for y in (right, found.y)])


def _shares(right: Sequence[int], rows: Sequence[int]) -> list[float | None]:
    return [hits / count if count else None for hits, count in zip(right, rows, strict=True)]


def _spread(each: Sequence[float]) -> dict[str, Any]:
    """Mean, deviation and the mean of the worst, which is the lowest, tenth, of the nodes that have a value."""
    there = sorted(value for value in each if value == value)
    nodes = [value if value == value else None for value in each]
    if not there:
        return {"mean": None, "deviation": None, "worst_tenth": None, "nodes": nodes}
    worst = fmean(worst_tenth(there))
    return {"mean": fmean(there), "deviation": pstdev(there), "worst_tenth": worst, "nodes": nodes}


def _all_rows(built: Setup) -> Shard:
    rows = torch.ones(len(built.y_test), dtype=torch.bool, device=built.y_test.device)
    return Shard(built.x_test, built.y_test, rows)


def _outputs(built: Setup, weights: Weights, test: Shard) -> tuple[Outputs, Score]:
    """What these weights give for test rows, and its score; an engine may ask it of many nodes at once."""
    parts = list(outputs(built, weights, test))
    return Outputs(torch.cat([f for f, _ in parts]), test.y, test.real), score(built, test, parts)
