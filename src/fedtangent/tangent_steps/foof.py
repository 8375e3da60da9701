"""FOOF: every linear map preconditioned by the mean of u u^T over rows, u its inputs; K-FAC's A without B.

Benzing. Gradient Descent on Neurons and its Link to Approximate Second-Order Optimization. ICML 2022. arXiv 2201.12250.
Parameters of no linear map are left as they are. G groups of a convolution, I inputs with the bias's 1, O results.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fedtangent.tangent_steps.blocks import matrix_of, of_matrix, parameters
from fedtangent.tangent_steps.triangles import unpack
from fedtangent.tangents.capture.functional import Weights

Parts = dict[str, Tensor]


def damped(a: Parts, rows: Tensor, damping: float) -> Parts:
    """P = A / rows + damping 1 of every block, (G, I, I); of look-ups its diagonal, (I,).

    Args:
        a: Sums of u u^T, packed, as `kfac.all_inputs` gives them.
        rows: Over how many.
        damping: Not negative.
    """
    found = {}
    for key, part in a.items():
        p = (part if part.dim() == 1 else unpack(part)) / rows
        (p if p.dim() == 1 else p.diagonal(dim1=-2, dim2=-1)).add_(damping)
        found[key] = p
    return found


def times(p: Parts, tree: Weights) -> Weights:
    """W P of every linear map's (O, I) matrix W of a tree like the weights."""
    return _each(p, tree, lambda matrix, part: matrix * part if part.dim() == 1 else matrix @ part)


def factored(p: Parts) -> Parts:
    """The lower triangles L L^T = P, which `solved` takes; NaN where P is not positive definite."""
    found = {}
    for key, part in p.items():
        if part.dim() == 1:
            found[key] = torch.where(part > 0, part, torch.nan)
        else:
            lower, failed = torch.linalg.cholesky_ex(part)
            found[key] = torch.where(failed[..., None, None] == 0, lower, torch.nan)
    return found


def solved(lower: Parts, tree: Weights) -> Weights:
    """W P^-1, from the triangles of P."""

    def solve(matrix: Tensor, part: Tensor) -> Tensor:
        return matrix / part if part.dim() == 1 else torch.cholesky_solve(matrix.mT, part).mT

    return _each(lower, tree, solve)


def _each(parts: Parts, tree: Weights, fn: Callable[[Tensor, Tensor], Tensor]) -> Weights:
    found = dict(tree)
    for key, part in parts.items():
        weight, *bias = parameters(key)
        groups = 1 if part.dim() == 1 else part.shape[0]
        fan_out = tree[weight].numel() // (groups * (part.shape[-1] - len(bias)))
        found |= of_matrix(fn(matrix_of(tree, key, groups, fan_out), part), tree, key)
    return {name: found[name] for name in tree}
