"""The empirical tangent kernel of a network from its factors: J J^T without J.

N samples, C outputs, P parameters. `full[(n,c),(m,d)] = J_nc . J_md` (Jacot, Gabriel, Hongler 2018); `trace[n,m]` is
its mean over c = d, the kernel of NTK-FL and NTK-DFL. A Linear layer contributes (a_n . a_m + 1) (d_nc . d_md), where
the 1 is its bias's.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent.tangents.factors import Factors, Weights, head

Kind = Literal["trace", "full"]


class Trace(NamedTuple):
    """The trace kernel as an operator on alpha (..., N, C). matrix: (..., N, N)."""

    matrix: Tensor

    def times(self, alpha: Tensor) -> Tensor:
        """K alpha, (..., N, C), in 2 N^2 C operations."""
        # K = K^T; this way round a column of alpha is one piece of memory, which reads K at full speed
        return (alpha.mT @ self.matrix).mT


class Full(NamedTuple):
    """The full kernel as an operator on alpha (..., N, C); nothing of size N C x N C exists.

    Attributes:
        factors: Of the Jacobian.
        grams: (a, 1) (a, 1)^T, (..., N, N), by layer.
        inputs: (a, 1), (..., N, I + 1), of the other layers: those where it makes cheaper products.
        head: The last layer's weights (..., C, O).
    """

    factors: Factors
    grams: dict[str, Tensor]
    inputs: dict[str, Tensor]
    head: Tensor

    def times(self, alpha: Tensor) -> Tensor:
        """J J^T alpha, (..., N, C): a layer costs 2 N O min(N, 2 I) operations."""
        total = torch.zeros_like(alpha)
        for name, factor in self.factors.items():
            r = factor.backward(alpha, self.head)
            u = self.grams[name] @ r if name in self.grams else self.inputs[name] @ (self.inputs[name].mT @ r)
            total = total + factor.forward(u, self.head)
        return total


def operator(kind: Kind, factors: Factors, w: Weights) -> Trace | Full:
    """The kernel as an operator, for the dynamics."""
    if kind == "trace":
        return Trace(trace(factors, w))
    if kind != "full":
        raise ValueError(f"`kernel` must be 'trace' or 'full'; got {kind!r}. Choose one of the two.")
    sides = {name: _with_one(factor.a, f"{name}bias" in w) for name, factor in factors.items()}
    grams = {name: side @ side.T for name, side in sides.items() if side.shape[0] <= 2 * side.shape[1]}
    return Full(factors, grams, {name: side for name, side in sides.items() if name not in grams}, head(factors, w))


def trace(factors: Factors, w: Weights, other: Factors | None = None) -> Tensor:
    """The trace kernel (N, M): 1/C sum_c J_nc . J_mc, between the samples of `factors` and of `other` (or themselves).

    Costs 2 N M (I + O) operations a gated layer, 2 N M (I + C O) a dense one, 2 N M I the last.
    """
    parts = [
        _gram(own.a, its.a, f"{name}bias" in w) * own.likeness(its, head(factors, w))
        for name, own, its in _pairs(factors, other)
    ]
    return _total(parts)


def full(factors: Factors, w: Weights, other: Factors | None = None) -> Tensor:
    """The full kernel (N, C, M, C), J_nc . J_md, in memory: for small N, to look at and to test against."""
    w_out = head(factors, w)
    parts = [
        _gram(own.a, its.a, f"{name}bias" in w)[:, None, :, None]
        * torch.einsum("nco,mdo->ncmd", own.sensitivities(w_out), its.sensitivities(w_out))
        for name, own, its in _pairs(factors, other)
    ]
    return _total(parts)


def pullback(factors: Factors, w: Weights, alpha: Tensor) -> Weights:
    """J^T alpha for alpha (T, N, C): a tree of weights with a leading axis T; 2 T N P operations."""
    pulled = {}
    for name, factor in factors.items():
        r = factor.backward(alpha, head(factors, w))
        # one product for all T, with the longest axis inside
        weight = r.mT.reshape(-1, r.shape[-2]) @ factor.a
        pulled[f"{name}weight"] = weight.reshape(*alpha.shape[:-2], r.shape[-1], -1)
        if f"{name}bias" in w:
            pulled[f"{name}bias"] = r.sum(-2)
    return {name: pulled[name] for name in w}


def pushforward(factors: Factors, w: Weights, v: Weights) -> Tensor:
    """J v (T, N, C) for a tree of weights v with a leading axis T: what the linearised network adds to f."""
    parts = []
    for name, factor in factors.items():
        u = factor.a @ v[f"{name}weight"].mT
        if f"{name}bias" in w:
            u = u + v[f"{name}bias"].unsqueeze(-2)
        parts.append(factor.forward(u, head(factors, w)))
    return _total(parts)


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _pairs(factors: Factors, other: Factors | None) -> list[tuple[str, Any, Any]]:
    return [(name, factor, factor if other is None else other[name]) for name, factor in factors.items()]


def _gram(a: Tensor, b: Tensor, biased: bool) -> Tensor:
    return a @ b.T + 1 if biased else a @ b.T


def _with_one(a: Tensor, biased: bool) -> Tensor:
    return torch.cat([a, torch.ones_like(a[:, :1])], 1) if biased else a
