"""What a node does alone: gradient steps over its own rows, in batches drawn beforehand."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.multiply_adds import repeated
from fedtangent.outside_vmap import true_for_all
from fedtangent.shard import Shard, at
from fedtangent.training import losses
from fedtangent.training.steps import Scaler, clipped, finite
from fedtangent.training.task import Augmentation, Task, Weights, training

Rate = Tensor | None  # a factor of the learning rate
Solver = Callable[..., Weights]  # (w, data, batches, *more) -> w; `more` is what a method's own terms take


class Batches(NamedTuple):
    """The rows of every step, drawn beforehand.

    Attributes:
        rows: Row numbers from 1, (steps, batch); 0, with which an engine pads too, stands for no row.
        real: Which steps are real, (steps,) as bool.
        changes: What an augmentation has drawn for them, a tree of tensors (steps, batch, ...).
        keys: What dropout's masks hang on, (steps,) as int64; without them a model with dropout cannot be trained.
        rounds: The round that the steps are of, (steps,) as int64; without it no learning rate can go by the round.
    """

    rows: Tensor
    real: Tensor
    changes: Any = ()
    keys: Any = ()
    rounds: Any = ()


@dataclass(frozen=True)
class Draw:
    """A function (rng, data) -> Batches; a fleet draws with that `of_round`, which tells them their round."""

    fn: Callable[[np.random.Generator, Shard], Batches]

    def __call__(self, rng: np.random.Generator, data: Shard) -> Batches:
        """Batches that know of no round."""
        return self.fn(rng, data)

    def of_round(self, k: int) -> Callable[[np.random.Generator, Shard], Batches]:
        """The same of round k."""

        def draw(rng: np.random.Generator, data: Shard) -> Batches:
            drawn = self.fn(rng, data)
            return drawn._replace(rounds=torch.full((len(drawn.real),), k))

        return draw


def shuffled(epochs: int, batch: int, augment: Augmentation | None = None) -> Draw:
    """A draw of `epochs` passes over a shard in random order, in batches of `batch` rows, the last one as it falls.

    A shard of fewer rows is one batch.

    Args:
        epochs: Passes.
        batch: Rows of a step.
        augment: Of the task that the steps are for.
    """
    if epochs < 1:
        raise SettingError(f"`epochs` must be at least 1; got {epochs}. Give a positive number.")
    if batch < 1:
        raise SettingError(f"`batch` must be at least 1; got {batch}. Give a positive number of rows.")

    def draw(rng: np.random.Generator, data: Shard) -> Batches:
        rows = len(data.real)
        wide = min(batch, rows)
        per_epoch = -(-rows // wide)
        index = np.zeros((epochs, per_epoch * wide), dtype=np.int64)
        for epoch in index:
            epoch[:rows] = 1 + rng.permutation(rows)
        steps = torch.from_numpy(index.reshape(epochs * per_epoch, wide))
        changes: Any = ()
        if augment is not None:
            changes = trees.map(lambda part: part.unflatten(0, steps.shape), augment.draw(rng, steps.numel()))
        return Batches(steps, torch.ones(len(steps), dtype=torch.bool), changes, _keys(rng, len(steps)))

    return Draw(draw)


def drawn(epochs: int, batch: int, augment: Augmentation | None = None) -> Draw:
    """A draw of what `shuffled` draws; with 0 epochs of one batch alone, for methods of a gradient a round."""
    if epochs < 0:
        raise SettingError(f"`epochs` must not be negative; got {epochs}. Use 0 for a gradient of one batch.")
    draw = shuffled(max(epochs, 1), batch, augment)
    if epochs:
        return draw
    return Draw(lambda rng, data: Batches(*trees.map(lambda part: part[:1], tuple(draw(rng, data)))))


def full_batch(steps: int) -> Draw:
    """`steps` steps on all rows, whose order is kept: nothing is drawn but the keys."""
    if steps < 1:
        raise SettingError(f"`steps` must be at least 1; got {steps}. Give a positive number.")

    def draw(rng: np.random.Generator, data: Shard) -> Batches:
        rows = torch.arange(1, len(data.real) + 1).expand(steps, -1)
        return Batches(rows, torch.ones(steps, dtype=torch.bool), keys=_keys(rng, steps))

    return Draw(draw)


def _keys(rng: np.random.Generator, steps: int) -> Tensor:
    """Drawn after all else, and always: no batch hangs on whether the model has dropout."""
    raw = rng.bit_generator.random_raw(steps)  # rng.integers of all of int64, and thrice as fast
    return torch.from_numpy((raw ^ np.uint64(2**63)).view(np.int64))


def sgd(
    task: Task,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    pull: Callable[..., Weights] | None = None,
    objective: Callable[..., Tensor] | None = None,
    ahead: Callable[[Weights, Weights], Weights] | None = None,
    precondition: Callable[..., Weights] | None = None,
) -> Solver:
    """A function (w, data, batches, *more) -> w after the steps: v <- momentum v + g + weight_decay w; w <- w - lr v.

    The velocity starts at zero. A step that is padding moves neither weights nor velocity.

    Args:
        task: Model and loss.
        lr: Step size.
        momentum: Of the velocity.
        weight_decay: Times the weights, added to the gradient.
        pull: (w, *more) -> what a method adds to the gradient.
        objective: (w, x, y, *more) -> the loss of every row, in place of the task's.
        ahead: (w, g) -> the weights at which the gradient is taken once more, on the same batch, and used.
        precondition: (g, *more) -> the gradient that is used, before anything is added to it.
    """
    _check_lr(lr)
    if not 0 <= momentum < 1:
        raise SettingError(f"`momentum` must be in [0, 1); got {momentum}. Use 0.9, or 0 for none.")
    if not weight_decay >= 0:
        raise SettingError(f"`weight_decay` must not be negative; got {weight_decay}. Use 0 for none.")

    def step(w: Weights, g: Weights, v: Weights, own: bool, rate: Rate) -> tuple[Weights, Weights]:
        if weight_decay:
            g = trees.add_scaled(g, w, weight_decay)
        v_new = trees.add_scaled(g, v, momentum) if momentum else g
        if rate is not None:
            return trees.map(lambda w, v: w - (lr * rate).to(w.dtype) * v, w, v_new), v_new if momentum else v
        move = Tensor.add_ if own else torch.add  # one pass over the weights, as torch.optim.SGD makes
        return trees.map(lambda w, v: move(w, v, alpha=-lr), w, v_new), v_new if momentum else v

    return _solver(task, lambda w: trees.zeros_like(w), step, pull, objective, ahead, precondition)


def adam(
    task: Task,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    pull: Callable[..., Weights] | None = None,
    objective: Callable[..., Tensor] | None = None,
) -> Solver:
    """A function (w, data, batches, *more) -> w after Adam's steps (Kingma and Ba, ICLR 2015), biases corrected.

    Moments and the count of steps start at zero. A step that is padding moves none of them, nor the weights.

    Args:
        task: Model and loss.
        lr: Step size.
        betas: Decay of the first and of the second moment.
        eps: Added to the root of the second moment.
        pull: As in `sgd`.
        objective: As in `sgd`.
    """
    _check_lr(lr)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise SettingError(f"`betas` must be two numbers in [0, 1); got {betas}. Use 0.9 and 0.999.")
    if not eps > 0:
        raise SettingError(f"`eps` must be positive; got {eps}. Use 1e-8.")

    def start(w: Weights) -> tuple[Weights, Weights, Tensor]:
        # float64: 1 - 0.999 has few digits in float32
        count = torch.zeros((), dtype=torch.float64, device=next(iter(w.values())).device)
        return trees.zeros_like(w), trees.zeros_like(w), count

    def step(
        w: Weights, g: Weights, moments: tuple[Weights, Weights, Tensor], own: bool, factor: Rate
    ) -> tuple[Weights, tuple[Weights, Weights, Tensor]]:
        m, v, count = moments
        count = count + 1
        m = trees.map(lambda m, g: m + (1 - betas[0]) * (g - m), m, g)
        v = trees.map(lambda v, g: betas[1] * v + (1 - betas[1]) * g * g, v, g)
        rate, root = lr / (1 - betas[0] ** count), (1 - betas[1] ** count).sqrt()
        rate = rate if factor is None else rate * factor

        def moved(w: Tensor, m: Tensor, v: Tensor) -> Tensor:
            return w - rate.to(w.dtype) * m / (v.sqrt() / root.to(w.dtype) + eps)

        return trees.map(moved, w, m, v), (m, v, count)

    return _solver(task, start, step, pull, objective)


def local(
    task: Task,
    optimizer: str,
    *,
    lr: float,
    momentum: float = 0.0,
    pull: Callable[..., Weights] | None = None,
    objective: Callable[..., Tensor] | None = None,
) -> Solver:
    """The solver of a method whose clients may choose theirs: `sgd`, or `adam` with its usual moments."""
    if optimizer not in ("sgd", "adam"):
        raise SettingError(f"`optimizer` must be 'sgd' or 'adam'; got {optimizer!r}. Choose one of the two.")
    if optimizer == "sgd":
        return sgd(task, lr=lr, momentum=momentum, pull=pull, objective=objective)
    if momentum:
        raise SettingError(f"`momentum` must be 0 with adam, which has its own; got {momentum}. Drop it, or use sgd.")
    return adam(task, lr=lr, pull=pull, objective=objective)


def _check_lr(lr: float) -> None:
    if not 0 < lr < math.inf:
        raise SettingError(f"`lr` must be positive and finite; got {lr}. Give a learning rate such as 0.1.")


def _solver(
    task: Task,
    start: Callable[[Weights], Any],
    step: Callable[[Weights, Weights, Any, bool, Rate], tuple[Weights, Any]],
    pull: Callable[..., Weights] | None,
    objective: Callable[..., Tensor] | None,
    ahead: Callable[[Weights, Weights], Weights] | None = None,
    precondition: Callable[..., Weights] | None = None,
) -> Solver:
    """The loop over steps: step(w, g, memory, own, factor) -> (w, memory), whose memory begins as start(w).

    The factor is that of the learning rate, None for 1. The loss's gradient is clipped before a method's own terms are
    added, so that SCAFFOLD's control variates stay means of clipped gradients; weight decay comes last. If `own`, w was
    made by the loop and is not needed afterwards: the step may update it in place.
    """
    draws, how = task.draws, task.steps
    task.cache["steps"] = True  # which `check_compatible` asks for
    precision = nullcontext if how.amp is None else partial(_autocast, how.amp)

    def loss(w: Weights, x: Any, y: Tensor, real: Tensor, whole: bool, key: Tensor | None, *more: Any) -> Tensor:
        with training(None if whole else real, key), precision(y.device):
            if objective is None:
                each = task.loss.per_sample(task.predict(w, x).to(next(iter(w.values())).dtype), y)
            else:
                each = objective(w, x, y, *more)
        return torch.where(real, each, 0).sum() / real.sum().clamp(min=1)

    def gradient(w: Weights, scale: Tensor | None, *batch: Any) -> Weights:
        # torch.func.grad would keep a backward pass that can be differentiated: a fifth of a ResNet's time
        value, backward, *_ = torch.func.vjp(lambda w: loss(w, *batch), w)
        with torch.no_grad():
            if scale is None:
                return backward(torch.ones_like(value))[0]  # type: ignore[no-any-return]
            return trees.map(lambda g: g / scale, backward(scale.to(value.dtype))[0])  # type: ignore[no-any-return]

    def terms(g: Weights, w: Weights, *more: Any) -> Weights:
        if how.clip is not None:
            g = clipped(g, how.clip)
        if precondition is not None:
            g = precondition(g, *more)
        if pull is not None:
            g = trees.add(g, pull(w, *more))
        return trees.add_scaled(g, w, how.weight_decay) if how.weight_decay else g

    def solve(w: Weights, data: Shard, batches: Batches, *more: Any) -> Weights:
        memory, first, scaler = start(w), w, Scaler.start(data.y.device) if how.amp == "float16" else None
        _check_batches(task, batches, draws)
        steps = zip(
            batches.rows,
            batches.real,
            true_for_all(batches.real),
            true_for_all((batches.rows > 0).all(1)),
            trees.unstack(batches.changes, len(batches.real)),
            batches.keys if draws else [None] * len(batches.real),
            [None] * len(batches.real) if (rates := factors_of(task, batches)) is None else rates,
            strict=True,
        )
        for index, real, everywhere, whole, change, key, rate in repeated(steps):
            rows = (index - 1).clamp(min=0)
            x = at(data.x, rows)
            if task.augment is not None:
                x = task.augment.apply(x, change)
            scale = None if scaler is None else scaler.scale
            given = (scale, x, data.y[rows], index > 0, whole, key, *more)
            g = gradient(w, *given)
            if ahead is not None:
                g = gradient(ahead(w, g), *given)
            own = everywhere and w is not first and scaler is None
            w_new, memory_new = step(w, terms(g, w, *more), memory, own, rate)
            if scaler is not None:  # as torch.amp.GradScaler, it passes over a step that is not finite
                fine = finite(g)
                scaler = trees.where(real, scaler.after(fine), scaler)
                real, everywhere = real & fine, False
            w = w_new if everywhere else trees.where(real, w_new, w)
            kept = everywhere or memory_new is memory
            memory = memory_new if kept else trees.where(real, memory_new, memory)
        return w

    return solve


def factors_of(task: Task, batches: Batches) -> Rate:
    """The factor of the learning rate at every step, (steps,) in float64; None where it is 1 throughout."""
    return None if task.steps.rates is None else task.steps.rates.at(batches.rounds)


def travelled(task: Task, batches: Batches) -> Tensor:
    """How many steps of the full learning rate the real steps are worth."""
    rates = factors_of(task, batches)
    return batches.real.sum() if rates is None else torch.where(batches.real, rates, 0.0).sum()


def _autocast(amp: str, device: torch.device) -> torch.autocast:
    # without its cache, which would keep casts of one step's weights under torch.func
    return torch.autocast(device.type, getattr(torch, amp), cache_enabled=False)


def _check_batches(task: Task, batches: Batches, draws: bool) -> None:
    """Raises where something was not drawn that the task's steps need."""
    if task.augment is not None and batches.changes == ():
        raise SettingError(
            "`batches` must hold what the task's augmentation has drawn; got none of it. Use "
            "shuffled(epochs, batch, task.augment), or a task without augmentation."
        )
    if draws and batches.keys == ():
        raise SettingError(
            "`batches` must hold the keys of the model's dropout; got none. Use shuffled(epochs, batch), or call "
            "model.eval()."
        )
    if task.steps.rates is not None and batches.rounds == ():
        raise SettingError(
            "`batches` must hold the round that they are of, by which the learning rate goes; got none. Draw them by a "
            "fleet, or with shuffled(epochs, batch).of_round(k)."
        )


def mean_loss(task: Task, w: Weights, data: Shard) -> Tensor:
    """The mean loss over a shard's real rows; +inf where it is not finite."""
    return losses.mean(task.loss, task.predict(w, data.x), data.y, data.real)
