"""Functions whose course depends on their data, under `torch.func.vmap`: they see the whole batch as plain tensors."""

from collections.abc import Callable
from typing import Any

import optree
import torch
from torch import Tensor


def outside_vmap(solve: Callable[..., Tensor], *trees: Any) -> Tensor:
    """`solve(*trees)` for one problem, where `solve` is written for many: leaves and result have a leading axis.

    Without vmap that axis has length one. Nothing is differentiated.
    """
    leaves: list[Tensor]
    leaves, structure = optree.tree_flatten(trees)  # type: ignore[arg-type]

    def flat(*leaves: Tensor) -> Tensor:
        with torch.no_grad():
            return solve(*optree.tree_unflatten(structure, leaves))

    return _OutsideVmap.apply(flat, *leaves)  # type: ignore[no-any-return]


class _OutsideVmap(torch.autograd.Function):
    @staticmethod
    def forward(solve: Callable[..., Tensor], *leaves: Tensor) -> Tensor:
        return solve(*(leaf[None] for leaf in leaves))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep: there is no backward pass."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, solve: Callable[..., Tensor], *leaves: Tensor) -> tuple[Tensor, int]:
        batched = [
            leaf.expand(info.batch_size, *leaf.shape) if dim is None else leaf.movedim(dim, 0)
            for leaf, dim in zip(leaves, in_dims[1:], strict=True)
        ]
        return solve(*batched), 0
