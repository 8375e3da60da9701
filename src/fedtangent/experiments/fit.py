"""Fit: a model and its loss, tried on a few rows of the data before a run; what cannot be is one sentence."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent import forward, passes, trees
from fedtangent.errors import SettingError
from fedtangent.experiments.build import shape, short
from fedtangent.module_state import borrowed
from fedtangent.shard import Dataset, at, channels_last, count
from fedtangent.tangents.capture import remembered
from fedtangent.training import dropout
from fedtangent.training.losses import Loss
from fedtangent.training.task import Task, Weights, training

ROWS = 4  # that are passed through the model
MOST = 16  # classes that the loss is tried on, two rows each; rows of a regression


def check_fit(task: Task, dataset: Dataset) -> None:
    """Raises where the model does not take the inputs, treats no row on its own, or the loss does not suit its outputs.

    Some twelve forward passes of four training rows, and one of the rows with the largest and smallest whole numbers.

    Args:
        task: On its device, in its type.
        dataset: Checked.

    Raises:
        TypeError: A model that returns no tensor.
        ValueError: All else.
    """
    passes.check_mode()
    like = next(iter(task.w_0.values()))

    def placed(tree: Any) -> Any:
        return trees.to(tree, like.device, like.dtype)

    rows = torch.arange(ROWS) * count(dataset.x_train) // ROWS
    x, w = placed(at(dataset.x_train, rows)), passes.nudged(task.w_0)
    passes.check_writes(task.model, partial(_trained, task), w, x)
    f = _outputs(task, x, dataset.classes)
    for what, inputs in (("training", dataset.x_train), ("test", dataset.x_test)):
        extremes = _extremes(inputs)
        if extremes:
            _check_extremes(task, placed(at(inputs, extremes)), f"{what} rows {extremes}")
    passes.check_chance(task.model, lambda: task.predict(w, x))
    passes.check_rows(task.model, lambda x: task.predict(w, x), x)
    if any(part.training for part in task.model.modules()):
        _check_training(task, w, x, tuple(f.shape))
    y = placed(dataset.y_train[_examples(dataset)])
    _check_loss(task.loss, f[torch.arange(len(y)) % ROWS], y)


def check_own(model: nn.Module, task: Task, x: Any) -> None:
    """Raises where the task's copy of a model computes with what is the model's own, and is not trained.

    That are parameters which a function holds, and tensors kept from an earlier pass.
    """
    if name := borrowed(model, lambda: task.predict(task.w_0, x)):
        raise SettingError(
            f"`model` must reach its layers as its attributes; got {name!r} used by a hook or a function that holds "
            "the layer itself, and so is not copied with it. Write it as a method of the module."
        )
    remembered.check(remembered.kept(model, task.w_0), task.w_0, lambda w: task.predict(w, x))


def _takes_whole_numbers(task: Task, x: Tensor) -> bool:
    """Whether the model runs on these as integers, which a data set of one tensor does not keep."""
    try:
        task.predict(task.w_0, x.long())
    except Exception:
        return False
    return True


def _outputs(task: Task, x: Any, classes: int) -> Tensor:
    """Those of a few rows, which are floats (rows, outputs)."""
    try:
        f = task.predict(task.w_0, x).detach()
    except forward.NoOutputs:
        raise
    except Exception as error:
        remedy = "Fit its first layer to the data."
        if isinstance(x, Tensor) and channels_last(x.shape[1:]):
            remedy = "Transpose the images with (0, 3, 1, 2)."
        elif isinstance(x, Tensor) and _takes_whole_numbers(task, x):
            remedy = "It takes whole numbers: give them as a tuple, (x,), or let it begin with x.long()."
        raise SettingError(f"`model` must take inputs of shape {shape(x)}; got {short(error)}. {remedy}") from error
    if f.ndim != 2 or len(f) != count(x) or f.shape[1] < max(classes, 1):
        raise SettingError(
            f"`model` must give outputs of shape (rows, {classes or 'outputs'}), {count(x)} rows here; got "
            f"{tuple(f.shape)}. Fit its last layer to the data."
        )
    if not f.is_floating_point() or not bool(f.isfinite().all()):
        got = "NaN or infinity" if f.is_floating_point() else str(f.dtype)
        raise SettingError(
            f"`model` must give finite real numbers; got {got}. Look at its first weights and the inputs."
        )
    return f


def _extremes(x: Any) -> list[int]:
    """The rows with the largest and the smallest whole number of every tensor of those: tokens, or places."""
    found = []
    for leaf in trees.leaves(x):
        if not leaf.numel() or leaf.is_complex() or leaf.dtype == torch.bool:
            continue
        if bool((leaf[:ROWS] == leaf[:ROWS].round()).all()):
            by_row = leaf.reshape(len(leaf), -1)
            found += [int(by_row.amax(1).argmax()), int(by_row.amin(1).argmin())]
    return sorted({*found})


def _check_extremes(task: Task, x: Any, what: str) -> None:
    try:
        task.predict(task.w_0, x)
    except Exception as error:
        raise SettingError(
            f"`model` must take the largest and the smallest number of the data; got {short(error)} for {what}. Give "
            "it more tokens, or look at these rows."
        ) from error


def _check_training(task: Task, w: Weights, x: Any, outputs: tuple[int, ...]) -> None:
    """Raises where a model in train mode gives no such outputs, or draws numbers other than those of its dropout."""
    trained = partial(_trained, task, w)
    try:
        got = str(tuple(trained(x).shape))
    except forward.NoOutputs:
        got = "another kind of result"
    except Exception as error:
        got = short(error)
    if got != str(outputs):
        raise SettingError(
            f"`model` must give the outputs of eval mode, {outputs}, in train mode too; got {got}. Call model.eval(), "
            "or build it without auxiliary outputs."
        )
    passes.check_chance(task.model, partial(trained, x))
    if not task.draws:  # a row's dropout goes by its place in the batch

        def by_statistics(x: Any) -> Tensor:
            with torch.no_grad(), dropout.keyed(_key(w)):  # in no batch, whose rows batch norm would mix
                return task.predict(w, x)

        passes.check_rows(task.model, by_statistics, x)


def _trained(task: Task, w: Weights, x: Any) -> Tensor:
    """Outputs as in a training step."""
    with torch.no_grad(), training(None, _key(w)):
        return task.predict(w, x)


def _key(w: Weights) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=next(iter(w.values())).device)


def _examples(dataset: Dataset) -> list[int]:
    """Training rows to try a loss on: two of each of some classes, or some at all."""
    y = dataset.y_train
    if not dataset.classes:
        return list(range(min(len(y), MOST)))
    found: list[int] = []
    for label in y.unique()[:MOST]:  # type: ignore[no-untyped-call]
        its = (y == label).nonzero()[:2, 0].tolist()
        found += [its[0], its[-1]]
    return found


def _check_loss(loss: Loss, f: Tensor, y: Tensor) -> None:
    """Raises where a loss does not take these outputs and labels or targets, or mixes rows."""
    if loss.outputs not in (None, f.shape[1]):
        raise SettingError(
            f"`model` must give the {loss.outputs} outputs that the loss states; got {f.shape[1]}. Fit its last layer."
        )
    if loss.outputs is None and y.is_floating_point() and f.shape != y.shape:
        raise SettingError(
            f"`model` must give as many outputs as the targets have, {y.shape[1]}; got {f.shape[1]}. Fit its last "
            "layer, or state a loss of another width by losses.custom(fn, outputs=...)."
        )
    try:
        each = loss.per_sample(f, y)
    except Exception as error:
        if str(error).startswith("`loss` must"):
            raise
        raise SettingError(
            f"`loss` must take outputs {tuple(f.shape)} and labels or targets {tuple(y.shape)}; got "
            f"{short(error)}. Fit the last layer or the loss."
        ) from error
    if each.shape != (len(y),):
        raise SettingError(
            f"`loss` must give one number a row; got shape {tuple(each.shape)}. Reduce over the outputs."
        )
    with torch.enable_grad():
        if not loss.per_sample(f.detach().requires_grad_(), y).requires_grad:
            raise SettingError(
                "`loss` must have a derivative by the outputs; got none. Leave out detach, argmax and comparisons."
            )
    for part in _parts(y):
        some = loss.per_sample(f[part], y[part])
        if not torch.allclose(some, each[part], rtol=1e-3, atol=1e-6, equal_nan=True):
            raise SettingError(
                "`loss` must give every row a number of its own; got others in another batch. Sum over no rows."
            )


def _parts(y: Tensor) -> list[Sequence[int]]:
    """Rows to take apart: a half, one row, and those of some classes alone."""
    found: list[Sequence[int]] = [range(0, len(y), 2), [0]]
    if not y.is_floating_point():
        found += [(y == label).nonzero()[:, 0].tolist() for label in y.unique()[:4]]  # type: ignore[no-untyped-call]
    return found
