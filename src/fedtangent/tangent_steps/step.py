"""The tangent step: rows linearised at w, candidates at several times, and the choice among them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import shard, trees
from fedtangent.errors import SettingError
from fedtangent.shard import Shard, at
from fedtangent.tangent_steps import anew, explicit, of_task, room, slices
from fedtangent.tangents.capture.factors import Factors, factors
from fedtangent.tangents.capture.functional import Weights, each, one_by_one, plain
from fedtangent.tangents.capture.kernel_operator import kernel_of_factors, pullback, pushforward
from fedtangent.tangents.capture.layers import AnyCall, Sums
from fedtangent.tangents.numerics import dynamics
from fedtangent.tangents.numerics.integrate import PRODUCTS
from fedtangent.training import losses
from fedtangent.training.task import Task

# How far outputs may be from those of their Jacobian, in float32.
_ROUNDED = 1e-3


class Rows(NamedTuple):
    """A node's rows, linearised at given weights: what the owner of a kernel needs of them.

    Attributes:
        f: The network's outputs, (N, C).
        y: Labels (N,) or targets (N, C).
        factors: Of the Jacobian; for a step also that itself, a tensor (N, C, ...) for every parameter, as `explicit`
            gives it. None where they would not fit: they are found anew from the inputs, which tell the same.
        like: The shape of a row of inputs, in no bytes, (N, 0, ...); the inputs (N, ...) where there are no factors.
        real: Which rows are real and form the kernel, (N,).
    """

    f: Tensor
    y: Tensor
    factors: Factors
    like: Any
    real: Tensor


class Score(NamedTuple):
    """The losses of T candidates on one owner's rows. total: their sums (T,). rows: how many rows, a scalar."""

    total: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Step:
    """What a tangent step does.

    Args:
        kernel: `trace`, the papers', or `full`, the exact dynamics of the linearised network.
        clock: `flow`, the papers' gradient flow, or `descent`, explicit steps of length lr.
        times: Increasing numbers of steps at which candidates are taken.
        lr: Length of a step; only lr times a time matters to the flow.
        lr_decay: lr shrinks by exp(-lr_decay) every round.
        selection: By the candidates' true `loss`, the `linearised` network's, or the true loss on `held-out` rows.
    """

    kernel: Literal["trace", "full"] = "trace"
    clock: Literal["flow", "descent"] = "flow"
    times: tuple[int, ...] = (100, 200, 300, 400, 500, 600, 700, 800)
    lr: float = 0.01
    lr_decay: float = 0.0
    selection: Literal["loss", "linearised", "held-out"] = "loss"

    def __post_init__(self) -> None:
        """Checks what a user may get wrong."""
        if self.kernel not in ("trace", "full"):
            raise SettingError(f"`kernel` must be 'trace' or 'full'; got {self.kernel!r}. Choose one of the two.")
        if self.clock not in ("flow", "descent"):
            raise SettingError(f"`clock` must be 'flow' or 'descent'; got {self.clock!r}. Choose one of the two.")
        if not self.times or not all(a < b for a, b in zip([0, *self.times], self.times, strict=False)):
            raise SettingError(f"`times` must be positive and increasing; got {list(self.times)}. Sort them.")
        if self.selection not in ("loss", "linearised", "held-out"):
            raise SettingError(
                f"`selection` must be 'loss', 'linearised' or 'held-out'; got {self.selection!r}. Choose one of them."
            )
        most = PRODUCTS if self.clock == "descent" else 2**63 - 1
        if self.times[-1] > most:
            raise SettingError(
                f"`times` must be at most {most:,} under clock {self.clock!r}; got {self.times[-1]}. Take fewer steps."
            )
        if not 0 < self.lr < math.inf:
            raise SettingError(f"`lr` must be positive and finite; got {self.lr}. Give a learning rate such as 0.01.")
        if math.isinf(self.lr * self.times[-1]):
            raise SettingError(f"`lr` times the last of `times` must be finite; got lr {self.lr}. Lower it.")
        if not 0 <= self.lr_decay < math.inf:
            raise SettingError(f"`lr_decay` must not be negative, nor infinite; got {self.lr_decay}. Use 0 for none.")

    def candidates(self, task: Task, w: Weights, rows: Rows, lr: float) -> tuple[Weights, Tensor]:
        """w - J^T alpha_t at every time, with a leading axis T; and the linearised network's mean loss there, (T,).

        The latter only where it selects; zeros otherwise.
        """
        rows = cleared(task, w, rows)
        kernel, pull, push = self._around(task, w, rows)
        if self.clock == "flow":
            s = [lr * time for time in self.times]
            alpha = dynamics.flow(kernel, rows.f, rows.y, rows.real, task.loss, s)
        else:
            alpha = dynamics.descent(kernel, rows.f, rows.y, rows.real, task.loss, lr, self.times)
        move = pull(alpha)
        tries = trees.map(lambda start, by: start - by, w, move)
        if self.selection != "linearised":
            return tries, rows.f.new_zeros(len(self.times))
        f = rows.f - push(move)
        each = torch.func.vmap(lambda f: task.loss.per_sample(f, rows.y))(f)
        return tries, torch.where(rows.real, each, 0).sum(1) / rows.real.sum()

    def _around(self, task: Task, w: Weights, rows: Rows) -> tuple[Any, Any, Any]:
        """The kernel at w, alpha -> J^T alpha, and v -> J v."""
        if not rows.factors:
            x = shard.repeated(rows.like, rows.real)
            return anew.kernel_of_inputs(task, self.kernel, w, x, rows.real), *jacobian(task, w, rows)
        j: Any = rows.factors
        if all(isinstance(part, Tensor) for part in j.values()):
            return (
                explicit.kernel_of_jacobian(self.kernel, j),
                partial(explicit.pullback, j),
                partial(explicit.pushforward, j),
            )
        found = of_task.uses(task, w, of_task.first(task, rows.like))
        return kernel_of_factors(self.kernel, found, j, w), *jacobian(task, w, rows)

    def node_bytes(self, task: Task) -> Any:
        """(rows, degree) -> about the peak memory of a step: a neighbourhood's factors and kernel, candidates."""
        return room.step_bytes(task, self.kernel, len(self.times))

    def rate(self, k: int) -> float:
        """lr in round k, from 1."""
        found = float(self.lr * torch.exp(torch.tensor(-self.lr_decay * (k - 1), dtype=torch.float64)))
        if not found:
            raise SettingError(
                f"`lr_decay` must leave a positive lr; got {self.lr_decay}, and 0 in round {k}. Lower it."
            )
        return found


def linearised_rows(task: Task, w: Weights, data: Shard, *, whole: bool = False) -> Rows:
    """f(x; w), the labels and the factors of the Jacobian on a node's rows.

    Factors of more than 64 KiB a row are left out, and the inputs stand for them, unless `whole`.
    """
    uses = of_task.uses(task, w, data.x)
    if not whole and anew.needed(uses, w):
        return Rows(anew.outputs(task, w, data.x), data.y, {}, data.x, data.real)
    f, found = factors(of_task.function(task), w, of_task.samples(data.x), uses)
    like = trees.map(lambda leaf: leaf.new_empty(len(leaf), 0, *leaf.shape[1:]), data.x)
    return Rows(f, data.y, found, like, data.real)


def cleared(task: Task, w: Weights, rows: Rows) -> Rows:
    """The rows with sensitivities of 0 in padded ones, and with inputs that have slopes there: 1 / x has none at 0."""
    factors = shard.cleared(rows.factors, rows.real)
    if factors is not rows.factors and not any(isinstance(part, Tensor) for part in factors.values()):
        found = of_task.uses(task, w, of_task.first(task, rows.like)) if factors else None
        curved = [] if found is None else [key for key in factors if isinstance(found.by_name[key], (Sums, AnyCall))]
        factors |= {key: factors[key]._replace(a=shard.repeated(rows.factors[key].a, rows.real)) for key in curved}
    return rows._replace(factors=factors)


def plausible(task: Task, w: Weights, rows: Rows) -> Rows:
    """The rows, those no longer real whose outputs are not what their own Jacobian, or inputs, give at the weights.

    Outputs are linear in the last linear map's weights: J along these is f. A forgery must get this right; false labels
    or inputs do. Costs N times the last map's weights.
    """
    if not rows.factors:
        told = anew.outputs(task, w, rows.like)
    else:
        found = of_task.uses(task, w, of_task.first(task, rows.like))
        if found.last is None:
            return rows
        names = found.by_name[found.last].call.names
        along = {name: (part if name in names else torch.zeros_like(part))[None] for name, part in w.items()}
        told = pushforward(found, rows.factors, w, along)[0]
    off, size = (told - rows.f).abs().amax(1), rows.f.abs().amax(1)
    return rows._replace(real=rows.real & (off <= _ROUNDED * (1 + size)))


def jacobian(task: Task, w: Weights, rows: Rows) -> tuple[Callable[[Tensor], Weights], Callable[[Weights], Tensor]]:
    """alpha (T, n, C) -> J^T alpha, and v -> J v (T, n, C), from the rows' factors or from passes through the model."""
    if not rows.factors:
        x = shard.repeated(rows.like, rows.real)
        how = anew.how(task, "full", w, x)
        return partial(anew.pullback, how, w, x), partial(anew.pushforward, how, w, x)
    found = of_task.uses(task, w, of_task.first(task, rows.like))
    return partial(pullback, found, rows.factors, w), partial(pushforward, found, rows.factors, w)


def rows_to_send(task: Task, exchange: str, coded: bool) -> Callable[[Weights, Shard], Rows]:
    """`linearised_rows`; with all that channels change, where they do: Jacobians `written_out`, or the factors."""
    if coded and exchange == "jacobian":
        return partial(written_out, task)
    return partial(linearised_rows, task, whole=coded)


def written_out(task: Task, w: Weights, data: Shard) -> Rows:
    """`linearised_rows` with the Jacobian itself in place of its factors, for messages whose entries are changed."""
    rows = linearised_rows(task, w, data, whole=True)
    j: Any = explicit.explicit(of_task.uses(task, w, data.x), rows.factors, w, len(data.y))
    return rows._replace(factors=j)


def coded_bytes(task: Task, exchange: str, plain: Callable[[int, int], int]) -> Callable[[int, int], int] | None:
    """(rows, degree) -> the peak memory where Jacobians are `written_out`; None where factors are what is sent."""
    if exchange != "jacobian":
        return None
    *_, last = task.w_0.values()  # its length is the number of outputs
    number, jacobian = last.element_size(), len(last) * task.size
    return lambda rows, degree: plain(rows, degree) + 8 * number * min(explicit.LARGEST, rows * jacobian) * (degree + 1)


def score(task: Task, tries: Weights, data: Shard) -> Score:
    """The true network's loss of every candidate, summed over a node's rows."""
    count, first = len(trees.leaves(tries)[0]), trees.map(lambda part: part[0], tries)
    found = of_task.uses(task, first, data.x)
    apply = each if slices.together(found) else one_by_one

    def one(data: Shard) -> Score:
        def total(w: Weights) -> Tensor:
            f = task.predict(w, data.x) if found.chain is None else found.chain.run(w, data.x)[0]
            return torch.where(data.real, task.loss.per_sample(f, data.y), 0).sum()

        with plain():
            return Score(apply(total, tries), data.real.sum())

    return slices.summed(one, data, slices.of_losses(found, first, count))  # type: ignore[no-any-return]


def countable(found: Score) -> tuple[Score, Tensor]:
    """The losses that are finite, and (T,) the rows of those that are not: a sum over owners stays finite."""
    fine = torch.isfinite(found.total)
    return found._replace(total=torch.where(fine, found.total, 0)), torch.where(fine, 0, found.rows)


def rows_of_losses(task: Task, found: tuple[Score, Tensor]) -> Tensor:
    """How many rows a `countable` score is of; 0 where one is negative of a loss that never is."""
    if task.loss.name not in losses.NAMES:
        return found[0].rows
    return torch.where((found[0].total >= 0).all(), found[0].rows, 0)


def summed_loss(found: tuple[Score, Tensor]) -> Tensor:
    """The mean loss (T,) from a sum of `countable` scores; inf where it is not finite on more rows than at best."""
    (total, rows), failed = found
    return torch.where((failed > failed.min()) | (failed >= rows), torch.inf, total / (rows - failed))


def whole_loss(found: tuple[Score, Tensor]) -> Tensor:
    """The mean loss (T,) from a sum of `countable` scores; inf where it is not finite on any of the rows."""
    (total, rows), failed = found
    return torch.where(failed > 0, torch.inf, total / rows)


def held_out(rng: np.random.Generator, data: Shard) -> tuple[Shard, Shard]:
    """A node's rows without a tenth of them, and that tenth; a single row is not split."""
    rows = len(data.y)
    order = torch.from_numpy(rng.permutation(rows)).to(data.y.device)
    held = min(max(rows // 10, 1), rows - 1)
    return at(data, order[held:]), at(data, order[:held])


def some(share: float) -> Callable[[np.random.Generator, Shard], Shard]:
    """Draws a share of a node's rows, one at least where there are any, and keeps their order."""
    if not 0 < share <= 1:
        raise SettingError(f"`subsample` must be in (0, 1]; got {share}. Use 1 for all rows.")

    def draw(rng: np.random.Generator, data: Shard) -> Shard:
        rows = len(data.y)
        count = min(max(int(share * rows + 1e-9), 1), rows)  # 0.29 of 100 is 28.99...
        kept = torch.from_numpy(np.sort(rng.choice(rows, count, replace=False))).to(data.y.device)
        return at(data, kept)  # type: ignore[no-any-return]

    return draw


def choose(w: Weights, tries: Weights, loss: Tensor, times: Sequence[int]) -> tuple[Weights, Tensor]:
    """The candidate of the lowest loss, and its time; `w` and 0 where no loss is finite.

    The first within 1e-6 relative of the lowest wins, so that rounding does not choose.
    """
    loss = torch.where(torch.isfinite(loss), loss, torch.inf)
    lowest = loss.min()
    first = (loss <= lowest + 1e-6 * lowest.abs()).to(torch.int8).argmax()
    found = torch.isfinite(lowest)
    clock = torch.as_tensor(times, device=loss.device)
    chosen = trees.map(lambda part: part.index_select(0, first[None])[0], tries)
    return trees.where(found, chosen, w), torch.where(found, clock.index_select(0, first[None])[0], 0)


def nothing_found(time: Tensor) -> Tensor:
    """Whether no candidate was finite, by the time that `choose` gave."""
    return time == 0


def jacobian_bytes(task: Task, rows: Rows) -> int:
    """What the papers' message weighs: the rows' Jacobians, outputs and one-hot labels, n C (P + 2) numbers."""
    return rows.f.numel() * (task.size + 2) * rows.f.element_size()


def bill(task: Task, exchange: str) -> Any:
    """The byte count of a message of `Rows`: of the papers' Jacobians, or of the factors that are computed with."""
    if exchange == "jacobian":
        return lambda rows: jacobian_bytes(task, rows)
    if exchange != "factors":
        raise SettingError(f"`exchange` must be 'jacobian' or 'factors'; got {exchange!r}. Choose one of the two.")
    return partial(factor_bytes, task)


def factor_bytes(task: Task, rows: Rows) -> int:
    """What the rows' factors, outputs and labels weigh."""
    if rows.factors:
        return trees.payload_bytes(rows)
    return trees.payload_bytes((rows.f, rows.y)) + anew.message_bytes(task, rows.like)
