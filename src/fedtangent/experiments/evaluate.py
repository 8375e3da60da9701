"""Evaluate: what a model is worth on the test set, the aggregated one and the nodes' own."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent.experiments import early
from fedtangent.experiments.setup import Setup
from fedtangent.federation import Central, Each, Fleet
from fedtangent.shard import Shard, at
from fedtangent.training.losses import cross_entropy
from fedtangent.training.task import Weights

BATCH = 256  # rows of the test set at once: with more, a ResNet-8 takes half as long again on a CPU
Score = tuple[Tensor, Tensor]  # how many rows a model is right about, and the sum of their losses


class Known(NamedTuple):
    """What has been computed of the models already, as metrics take it.

    Attributes:
        outputs: The aggregated model's on all test rows, (rows, C), where it is.
        aggregate: Its scores at every node of the fleet, on the node's own rows.
        own: The scores of the nodes' own models, each on the rows that it is measured on.
    """

    outputs: Tensor | None = None
    aggregate: list[Score] | None = None
    own: list[Score] | None = None


NOTHING = Known()


def evaluate(
    built: Setup, fleet: Fleet, state: Any, weights: Central[Weights], nodes: bool, known: Known = NOTHING
) -> dict[str, Any]:
    """The aggregated model's accuracy and loss, and its nodes' accuracies, their mean and that of the worst tenth.

    The aggregated model's accuracy is told of every class, too, unless the nodes have test rows of their own. Where
    nodes have neighbours their models are measured after one extra average, which is not billed, so that methods are
    comparable; personal models as they are. In a regression there is no accuracy.

    Args:
        built: The experiment.
        fleet: Of the round.
        state: After the round.
        weights: The aggregated model's; where they are absent, so is what is measured of them.
        nodes: Whether to measure the nodes' own models.
        known: What is not to be computed again.
    """
    if built.tests is not None:
        return _by_node(built, fleet, state, weights, nodes, known)
    accuracy, loss, by_class = _tested(built, weights.value, known.outputs) if built.leads else (None, None, None)
    if not built.classes:
        return {"loss": loss}
    mean = worst = each = None
    if built.method.personal is None:  # all nodes have the server's
        mean = worst = accuracy
    elif nodes:
        if known.own is not None:
            rights = [right for right, _ in known.own]
        else:
            with fleet.ledger.paused():
                rights = fleet.observe(fleet.map(partial(_right, built), own_weights(built, fleet, state)))
        each = [int(right) / len(built.y_test) for right in rights]
        mean, worst = _mean_and_worst(each)
    return _told(accuracy, mean, worst, each) | {"class_accuracy": by_class, "loss": loss}


def own_weights(built: Setup, fleet: Fleet, state: Any) -> Each[Weights]:
    """The nodes' own models as they are measured: of neighbours that are to agree after one more average."""
    assert built.method.personal is not None
    w_k = built.method.personal(state)
    return w_k if fleet.graph is None or built.method.traits.personal else fleet.mix(w_k)


def validated(built: Setup, fleet: Fleet, weights: Central[Weights]) -> dict[str, Any]:
    """The aggregated model's loss and accuracy on all rows that nodes keep back, each measured where it is."""
    if built.held is None:
        return {}
    its = [built.held[node] for node in fleet.nodes]
    rows = sum(len(held.real) for held in its)
    with fleet.ledger.paused():
        held_k = fleet.each(its)
        found = fleet.observe(fleet.map(partial(scored, built), fleet.broadcast(weights), held_k))
    accuracy = {early.ACCURACY: sum(int(right) for right, _ in found) / rows} if built.classes else {}
    return {**accuracy, early.LOSS: sum(float(total) for _, total in found) / rows}


def _by_node(
    built: Setup, fleet: Fleet, state: Any, weights: Central[Weights], nodes: bool, known: Known
) -> dict[str, Any]:
    """The same where every node has test rows of its own, which never leave it; and every node's accuracy.

    Accuracy and loss are of all test rows together. A node's own accuracy is that of its own model, or of the one that
    all have, on its own rows.
    """
    assert built.tests is not None
    tests = [built.tests[node] for node in fleet.nodes]
    rows = [len(test.real) for test in tests]
    with fleet.ledger.paused():
        test_k = fleet.each(tests)
        found = known.aggregate or fleet.observe(fleet.map(partial(scored, built), fleet.broadcast(weights), test_k))
        own = found
        if built.classes and built.method.personal is not None and nodes:
            own = known.own or fleet.observe(
                fleet.map(partial(scored, built), own_weights(built, fleet, state), test_k)
            )
    loss = sum(float(total) for _, total in found) / sum(rows)
    if not built.classes:
        return {"loss": loss}
    accuracy = sum(int(right) for right, _ in found) / sum(rows)
    mean = worst = None
    each: list[Any] | None = None
    if built.method.personal is None or nodes:
        each = [int(right) / count for (right, _), count in zip(own, rows, strict=True)]
        mean, worst = _mean_and_worst(each)
        each = each if built.present == built.nodes else with_absent(built, fleet, each)
    return _told(accuracy, mean, worst, each) | {"loss": loss}


def with_absent(built: Setup, fleet: Fleet, each: Sequence[float | None]) -> list[float | None]:
    """One value for every node of a federation, None for those whose processes are away."""
    found = dict(zip(fleet.nodes, each, strict=True))
    return [found.get(node) for node in built.nodes]


def _told(
    accuracy: float | None, mean: float | None, worst: float | None, each: list[Any] | None
) -> dict[str, float | list[Any] | None]:
    named = {"accuracy": accuracy, "mean_node_accuracy": mean, "worst_tenth_accuracy": worst}
    return named | {"node_accuracy": each}


def worst_tenth(values: Sequence[float]) -> list[float]:
    """The lowest tenth of them, rounded down but never none, from the lowest."""
    return sorted(values)[: max(1, len(values) // 10)]


def _mean_and_worst(each: Sequence[float]) -> tuple[float, float]:
    """The mean, and that of the worst tenth, of accuracies."""
    lowest = worst_tenth(each)
    return sum(sorted(each)) / len(each), sum(lowest) / len(lowest)


def measured(built: Setup, weights: Weights) -> tuple[float, float]:
    """Test accuracy, in [0, 1], and mean test loss of these weights; an output that is not finite is never right.

    The loss is cross-entropy, whatever loss was trained on, so that methods are comparable; in a regression the task's.
    """
    accuracy, loss, _ = _tested(built, weights)
    return accuracy, loss


def _tested(built: Setup, weights: Weights, known: Tensor | None = None) -> tuple[float, float, list[float | None]]:
    """The same, and the accuracy on the test rows of every class; None for a class without any."""
    right, total, loss = [], [], cross_entropy if built.classes else built.task.loss
    done = None if known is None else zip(torch.split(known, BATCH), torch.split(built.y_test, BATCH), strict=True)
    for f, y in done or _outputs(built, weights):
        total.append(loss.per_sample(f, y).sum(dtype=torch.float64))
        if built.classes:
            right.append(torch.bincount(y[correct(f, y)], minlength=built.classes))
    by_class = torch.stack(right).sum(0).tolist() if right else []
    rows = torch.bincount(built.y_test, minlength=built.classes).tolist() if right else []
    each = [hits / count if count else None for hits, count in zip(by_class, rows, strict=True)]
    count = len(built.y_test)
    return sum(by_class) / count, sum(torch.stack(total).tolist()) / count, each


def scored(built: Setup, weights: Weights, test: Shard) -> Score:
    """How many rows of a node these weights are right about, and the sum of their losses; padded rows do not count."""
    return score(built, test, outputs(built, weights, test))


def outputs(built: Setup, weights: Weights, test: Shard) -> Iterator[tuple[Tensor, slice]]:
    """What these weights give for a node's rows, some at a time, and which these are."""
    for start in range(0, len(test.real), BATCH):
        part = slice(start, start + BATCH)
        with torch.no_grad():
            f = built.predict(weights, at(test.x, part))
        yield f, part


def score(built: Setup, test: Shard, found: Iterable[tuple[Tensor, slice]]) -> Score:
    """The score of some `outputs`."""
    right, total, loss = [], [], cross_entropy if built.classes else built.task.loss
    for f, part in found:
        y, real = test.y[part], test.real[part]
        total.append(torch.where(real, loss.per_sample(f, y), 0.0).sum(dtype=torch.float64))
        if built.classes:
            right.append((correct(f, y) & real).sum())
    none = torch.zeros((), dtype=torch.float64, device=test.real.device)
    return (torch.stack(right).sum() if right else none.long()), (torch.stack(total).sum() if total else none)


def _right(built: Setup, weights: Weights) -> Tensor:
    """How many test rows these weights are right about; an engine may ask it of many nodes at once."""
    return torch.stack([_hits(f, y) for f, y in _outputs(built, weights)]).sum()


def _hits(f: Tensor, y: Tensor) -> Tensor:
    return correct(f, y).sum()


def correct(f: Tensor, y: Tensor) -> Tensor:
    """Which rows are right, (rows,) as bool; one whose outputs are not finite is not."""
    return (f.argmax(-1) == y) & torch.isfinite(f).all(-1)


def _outputs(built: Setup, weights: Weights) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and labels or targets, some rows of the test set at a time."""
    for start in range(0, len(built.y_test), BATCH):
        part = slice(start, start + BATCH)
        with torch.no_grad():
            yield built.predict(weights, at(built.x_test, part)), built.y_test[part]
