"""Recalibrate: batch norm's statistics at the aggregated weights, from sums over the clients' rows."""

from functools import partial

from fedtangent import trees
from fedtangent.experiments.setup import Setup
from fedtangent.federation import Central, Each, Fleet
from fedtangent.shard import Shard, at
from fedtangent.training import batch_norm
from fedtangent.training.task import Task, Weights

ROWS = 64  # of a client at once: these normalise each other on the way to the next layer, as a batch does in training


def recalibrated(built: Setup, fleet: Fleet, w: Central[Weights], data_k: Each[Shard]) -> Central[Weights]:
    """The weights, and where the model has batch norm its statistics at them.

    The round's clients sum what goes into every normalisation, and the server adds the sums up. Like evaluation it is
    not to be billed: training needs no statistics, and for the model that is used in the end it happens once, a forward
    pass over a client's rows and two numbers a channel.
    """
    if not batch_norm.layers(built.task.model):
        return w
    assert built.method.traits.averages
    clients = built.method.clients(fleet)
    total, _ = clients.sum(clients.map(partial(_sums, built.task), clients.broadcast(w), data_k))
    return fleet.at_server(_with_statistics, w, total)


def _with_statistics(w: Weights, total: dict[str, batch_norm.Sums]) -> Weights:
    return w | batch_norm.statistics(total, next(iter(w.values())).dtype)


def _sums(task: Task, w: Weights, data: Shard) -> dict[str, batch_norm.Sums]:
    total = None
    for start in range(0, len(data.real), ROWS):
        part = slice(start, start + ROWS)
        x, real = at(data.x, part), data.real[part]
        found = batch_norm.sums(task.model, partial(task.predict, w, x), real)
        total = found if total is None else trees.add(total, found)
    assert total is not None
    return total
