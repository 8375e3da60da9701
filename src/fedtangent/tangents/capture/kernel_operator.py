"""The kernel of some rows as an operator, and products with their Jacobian: what dynamics and a tangent step need."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.factors import Dense, Factor, Factors, Gated, Last, every, head
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.numerics.kernel_parts import Kind, Part, Side, cuts, gradients, parts, side, total

# How many strips a symmetric kernel is made of, and of how many rows at least.
_STRIPS, _LEAST = 4, 128


class Trace(NamedTuple):
    """The trace kernel as an operator on alpha (..., n, C). matrix: (..., n, n)."""

    matrix: Tensor

    def times(self, alpha: Tensor) -> Tensor:
        """K alpha, (..., n, C), in 2 n^2 C operations."""
        # K = K^T; this way round a column of alpha is one piece of memory, which reads K at full speed
        return (alpha.mT @ self.matrix).mT


class Full(NamedTuple):
    """The full kernel in memory as an operator on alpha (..., n, C). matrix: (..., n C, n C)."""

    matrix: Tensor

    def times(self, alpha: Tensor) -> Tensor:
        """K alpha, (..., n, C), in 2 n^2 C^2 operations."""
        return (self.matrix @ alpha.flatten(-2)[..., None])[..., 0].reshape(alpha.shape)


class Factored(NamedTuple):
    """The full kernel of dense layers as an operator on alpha (..., n, C); nothing of size n C x n C exists.

    Attributes:
        factors: Of the Jacobian.
        grams: (a, 1) (a, 1)^T, (..., n, n), by layer.
        inputs: (a, 1), (..., n, I + 1), of the other layers: those where it makes cheaper products.
        head: The last layer's weights (..., C, O).
    """

    factors: Factors
    grams: dict[str, Tensor]
    inputs: dict[str, Tensor]
    head: Tensor

    def times(self, alpha: Tensor) -> Tensor:
        """J J^T alpha, (..., n, C): a layer costs 2 n O min(n, 2 I) operations."""
        found = torch.zeros_like(alpha)
        for key, factor in self.factors.items():
            # this way round columns of alpha, each one piece of memory, are read at full speed
            r = backward(factor, alpha, self.head).mT
            u = r @ self.grams[key] if key in self.grams else (r @ self.inputs[key]) @ self.inputs[key].mT
            found = found + forward(factor, u.mT, self.head)
        return found


def kernel_of_factors(
    kind: Literal["trace", "full"], uses: Uses, factors: Factors, w: Weights
) -> Trace | Full | Factored:
    """The kernel of the rows of `factors` as an operator."""
    if kind == "trace" or (kind == "full" and not _dense(uses, w)):
        matrix = block(kind, uses, factors, w)
        return Trace(matrix) if kind == "trace" else Full(matrix.flatten(2).flatten(0, 1))
    if kind != "full":
        raise SettingError(f"`kernel` must be 'trace' or 'full'; got {kind!r}. Choose one of the two.")
    sides = {key: _with_one(factors[key].a[0].flatten(1), _biased(uses, key)) for key in uses.by_name}
    grams = {key: side @ side.T for key, side in sides.items() if side.shape[0] <= 2 * side.shape[1]}
    return Factored(factors, grams, {key: side for key, side in sides.items() if key not in grams}, head(uses, w))


def block(kind: Kind, uses: Uses, factors: Factors, w: Weights) -> Tensor:
    """The kernel of the rows of `factors`: (n, C, n, C) full, (n, n) trace, (n, n, C) diagonal; all at once."""
    found = parts(uses, w)
    outputs = every(uses.outputs)
    sides = [side(part, part.way(kind, uses.outputs), kind, w, factors, head(uses, w), outputs) for part in found]
    if kind == "trace" and sides[0].samples >= _STRIPS * _LEAST:
        return _by_strips(found, sides)
    return total(kind, found, sides, sides)


def _by_strips(parts: list[Part], sides: list[Side]) -> Tensor:
    """The trace kernel from its upper half: strips of rows, each from its diagonal on, and what mirrors them."""
    n = sides[0].samples
    strips = cuts(n, -(-n // _STRIPS))
    upper = [
        total("trace", parts, [one.rows(cut) for one in sides], [one.rows(slice(cut.start, n)) for one in sides])
        for cut in strips
    ]
    rows = []
    for i, cut in enumerate(strips):
        left = [upper[j][:, cut.start - strips[j].start : cut.stop - strips[j].start].mT for j in range(i)]
        rows.append(torch.cat([*left, upper[i]], 1))
    return torch.cat(rows)


def pullback(uses: Uses, factors: Factors, w: Weights, alpha: Tensor) -> Weights:
    """J^T alpha for alpha (T, n, C): a tree of weights with a leading axis T; 2 T n P operations for dense layers."""
    pulled: Weights = {}
    for part in parts(uses, w):
        if len(part.uses) == 1 and _single(uses, part.keys[0]):
            key = part.keys[0]
            r = backward(factors[key], alpha, head(uses, w))
            # one product for all T, with the longest axis inside
            weight = r.mT.reshape(-1, r.shape[-2]) @ factors[key].a[0].flatten(1)
            matrix = _matrix(uses, key)
            weight = weight.reshape(*alpha.shape[:-2], *matrix.layout.shape)
            pulled[matrix.weight] = matrix.layout.back(weight)
            if matrix.bias is not None and matrix.bias_layout is not None:
                pulled[matrix.bias] = matrix.bias_layout.back(r.sum(-2).unsqueeze(-2))
        else:
            for name, gradient in gradients(part, w, factors, head(uses, w)).items():
                pulled[name] = torch.einsum("tnc,nc...->t...", alpha, gradient)
    zeros = {name: part.new_zeros(*alpha.shape[:-2], *part.shape) for name, part in w.items() if name not in pulled}
    return {name: pulled[name] if name in pulled else zeros[name] for name in w}


def pushforward(uses: Uses, factors: Factors, w: Weights, v: Weights, given: Weights | None = None) -> Tensor:
    """J v (T, n, C) for a tree of weights v with a leading axis T: what the linearised network adds to f.

    Args:
        uses: Of the parameters.
        factors: Of the Jacobian.
        w: The parameters.
        v: The directions.
        given: How the results (T, n, O) of dense layers change, by use, where that is known already.
    """
    found: list[Tensor] = []
    for part in parts(uses, w):
        if len(part.uses) == 1 and _single(uses, part.keys[0]):
            key = part.keys[0]
            u = given[key] if given is not None and key in given else _changes(_matrix(uses, key), factors[key], v)
            found.append(forward(factors[key], u, head(uses, w)))
        else:
            for name, gradient in gradients(part, w, factors, head(uses, w)).items():
                rows, columns = gradient.reshape(*gradient.shape[:2], -1), v[name].reshape(len(v[name]), -1)
                found.append(torch.einsum("ncp,tp->tnc", rows, columns))
    return sum(found[1:], found[0])


def backward(factor: Factor, alpha: Tensor, head: Tensor) -> Tensor:
    """The cotangent alpha (..., n, C) at the results of a dense layer, (..., n, O)."""
    if isinstance(factor, Last):
        return alpha
    if isinstance(factor, Gated):
        return (alpha @ head) * factor.gate
    return torch.einsum("...nc,...nco->...no", alpha, _sensitivities(factor))


def forward(factor: Factor, u: Tensor, head: Tensor) -> Tensor:
    """What a change u (..., n, O) of the results of a dense layer does to the outputs, (..., n, C)."""
    if isinstance(factor, Last):
        return u
    if isinstance(factor, Gated):
        return (head @ (u * factor.gate).mT).mT
    return torch.einsum("...no,...nco->...nc", u, _sensitivities(factor))


def products(a: Tensor, v: Tensor) -> Tensor:
    """a v_t^T, (T, n, O), for a (n, I) and v (T, O, I): one product for all T."""
    return (a @ v.flatten(0, 1).mT).reshape(len(a), *v.shape[:2]).transpose(0, 1)


def _changes(matrix: Matrix, factor: Factor, v: Weights) -> Tensor:
    """How the results of a dense layer change along v, (T, n, O)."""
    u = products(factor.a[0].flatten(1), matrix.layout.of(v[matrix.weight])[..., 0, :, :])
    if matrix.bias is not None and matrix.bias_layout is not None:
        u = u + matrix.bias_layout.of(v[matrix.bias])
    return u


def _sensitivities(factor: Dense) -> Tensor:
    """d (..., n, C, O), where one sample's results are (1, O)."""
    return factor.d[0].squeeze(-2)


def _dense(uses: Uses, w: Weights) -> bool:
    return all(_single(uses, key) for key in uses.by_name) and all(len(part.uses) == 1 for part in parts(uses, w))


def _single(uses: Uses, key: str) -> bool:
    """Whether a use is a linear map of one vector a sample, to a result (1, O)."""
    one = uses.by_name[key]
    return isinstance(one, Matrix) and one.dense and len(one.call.shapes[0]) == 2


def _matrix(uses: Uses, key: str) -> Matrix:
    one = uses.by_name[key]
    assert isinstance(one, Matrix)
    return one


def _biased(uses: Uses, key: str) -> bool:
    one = uses.by_name[key]
    return isinstance(one, Matrix) and one.bias is not None


def _with_one(a: Tensor, biased: bool) -> Tensor:
    return torch.cat([a, torch.ones_like(a[:, :1])], 1) if biased else a
