"""The tangent step as the papers write it: explicit Jacobians, an explicit kernel, every candidate's true loss."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from tests import tiny_federation as federation

Weights = dict[str, Tensor]


class Step(NamedTuple):
    """What a literal step does; the names are those of the methods' options."""

    times: Sequence[int]
    lr: float
    kernel: str = "trace"
    clock: str = "descent"
    loss: str = "cross_entropy"


def network(w: Weights) -> nn.Sequential:
    model = federation.network()
    model.load_state_dict(w)
    return model


@cache
def _bare() -> nn.Sequential:
    return federation.network()


def outputs(w: Weights, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(_bare(), w, (x,))  # type: ignore[no-any-return]


def jacobian(w: Weights, x: Tensor) -> Tensor:
    """d f_c(x_n; w) / d w, (N, C, P), by one backward pass for every output of every row."""
    model = network(w)
    rows = []
    for row in x:
        f = model(row[None])[0]
        slices = [torch.autograd.grad(f_c, tuple(model.parameters()), retain_graph=True) for f_c in f]
        rows.append(torch.stack([torch.cat([part.flatten() for part in slice_]) for slice_ in slices]))
    return torch.stack(rows)


def mean_loss(w: Weights, x: Tensor, y: Tensor, loss: str) -> Tensor:
    return value(outputs(w, x), y, loss)


def value(f: Tensor, y: Tensor, loss: str) -> Tensor:
    if loss == "cross_entropy":
        return nn.functional.cross_entropy(f, y)
    return nn.functional.mse_loss(f, nn.functional.one_hot(y, f.shape[1]).double()) / 2


def candidates(
    w: Weights, x: Tensor, y: Tensor, step: Step, j: Tensor | None = None, weight: Tensor | None = None
) -> tuple[list[Weights], list[Tensor]]:
    """w - J^T alpha_t for every time t, and the network's linearised outputs there.

    j is J as it was received; rows may weigh more or less.
    """
    j, f_0 = jacobian(w, x) if j is None else j, outputs(w, x)
    n, c, _ = j.shape
    if step.kernel == "trace":
        kernel = torch.einsum("ncp,mcp->nm", j, j) / c
        k = torch.einsum("nm,cd->ncmd", kernel, torch.eye(c).double())
    else:
        k = torch.einsum("ncp,mdp->ncmd", j, j)
    one_hot = nn.functional.one_hot(y, c).double()
    rho = torch.ones(n, 1).double() if weight is None else weight[:, None]

    def rate(alpha: Tensor) -> Tensor:
        f = f_0 - torch.einsum("ncmd,md->nc", k, alpha)
        return rho * (f.softmax(1) - one_hot) / n if step.loss == "cross_entropy" else rho * (f - one_hot) / (n * c)

    alpha, found = torch.zeros_like(f_0), []
    if step.clock == "descent":
        for t in range(1, max(step.times) + 1):
            alpha = alpha + step.lr * rate(alpha)
            found += [alpha] if t in step.times else []
    elif step.loss == "squared":  # (alpha, 1)' = [[-rho K / (n c), rate(0)], [0, 0]] (alpha, 1)
        field = torch.zeros(n * c + 1, n * c + 1).double()
        field[:-1, :-1] = -(rho[:, :, None, None] * k).reshape(n * c, n * c) / (n * c)
        field[:-1, -1] = rate(alpha).flatten()
        found = [torch.linalg.matrix_exp(step.lr * t * field)[:-1, -1].reshape(n, c) for t in step.times]
    else:
        s = torch.tensor([0.0, *(step.lr * t for t in step.times)]).double()
        found = list(odeint(lambda _, alpha: rate(alpha), alpha, s, rtol=1e-10, atol=1e-12)[1:])
    moves = [torch.einsum("ncp,nc->p", j, alpha) for alpha in found]
    return [shifted(w, -move) for move in moves], [f_0 - torch.einsum("ncp,p->nc", j, move) for move in moves]


def shifted(w: Weights, by: Tensor) -> Weights:
    parts = by.split([part.numel() for part in w.values()])
    return {name: part + d.reshape(part.shape) for (name, part), d in zip(w.items(), parts, strict=True)}


def average(trees: Sequence[Weights], weight: Sequence[float] | None = None) -> Weights:
    weight = [1 / len(trees)] * len(trees) if weight is None else weight
    return {name: sum(v * w[name] for v, w in zip(weight, trees, strict=True)) for name in trees[0]}  # type: ignore[misc]
