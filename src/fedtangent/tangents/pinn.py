"""Kernels of physics-informed networks: K_ab = J_a J_b^T between the terms of a loss, and weights that balance them.

Wang, Yu, Perdikaris. When and why PINNs fail to train: a neural tangent kernel perspective. J. Comput. Phys. 2022.
A term is an operator on the network's function u, such as u itself or u_xx, at n_a points of its own; J_a is the
derivative of its values by the P weights. With `u` the values on the boundary and `r` the residual inside, the blocks
are the paper's K_uu, K_ur, K_rr:

    loss       sum_a weight_a / (2 n_a) |values_a - targets_a|^2
    its flow   d(values - targets) / dt = -K S (values - targets),     S = diag(weight_a / n_a)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.memory import out_of_memory
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.functional import Weights, call, first_line, plain_forward, trainable
from fedtangent.tangents.capture.outputs import Outputs, Picked
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.given import looked

DifferentialOperator = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
Terms = Mapping[str, tuple[DifferentialOperator, Tensor]]

_COPIES = 10  # of a chunk's rows: two chunks that meet, and, as measured, what their derivatives hold on the way


def identity(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """u(x)."""
    return u(x)


def laplacian(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The sum of the second derivatives of u at x (d,); u_xx where d = 1."""
    return torch.func.hessian(u)(x).diagonal(dim1=-2, dim2=-1).sum(-1)  # type: ignore[no-any-return]


class Blocks(NamedTuple):
    """The kernel of several terms; made by `kernel`.

    Attributes:
        matrix: The whole of it, (n, n), the terms one after the other.
        sizes: By term, how many rows are its own: its points, times the values that its operator has at a point.
    """

    matrix: Tensor
    sizes: dict[str, int]

    @property
    def blocks(self) -> dict[tuple[str, str], Tensor]:
        """K_ab (n_a, n_b) by the names (a, b), for every ordered pair: views of the matrix."""
        sizes = list(self.sizes.values())
        rows = zip(self.sizes, torch.split(self.matrix, sizes), strict=True)
        return {(a, b): part for a, row in rows for b, part in zip(self.sizes, torch.split(row, sizes, 1), strict=True)}

    @property
    def traces(self) -> dict[str, float]:
        """tr K_aa by term."""
        diagonals = torch.split(self.matrix.diagonal(), list(self.sizes.values()))
        return {name: float(part.sum()) for name, part in zip(self.sizes, diagonals, strict=True)}

    @property
    def rates(self) -> dict[str, float]:
        """tr K_aa / n_a by term: the mean of its eigenvalues, the paper's average convergence rate."""
        return {name: trace / self.sizes[name] for name, trace in self.traces.items()}

    @property
    def weights(self) -> dict[str, float]:
        """tr K / tr K_aa by term, as `weights` gives them."""
        return _balanced(self.traces)

    @without_autocast()
    def eigenvalues(self, name: str | None = None) -> Tensor:
        """The eigenvalues of K, or of a term's K_aa, largest first; those that should be zero are rounding."""
        if name is not None and name not in self.sizes:
            raise SettingError(f"`name` must be a term; got {name!r}. Choose one of {', '.join(self.sizes)}.")
        block = self.matrix if name is None else self.blocks[name, name]
        found: Tensor = torch.linalg.eigvalsh(block)
        return found.flip(0)

    def weighted(self, weights: Mapping[str, float] | None = None) -> Tensor:
        """S^(1/2) K S^(1/2), (n, n): symmetric, with the eigenvalues of K S, the operator of the flow above.

        Args:
            weights: Of the terms in the loss; 1 each where not given.

        Raises:
            ValueError: Weights for other terms than these, or a negative one.
        """
        weights = dict.fromkeys(self.sizes, 1.0) if weights is None else weights
        if set(weights) != set(self.sizes):
            raise SettingError(
                f"`weights` must name the terms {', '.join(self.sizes)}; got {', '.join(weights)}. Give one each."
            )
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise SettingError(f"`weights` must be finite and not negative; got {weight} for {name!r}. Change it.")
        roots = [math.sqrt(weights[name] / size) for name, size in self.sizes.items()]
        side = torch.repeat_interleave(
            self.matrix.new_tensor(roots), torch.tensor(list(self.sizes.values()), device=self.matrix.device)
        )
        return side[:, None] * self.matrix * side


@without_autocast()
def kernel(
    model: nn.Module, terms: Terms, *, w: Weights | None = None, outputs: Outputs = None, memory: int = 2**30
) -> Blocks:
    """The kernel between the terms, exact.

    A row takes one derivative of its operator by the weights, the matrix n^2 P operations. Where the rows of all
    terms take more than half of `memory` they are computed again for every chunk that they meet.

    Args:
        model: Of (rows, d), gives (rows, C) or (rows,).
        terms: By name, an operator and its points (n_a, d). The operator is a function (u, x) -> one number, or (k,)
            for k equations, of one point x (d,), written with torch.func, where u(x) is a number if the model has one
            output and (C,) otherwise: `lambda u, x: torch.func.grad(u)(x)[1]` is u_y.
        w: Weights at which to take it; the model's own where not given.
        outputs: Which part of the model's result its outputs are: a name such as "u", an index or a function.
        memory: Bytes for rows, beside the result's n^2.

    Raises:
        TypeError: No model, or a term that is no operator with points.
        ValueError: No terms, points that are not (n, d), finite and of the weights' dtype, an operator that fails on
            them or returns another shape, derivatives that are not finite, too little memory, or a model whose outputs
            depend on chance or on other samples, or have other derivatives by points in forward mode.
    """
    w, model = trainable(model, w), Picked(model, outputs)
    plan = _planned(model, terms, w, memory)
    sizes: dict[str, int] = dict.fromkeys(terms, 0)
    for chunk in plan:
        sizes[chunk.name] += len(chunk.x) * chunk.values
    n, like = sum(sizes.values()), next(iter(w.values()))
    matrix = like.new_empty(n, n)
    fits = 2 * n * _row_bytes(w) <= memory
    held = [_rows(model, w, chunk) for chunk in plan] if fits else None
    top = 0
    for i in range(len(plan)):
        own = held[i] if held else _rows(model, w, plan[i])
        bottom, left = top + len(own), top
        for j in range(i, len(plan)):
            other = own if j == i else held[j] if held else _rows(model, w, plan[j])
            right = left + len(other)
            matrix[top:bottom, left:right] = own @ other.T
            if j > i:
                matrix[left:right, top:bottom] = matrix[top:bottom, left:right].T
            left = right
        top = bottom
    return Blocks(matrix, sizes)


@without_autocast()
def traces(
    model: nn.Module, terms: Terms, *, w: Weights | None = None, outputs: Outputs = None, memory: int = 2**30
) -> dict[str, float]:
    """tr K_aa by term, from the squares of the rows alone: no matrix, one chunk of rows at a time; else as `kernel`."""
    w, model = trainable(model, w), Picked(model, outputs)
    found = dict.fromkeys(terms, 0.0)
    for chunk in _planned(model, terms, w, memory):
        found[chunk.name] += float(_rows(model, w, chunk).square().sum())
    return found


@without_autocast()
def weights(
    model: nn.Module, terms: Terms, *, w: Weights | None = None, outputs: Outputs = None, memory: int = 2**30
) -> dict[str, float]:
    """The paper's adaptive weights tr K / tr K_aa of the terms of a loss: with them all converge at a like rate.

    Costs what `traces` costs; to be taken again every hundred steps or so.

    Raises:
        ValueError: As in `kernel`; or a term that no weight changes, such as u_xx of a ReLU network.
    """
    return _balanced(traces(model, terms, w=w, outputs=outputs, memory=memory))


def _balanced(found: dict[str, float]) -> dict[str, float]:
    for name, trace in found.items():
        if not trace > 0:
            raise SettingError(
                f"`terms` must depend on the weights; got a derivative of zero for {name!r}. "
                "Drop it, or choose a smooth activation such as tanh."
            )
    return {name: sum(found.values()) / trace for name, trace in found.items()}


class _Chunk(NamedTuple):
    """Some points x (m, d) of a term, and how many values its operator has at each."""

    name: str
    operator: DifferentialOperator
    x: Tensor
    values: int


def _planned(model: Picked, terms: Terms, w: Weights, memory: int) -> list[_Chunk]:
    """The chunks of all terms in order, once these are found sound."""
    if not isinstance(terms, Mapping):
        raise SettingTypeError(f"`terms` must be a dict; got {type(terms).__name__}. Give {{'u': (identity, points)}}.")
    if not terms:
        raise SettingError("`terms` must name at least one; got none. Give {'u': (identity, points)}.")
    whole = [_checked(model, name, term, w) for name, term in terms.items()]
    room = memory // (_COPIES * _row_bytes(w))
    most = max(term.values for term in whole)
    if room < most:
        least = most * _COPIES * _row_bytes(w)
        raise SettingError(f"`memory` must hold the rows of a point; got {memory} bytes. Give {least} or more.")
    return [term._replace(x=x) for term in whole for x in torch.split(term.x, room // term.values)]


def _row_bytes(w: Weights) -> int:
    return sum(part.numel() * part.element_size() for part in w.values())


def _checked(model: Picked, name: str, term: Any, w: Weights) -> _Chunk:
    if not (isinstance(term, tuple) and len(term) == 2 and callable(term[0])):
        raise SettingTypeError(
            f"`terms[{name!r}]` must be an operator and its points; got {type(term).__name__}. Give (identity, x)."
        )
    operator, x = term[0], tensor(f"terms[{name!r}]", term[1])
    where = f"`terms[{name!r}]`"
    dtype = next(iter(w.values())).dtype
    if x.dim() != 2 or not x.numel():
        raise SettingError(f"{where} must have points (n, d); got {tuple(x.shape)}. Give one row a point.")
    if x.dtype != dtype:
        raise SettingError(
            f"{where} must have points of the weights' dtype {dtype}; got {x.dtype}. Convert one of them."
        )
    if not torch.isfinite(x).all():
        raise SettingError(f"{where} must have finite points; got nan or inf. Drop those.")
    x = x.detach()
    looked(model, w, x, f"terms[{name!r}]")
    _compare(_function(model, w), x[0])
    try:
        with plain_forward():
            value = torch.func.vmap(lambda point: operator(_function(model, w), point))(x[:1])
    except Exception as error:
        if out_of_memory(error):
            raise
        raise SettingError(
            f"{where} must fit the model; got points of {x.shape[1]} coordinates, where it fails: "
            f"{first_line(error)}. Compare them with the model's inputs and outputs."
        ) from error
    if not isinstance(value, Tensor) or value.dim() > 2 or not value.numel():
        got = tuple(value.shape[1:]) if isinstance(value, Tensor) else type(value).__name__
        raise SettingError(f"{where} must give one number, or (k,), at a point; got {got}. Index or sum its values.")
    return _Chunk(name, operator, x, value.numel())


def _compare(u: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raises where the derivative of u by x in forward mode, which operators may take, is not that of backward mode."""
    v = torch.cos(torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device))
    try:
        with plain_forward():
            change = torch.func.jvp(u, (x,), (v,))[1]
            pulled = torch.func.vjp(u, x)[1](torch.ones_like(change))[0]
    except (RuntimeError, NotImplementedError):
        return  # an operator that needs what is missing will say so
    forward, backward = float(change.sum()), float(pulled @ v)
    if abs(forward - backward) > 1e-3 * max(abs(forward), float(pulled.norm() * v.norm())):
        raise SettingError(
            "`model` must have the same derivative by its inputs in forward and in backward mode; got others, "
            f"{forward:.4g} and {backward:.4g}. Leave out torch.no_grad, and backward passes of its own."
        )


def _function(model: nn.Module, w: Weights) -> Callable[[Tensor], Tensor]:
    """u of one point (d,): a number if the model has one output, else (C,)."""

    def u(x: Tensor) -> Tensor:
        f = call(model, w, x[None])[0]
        return f[0] if f.shape == (1,) else f

    return u


def _rows(model: nn.Module, w: Weights, chunk: _Chunk) -> Tensor:
    """J of a chunk, (m values, P), the parameters in the order of w."""

    def value(w: Weights, x: Tensor) -> Tensor:
        return chunk.operator(_function(model, w), x)

    with plain_forward():
        by_weight = torch.func.vmap(torch.func.jacrev(value), (None, 0))(w, chunk.x)
    rows = torch.cat([by_weight[name].reshape(len(chunk.x) * chunk.values, -1) for name in w], 1)
    if not torch.isfinite(rows).all():
        raise SettingError(
            f"`terms[{chunk.name!r}]` must have finite derivatives by the weights; got nan or inf. "
            "Look at its operator, its points and the weights."
        )
    return rows
