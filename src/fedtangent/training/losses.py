"""Losses as pairs: the value of every sample, and its derivative by the network's outputs."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError, SettingTypeError


class Loss(NamedTuple):
    """A loss, as the mean over samples of `per_sample`.

    Attributes:
        name: For the record.
        per_sample: (f (..., rows, outputs), y) -> the loss of every row (..., rows).
        residual: (f, y) -> d per_sample / d f, (..., rows, outputs).
        curvature: An upper bound of the largest eigenvalue of d^2 per_sample / d f^2, for a given number of outputs;
            None where none is known.
        prepared: (f, y) -> y in the form that `residual` takes fastest, for one who calls it many times.
        root: (f (rows, outputs), y) -> R (rows, outputs, outputs) with R R^T = d^2 per_sample / d f^2.
        quadratic: Whether `residual` is linear in f, so that a flow has a closed form.
        outputs: How many it takes, whatever the targets' width; None where outputs and targets have one shape.
    """

    name: str
    per_sample: Callable[[Tensor, Tensor], Tensor]
    residual: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[int], float] | None
    prepared: Callable[[Tensor, Tensor], Tensor] = lambda f, y: y
    root: Callable[[Tensor, Tensor], Tensor] | None = None
    quadratic: bool = False
    outputs: int | None = None


def targets(f: Tensor, y: Tensor) -> Tensor:
    """One-hot labels, an output's column in one piece of memory; or the targets themselves."""
    if y.is_floating_point():
        return y
    return (torch.arange(f.shape[-1], device=f.device)[:, None] == y[..., None, :]).to(f.dtype).mT


def _softmax_root(p: Tensor) -> Tensor:
    """(1 - p 1^T) diag(sqrt p), whose square is diag(p) - p p^T: a column for every class that might be drawn."""
    root = p.sqrt()
    return torch.diag_embed(root) - p[..., None] * root[..., None, :]


def _softmax(f: Tensor) -> Tensor:
    """Over the first axis, since over a last one of a few classes PyTorch is some 20 times slower."""
    return torch.softmax(f.movedim(-1, 0), 0).movedim(0, -1)


cross_entropy = Loss(
    "cross_entropy",
    per_sample=lambda f, y: torch.logsumexp(f.movedim(-1, 0), 0) - f.gather(-1, y[..., None])[..., 0],
    residual=lambda f, y: _softmax(f) - targets(f, y),
    curvature=lambda outputs: 0.5,  # the largest eigenvalue of diag(p) - p p^T
    prepared=targets,
    root=lambda f, y: _softmax_root(_softmax(f)),
)


squared = Loss(
    "squared",
    per_sample=lambda f, y: ((f - targets(f, y)) ** 2).sum(-1) / (2 * f.shape[-1]),
    residual=lambda f, y: (f - targets(f, y)) / f.shape[-1],
    curvature=lambda outputs: 1 / outputs,
    prepared=targets,
    root=lambda f, y: (
        torch.eye(f.shape[-1], dtype=f.dtype, device=f.device).expand(len(f), -1, -1) / f.shape[-1] ** 0.5
    ),
    quadratic=True,
)


def custom(
    fn: Callable[[Tensor, Tensor], Tensor],
    name: str | None = None,
    curvature: float | None = None,
    outputs: int | None = None,
) -> Loss:
    """The Loss of a user's `fn(f, y)`, such as `torch.nn.functional.smooth_l1_loss`: the mean of the rows' own.

    That `fn` of several rows is such a mean is tried on random numbers, and when it is first called on rows of a kind.

    Args:
        fn: Of outputs (rows, outputs) and labels (rows,) or targets (rows, outputs): their mean, or a value a row.
        name: For the record; the function's own where not given.
        curvature: An upper bound of the eigenvalues of d^2 fn / d f^2, which a flow in the tangent space needs.
        outputs: How many it takes where targets have another width, such as 2 for a mean and a variance.

    Raises:
        TypeError: A class in place of its object.
        ValueError: Here or at a call, a function that is not the mean of the rows' own; targets of another shape.
    """
    if isinstance(fn, type):
        raise SettingTypeError(f"`loss` must be a function; got the class {fn.__name__}. Give {fn.__name__}().")
    compared: set[Any] = set()

    def one_row(f: Tensor, y: Tensor) -> Tensor:
        # under several vmaps torch's own losses ask for y to be batched wherever f is
        y = y + torch.zeros_like(f, dtype=y.dtype).sum()
        value = fn(f[None], y[None])
        return value.reshape(()) if value.numel() == 1 else value.mean()

    slope = torch.func.grad(one_row)

    def by_row(each: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def rows(f: Tensor, y: Tensor) -> Tensor:
            if outputs is None:
                check_shapes(f, y)
            # inside a transform a value cannot be looked at
            if f.dim() == 2 and len(f) > 1 and torch._C._functorch.peek_interpreter_stack() is None:
                kind = f.shape, f.dtype, f.device, None if y.is_floating_point() else frozenset(y.tolist())
                if kind not in compared:
                    _check_mean(fn, slope, f.detach(), y)
                    compared.add(kind)
            return _mapped(each, f, y)

        return rows

    if outputs is None:  # else nobody knows the targets' width yet
        _try(fn, slope)
    return Loss(
        name or str(getattr(fn, "__name__", type(fn).__name__)),
        per_sample=by_row(one_row),
        residual=by_row(slope),
        curvature=None if curvature is None else lambda outputs: curvature,
        outputs=outputs,
    )


def _mapped(each: Callable[[Tensor, Tensor], Tensor], f: Tensor, y: Tensor) -> Tensor:
    """`each` of every row."""
    for _ in f.shape[:-1]:
        each = torch.func.vmap(each)
    return each(f, y)


def check_shapes(f: Tensor, y: Tensor) -> None:
    """Raises where targets are not of the outputs' shape, which would be broadcast."""
    if y.is_floating_point() and y.shape != f.shape:
        raise SettingError(
            f"`y` must have the outputs' shape, {tuple(f.shape)}; got targets {tuple(y.shape)}. Fit the last layer to "
            "them, or state a custom loss's own width by losses.custom(fn, outputs=...)."
        )


def _check_mean(
    fn: Callable[[Tensor, Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor], f: Tensor, y: Tensor
) -> None:
    """Raises where the gradient of `fn` on all rows is not that of the mean of the rows, `slope` each."""
    try:
        together, alone = torch.func.grad(lambda f: fn(f, y).mean())(f) * len(f), _mapped(slope, f, y)
    except Exception:  # it does not take such numbers, or several rows, and is not called with them
        return
    off, size = float((together - alone).abs().max()), float(together.abs().max())
    if bool(together.isfinite().all()) and not off <= torch.finfo(f.dtype).eps ** 0.5 * size:
        got = (
            f"a gradient that differs by {off:.3g} on {len(f)} rows"
            if math.isfinite(off)
            else "NaN or infinity for a row alone"
        )
        raise SettingError(
            f"`loss` must be the mean of what it gives for every row alone; got {got}. Pass reduction='none', and "
            "weights of classes as class_weights or by losses.weighted: torch divides those by their sum over a batch."
        )


def _try(fn: Callable[[Tensor, Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The same for random outputs, and for their softmax, with labels and with targets, wherever `fn` takes such."""
    held = fn.buffers() if isinstance(fn, nn.Module) else getattr(fn, "keywords", {}).values()
    lengths = [len(part) for part in held if isinstance(part, Tensor) and part.dim() == 1 and len(part) > 1]
    random = torch.Generator().manual_seed(0)
    for width in {3, *lengths, 1 + max(2, getattr(fn, "ignore_index", 2))}:
        f = torch.randn(2 * width, width, generator=random, dtype=torch.float64, device="cpu")
        labels, targets = torch.arange(len(f), device="cpu") % width, f.flip(0).softmax(-1)
        for at in (f, f.softmax(-1), f.float(), f.float().softmax(-1)):
            for y in (labels, targets.to(at)):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of shapes that it does not take
                    _check_mean(fn, slope, at, y)


def weighted(loss: Loss, by_class: Tensor | Sequence[float]) -> Loss:
    """The loss with every row's times the weight of its label, w[y] loss(f, y).

    The mean over rows is divided by their number, not by the sum of a batch's weights as torch does, so that all
    clients' batches are parts of one objective. `class_weights` of an experiment scales the weights to 1 on average
    over all training rows: then the objective on all of them together is torch's.

    Args:
        loss: Of labels.
        by_class: A weight for every class, (classes,).

    Raises:
        ValueError: Weights that are negative or not finite; at a call, targets in place of labels.
    """
    w = torch.as_tensor(by_class, dtype=None if isinstance(by_class, Tensor) else torch.float64)
    if w.dim() != 1 or not bool((w >= 0).all() and w.isfinite().all() and (w > 0).any()):
        raise SettingError(
            f"`by_class` must be one weight a class, none of them negative; got {w.tolist()}. Give such numbers."
        )

    def of(f: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point():
            raise SettingError(f"`y` must be labels to be weighted by class; got {y.dtype}. Leave the weights out.")
        return w.to(f.device, f.dtype)[y]

    return scaled(loss, of, lambda: float(w.max()))


def scaled(loss: Loss, of: Callable[[Tensor, Tensor], Tensor], most: Callable[[], float]) -> Loss:
    """The loss with every row's times of(f, y) >= 0, (..., rows), which is at most most()."""
    bound = loss.curvature
    return loss._replace(
        per_sample=lambda f, y: loss.per_sample(f, y) * of(f, y),
        residual=lambda f, y: loss.residual(f, y) * of(f, y)[..., None],
        curvature=bound and (lambda outputs: bound(outputs) * most()),
        prepared=lambda f, y: y,
        root=lambda f, y: curvature_root(loss, f, y) * of(f, y).sqrt()[..., None, None],
    )


def curvature_root(loss: Loss, f: Tensor, y: Tensor) -> Tensor:
    """R (rows, outputs, outputs), R R^T = d^2 per_sample / d f^2 without what is negative of it.

    Of a loss that states no root by an eigendecomposition a row.
    """
    if loss.root is not None:
        return loss.root(f, y)

    def one(f: Tensor, y: Tensor) -> Tensor:
        return loss.residual(f[None], y[None])[0]

    second = torch.func.vmap(torch.func.jacrev(one))(f, y)
    values, vectors = torch.linalg.eigh((second + second.mT) / 2)
    found: Tensor = vectors * values.clamp_min(0).sqrt()[..., None, :]
    return found


def mean(loss: Loss, f: Tensor, y: Tensor, real: Tensor | None = None) -> Tensor:
    """The mean loss over the real rows; one that is not finite counts as +inf, so that it never wins a comparison."""
    each = loss.per_sample(f, y)
    total = each.mean() if real is None else torch.where(real, each, 0).sum() / real.sum()
    return torch.where(torch.isfinite(total), total, torch.inf)


NAMES = {"cross_entropy": cross_entropy, "squared": squared}
