"""Evaluate: what a model is worth on the test set, the aggregated one and the nodes' own."""

from typing import Any

import torch

from fedtangent.experiments.setup import Setup
from fedtangent.federation import Central, Each, Fleet
from fedtangent.shard import at
from fedtangent.training.losses import cross_entropy
from fedtangent.training.task import Weights

BATCH = 256  # rows of the test set at once: with more, a ResNet-8 takes half as long again on a CPU


def evaluate(built: Setup, fleet: Fleet, state: Any, weights: Central[Weights], nodes: bool) -> dict[str, Any]:
    """The aggregated model's test accuracy and loss, and its nodes' mean accuracy and that of the worst tenth.

    Where nodes have neighbours their models are measured after one extra average, which is not billed, so that methods
    are comparable. In a regression there is no accuracy.

    Args:
        built: The experiment.
        fleet: Of the round.
        state: After the round.
        weights: The aggregated model's; where they are absent, so is what is measured of them.
        nodes: Whether to measure the nodes' own models.
    """
    accuracy, loss = measured(built, weights.value) if built.leads else (None, None)
    if not built.classes:
        return {"loss": loss}
    mean = worst = None
    if built.method.personal is None:  # all nodes have the server's
        mean = worst = accuracy
    elif nodes:
        own = [measured(built, w)[0] for w in _own(built, fleet, built.method.personal(state)).values]
        each = sorted(fleet.observe(fleet.of_here(own)))
        lowest = each[: max(1, len(each) // 10)]
        mean, worst = sum(each) / len(each), sum(lowest) / len(lowest)
    return {"accuracy": accuracy, "mean_node_accuracy": mean, "worst_tenth_accuracy": worst, "loss": loss}


def measured(built: Setup, weights: Weights) -> tuple[float, float]:
    """Test accuracy, in [0, 1], and mean test loss of these weights; an output that is not finite is never right.

    The loss is cross-entropy, whatever loss was trained on, so that methods are comparable; in a regression the task's.
    """
    right, total, loss = 0, 0.0, cross_entropy if built.classes else built.task.loss
    with torch.no_grad():
        for start in range(0, len(built.y_test), BATCH):
            part = slice(start, start + BATCH)
            x, y = at(built.x_test, part), built.y_test[part]
            f = built.task.predict(weights, x)
            total += float(loss.per_sample(f, y).sum(dtype=torch.float64))
            if built.classes:
                right += int(((f.argmax(-1) == y) & torch.isfinite(f).all(-1)).sum())
    return right / len(built.y_test), total / len(built.y_test)


def _own(built: Setup, fleet: Fleet, w_k: Each[Weights]) -> Each[Weights]:
    """The nodes' own models, after one more average where they have neighbours."""
    if not built.method.traits.neighbours:
        return w_k
    with fleet.ledger.paused():
        return fleet.mix(w_k)
