"""FedFisher: clients train alone, once; the server joins their models where their Fisher information agrees.

Jhunjhunwala, Wang, Joshi. FedFisher: Leveraging Fisher Information for One-Shot Federated Learning. AISTATS 2024.
arXiv 2403.12329, with the diagonal of the Fisher matrix. Its authors' code takes the best of its server steps on 500
training images, which no server has: here the clients' losses on rows that they have set aside decide.

    server:  w   <- w_0
    round:   w_k <- w                                   for all clients k, in the first round alone
             z_k <- SGD(w_k; data_k)                    E local epochs of step eta, on nine tenths of the rows
             F_k <- sum over k's rows of the diagonal of the Fisher matrix at z_k
             u   <- sum_k n_k z_k / n
             u   <- u - eta_s m / (sqrt v + 0.01)       T times, with g = sum_k F_k (u - z_k),
                                                        m <- 0.9 m + g,  v <- 0.99 v + g^2
             L   <- sum_k of k's loss on its other rows, at u after every hundredth step
             w   <- the u of the lowest loss
"""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import multiply_adds, shard, trees
from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits
from fedtangent.shard import Shard
from fedtangent.tangent_steps import slices
from fedtangent.tangent_steps.step import Score, choose, countable, held_out, nothing_found, rows_of_losses, summed_loss
from fedtangent.tangents.capture.functional import each
from fedtangent.task import Task, Weights
from fedtangent.training import losses, solvers
from fedtangent.training.solvers import Batches


class State(NamedTuple):
    """w: the server's weights."""

    w: Central[Weights]


class Sums(NamedTuple):
    """What a client sends, and what is added up.

    Attributes:
        moves: n_k (z_k - w).
        fisher: F_k.
        pulls: F_k (z_k - w).
        rows: n_k.
    """

    moves: Weights
    fisher: Weights
    pulls: Weights
    rows: Tensor


def fedfisher(
    task: Task,
    *,
    steps: int = 2000,
    every: int = 100,
    server_lr: float = 0.01,
    selection: Literal["held-out", "loss"] = "held-out",
    epochs: int = 30,
    batch: int = 64,
    lr: float = 0.01,
    momentum: float = 0.9,
) -> Method:
    """FedFisher in one round, later ones do nothing. Three times the weights go up, a candidate a hundred steps down.

    The Fisher matrix is that of the model's own predictions, J^T H J with the loss's curvature H, and a sum over rows
    in place of a mean, of which the 0.01 beside sqrt v would swallow what there is. Its K-FAC form is not here, and
    neither is the compression of what goes up: `--channel` has some.

    Args:
        task: Model and loss.
        steps: T, how many the server takes.
        every: Steps between candidates; the mean of the clients is the first one.
        server_lr: eta_s, the step size of the server.
        selection: Of the candidate, by the clients' losses on `held-out` rows, a tenth of each one's, or on those that
            they have trained on (`loss`).
        epochs: E, passes over a client's data.
        batch: Rows in a local batch.
        lr: eta, the step size of the clients.
        momentum: Of the clients' SGD.
    """
    for name, value in (("steps", steps), ("every", every)):
        if value < 1:
            raise SettingError(f"`{name}` must be at least 1; got {value}. Use 2000 steps, and one in 100.")
    if not 0 < server_lr < math.inf:
        raise SettingError(f"`server_lr` must be positive and finite; got {server_lr}. Use 0.01.")
    if selection not in ("held-out", "loss"):
        raise SettingError(f"`selection` must be 'held-out' or 'loss'; got {selection!r}. Choose one of the two.")
    draw = solvers.shuffled(epochs, batch, task.augment)
    solve = solvers.sgd(task, lr=lr, momentum=momentum)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.server(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        if k > 1:
            return state, {}
        fit_k = held_k = data_k
        if selection == "held-out":
            fit_k, held_k = fleet.draw(held_out, data_k, purpose="held-out").unzip(2)
        batches_k = fleet.draw(draw, fit_k, purpose="batches")
        w_k = fleet.broadcast(state.w, "weights")
        total, refused = fleet.sum(fleet.map(train, w_k, fit_k, batches_k), "sums", lambda sums: sums.rows)
        tries = fleet.as_sent(fleet.at_server(path, state.w, total), "candidates")
        loss, _ = fleet.sum(fleet.map(scored, fleet.broadcast(tries), held_k), rows=partial(rows_of_losses, task))
        w, choice = fleet.at_server(best, state.w, tries, loss).unzip(2)
        return State(w), {"choice": choice, "refused": refused, "failed": fleet.at_server(nothing_found, choice)}

    def train(w: Weights, data: Shard, batches: Batches) -> Sums:
        z = solve(w, data, batches)
        move, own = trees.subtract(z, w), fisher(task, z, data)
        rows = data.real.sum()
        return Sums(trees.scale(move, rows), own, trees.map(torch.mul, own, move), rows)

    def path(w: Weights, total: Sums) -> Weights:
        return trees.stack([trees.add(w, u) for u in _path(total, steps, every, server_lr)])  # type: ignore[no-any-return]

    def scored(tries: Weights, data: Shard) -> tuple[Score, Tensor]:
        def total(w: Weights) -> Tensor:
            each = task.loss.per_sample(task.predict(w, data.x), data.y)
            return torch.where(data.real, each, 0).sum()

        count = len(next(iter(tries.values())))
        return countable(Score(torch.stack([total(w) for w in trees.unstack(tries, count)]), data.real.sum()))

    def best(w: Weights, tries: Weights, loss: tuple[Score, Tensor]) -> tuple[Weights, Tensor]:
        mean = summed_loss(loss)
        return choose(w, tries, mean, range(1, len(mean) + 1))

    return Method(
        "fedfisher",
        init,
        round,
        "aggregate",
        Traits(needs_all="asks every node once, in round 1"),
        messages={
            "weights": Message(("down",), lasting=True),
            "sums": Message(("up",)),
            "candidates": Message(("down",)),
        },
    )


def _path(total: Sums, steps: int, every: int, lr: float) -> list[Weights]:
    """The clients' mean move, and that after every so many steps towards what their Fisher matrices agree on."""
    sizes = [part.numel() for part in total.moves.values()]

    def flat(tree: Weights) -> Tensor:
        return torch.cat([tree[name].reshape(-1) for name in total.moves])

    def like_weights(u: Tensor) -> Weights:
        parts = zip(total.moves.items(), torch.split(u, sizes), strict=True)
        return {name: part.reshape(move.shape) for (name, move), part in parts}

    u, own, pull = flat(total.moves) / total.rows, flat(total.fisher), flat(total.pulls)
    m, v, found = torch.zeros_like(u), torch.zeros_like(u), [like_weights(u)]
    for step in multiply_adds.repeated(range(1, steps + 1)):
        g = own * u - pull
        m.mul_(0.9).add_(g)
        v.mul_(0.99).add_(g * g)
        u = u - lr * m / (v.sqrt() + 0.01)
        if step % every == 0 or step == steps:
            found.append(like_weights(u))
    return found


def fisher(task: Task, w: Weights, data: Shard) -> Weights:
    """The sum over real rows of the diagonal of J^T H J at w, like the weights: a backward pass a row and output.

    Args:
        task: Model and loss, whose second derivative is H.
        w: The weights.
        data: The rows.
    """

    def of_row(x: Any, y: Tensor) -> Weights:
        f, back, *_ = torch.func.vjp(lambda w: task.predict(w, trees.map(lambda leaf: leaf[None], x)), w)
        root = losses.curvature_root(task.loss, f, y[None])
        total: Weights | None = None
        for column in root.unbind(-1):
            square = trees.map(lambda part: part * part, back(column)[0])
            total = square if total is None else trees.add(total, square)
        assert total is not None
        return total

    def of_rows(data: Shard) -> Weights:
        found = each(of_row, data.x, data.y)
        return trees.map(lambda part: part.sum(0), shard.cleared(found, data.real))  # type: ignore[no-any-return]

    found: Weights = slices.summed(of_rows, data, 4 * trees.payload_bytes(w))
    return found
