"""The Jacobian written out, (n, C, *shape) by parameter: for messages in which its entries no longer have factors."""

from typing import Literal

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.factors import Factors, head
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.kernel_operator import Full, Trace
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.numerics.kernel_parts import gradients, parts

# What one node may write out: 2^24 numbers are 64 MiB in float32.
LARGEST = 2**24


def explicit(uses: Uses, factors: Factors, w: Weights, n: int) -> Weights:
    """J of n samples as a tree of weights with leading axes (n, C).

    Raises:
        ValueError: It has more than 2^24 numbers.
    """
    count = n * uses.outputs * sum(part.numel() for part in w.values())
    if count > LARGEST:
        raise SettingError(
            f"`exchange` must be 'factors' where a Jacobian of more than {LARGEST:,} numbers would be compressed; "
            f"got 'jacobian' with {count:,}. Compress the factors, or take fewer rows."
        )
    found: Weights = {}
    for part in parts(uses, w):
        found |= gradients(part, w, factors, head(uses, w))
    # nothing depends on the others
    zeros = {name: part.new_zeros(n, uses.outputs, *part.shape) for name, part in w.items() if name not in found}
    return {name: found[name] if name in found else zeros[name] for name in w}


def kernel_of_jacobian(kind: Literal["trace", "full"], j: Weights) -> Trace | Full:
    """J J^T, its mean over outputs or in full."""
    if kind == "trace":
        found = [leaf.flatten(1) @ leaf.flatten(1).mT / leaf.shape[1] for leaf in j.values()]
        return Trace(sum(found[1:], found[0]))
    rows = [leaf.reshape(len(leaf) * leaf.shape[1], -1) for leaf in j.values()]
    return Full(sum((row @ row.mT for row in rows[1:]), rows[0] @ rows[0].mT))


def pullback(j: Weights, alpha: Tensor) -> Weights:
    """J^T alpha for alpha (T, n, C): a tree of weights with a leading axis T."""
    return {name: torch.einsum("tnc,nc...->t...", alpha, leaf) for name, leaf in j.items()}


def pushforward(j: Weights, v: Weights) -> Tensor:
    """J v (T, n, C) for a tree of weights v with a leading axis T."""
    found = [torch.einsum("nc...,t...->tnc", leaf, v[name]) for name, leaf in j.items()]
    return sum(found[1:], found[0])
