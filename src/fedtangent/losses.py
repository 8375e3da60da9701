"""Losses as pairs: the value of every sample, and its derivative by the network's outputs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


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
    """

    name: str
    per_sample: Callable[[Tensor, Tensor], Tensor]
    residual: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[int], float] | None
    prepared: Callable[[Tensor, Tensor], Tensor] = lambda f, y: y
    root: Callable[[Tensor, Tensor], Tensor] | None = None


def _targets(f: Tensor, y: Tensor) -> Tensor:
    """One-hot labels, an output's column in one piece of memory; or the targets themselves."""
    if y.is_floating_point():
        return y
    return (torch.arange(f.shape[-1], device=f.device)[:, None] == y[..., None, :]).to(f.dtype).mT


def _softmax_root(p: Tensor) -> Tensor:
    """(1 - p 1^T) diag(sqrt p), whose square is diag(p) - p p^T: a column for every class that might be drawn."""
    root = p.sqrt()
    return torch.diag_embed(root) - p[..., None] * root[..., None, :]


cross_entropy = Loss(
    "cross_entropy",
    per_sample=lambda f, y: torch.logsumexp(f, -1) - f.gather(-1, y[..., None])[..., 0],
    # over the first axis, since over a last one of a few classes PyTorch is some 20 times slower
    residual=lambda f, y: torch.softmax(f.movedim(-1, 0), 0).movedim(0, -1) - _targets(f, y),
    curvature=lambda outputs: 0.5,  # the largest eigenvalue of diag(p) - p p^T
    prepared=_targets,
    root=lambda f, y: _softmax_root(torch.softmax(f, -1)),
)


squared = Loss(
    "squared",
    per_sample=lambda f, y: ((f - _targets(f, y)) ** 2).sum(-1) / (2 * f.shape[-1]),
    residual=lambda f, y: (f - _targets(f, y)) / f.shape[-1],
    curvature=lambda outputs: 1 / outputs,
    prepared=_targets,
    root=lambda f, y: (
        torch.eye(f.shape[-1], dtype=f.dtype, device=f.device).expand(len(f), -1, -1) / f.shape[-1] ** 0.5
    ),
)


def custom(fn: Callable[[Tensor, Tensor], Tensor], name: str | None = None, curvature: float | None = None) -> Loss:
    """The Loss of a user's `fn(f, y)`, such as `torch.nn.functional.smooth_l1_loss`: the mean of the rows' own.

    Args:
        fn: Of outputs (1, outputs) and a label (1,) or target (1, outputs).
        name: For the record; the function's own where not given.
        curvature: An upper bound of the eigenvalues of d^2 fn / d f^2, which a flow in the tangent space needs.
    """

    def one_row(f: Tensor, y: Tensor) -> Tensor:
        # under several vmaps torch's own losses ask for y to be batched wherever f is
        y = y + torch.zeros_like(f, dtype=y.dtype).sum()
        value = fn(f[None], y[None])
        return value.reshape(()) if value.numel() == 1 else value.mean()

    def by_row(each: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def rows(f: Tensor, y: Tensor) -> Tensor:
            mapped = each
            for _ in f.shape[:-1]:
                mapped = torch.func.vmap(mapped)
            return mapped(f, y)

        return rows

    return Loss(
        name or str(getattr(fn, "__name__", type(fn).__name__)),
        per_sample=by_row(one_row),
        residual=by_row(torch.func.grad(one_row)),
        curvature=None if curvature is None else lambda outputs: curvature,
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
