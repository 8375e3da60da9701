"""Conjugate gradients with a Nyström preconditioner, for many right sides and blocks at once.

scipy's, which `evolve` uses, takes one right side at a time, on the CPU; here a product with the kernel serves all.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Times = Callable[[Tensor], Tensor]  # of columns (blocks, rows, q)


class Solved(NamedTuple):
    """What was found.

    Attributes:
        x: (blocks, rows, q).
        residual: |b - A x| / |b|, of the column where it is largest, by the recurrence.
        products: With A.
    """

    x: Tensor
    residual: float
    products: int


class Nystroem(NamedTuple):
    """An approximation U diag(values) U^T of K from a few products, as a preconditioner of K + ridge.

    Frangella, Tropp, Udell, Randomized Nyström preconditioning, 2023: the condition number is then some
    (value_rank + ridge) / ridge.

    Attributes:
        vectors: U, (blocks, rows, rank).
        values: (blocks, rank), the largest first.
        ridge: Of the system.
    """

    vectors: Tensor
    values: Tensor
    ridge: float

    def solve(self, r: Tensor) -> Tensor:
        """P^-1 r."""
        parts = self.vectors.mT @ r
        least = self.values[:, -1:, None] + self.ridge
        return r + self.vectors @ ((least / (self.values[..., None] + self.ridge) - 1) * parts)


def nystroem(times: Times, probes: Tensor, ridge: float, eps: float) -> Nystroem:
    """From products of K with random columns `probes` (blocks, rows, rank); eps is that of the products' precision."""
    probes = torch.linalg.qr(probes)[0]
    seen = times(probes)
    # a shift that rounding does not reach, taken off again
    shift = eps * probes.shape[1] ** 0.5 * torch.linalg.matrix_norm(seen).max()
    seen = seen + shift * probes
    gram = probes.mT @ seen
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    root = vectors / values.clamp(min=shift).sqrt()[:, None]
    left, singular, _ = torch.linalg.svd(seen @ root, full_matrices=False)
    return Nystroem(left, (singular**2 - shift).clamp(min=0), ridge)


def conjugate_gradients(
    times: Times, b: Tensor, tolerance: float, products: int, precondition: Times = lambda r: r
) -> Solved:
    """x of A x = b, (blocks, rows, q), for A positive definite; each column on its own (Hestenes and Stiefel, 1952).

    Ends where every column's residual is below `tolerance` of its b, or after so many products.
    """
    size = torch.linalg.vector_norm(b, dim=1, keepdim=True)
    goal = tolerance * size
    x, r = torch.zeros_like(b), b
    z = precondition(r)
    p, rho = z, (r * z).sum(1, keepdim=True)
    for count in range(products + 1):
        left = torch.linalg.vector_norm(r, dim=1, keepdim=True)
        if count == products or bool((left <= goal).all()):
            break
        q = times(p)
        going = left > goal  # the others stay as they are, for 0 / 0
        step = torch.where(going, rho / (p * q).sum(1, keepdim=True), 0)
        x, r = x + step * p, r - step * q
        z = precondition(r)
        before, rho = rho, (r * z).sum(1, keepdim=True)
        p = z + torch.where(going, rho / before, 0) * p
    residual = torch.where(size > 0, left / size, 0)
    return Solved(x, float(residual.max()), count)
