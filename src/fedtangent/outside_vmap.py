"""Functions whose course depends on their data, under `torch.func.vmap`: they see the whole batch as plain tensors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


def look(see: Callable[[Any], None], tree: Any) -> None:
    """`see(tree)` outside of all transforms of torch.func; of what is mapped by vmap the first entries."""
    leaves: list[Tensor]
    leaves, structure = optree.tree_flatten(tree)
    _Seen.apply(
        lambda leaves: see(optree.tree_unflatten(structure, leaves)),
        lambda leaf, axis: leaf.select(axis, 0),
        *(leaf.detach() for leaf in leaves),
    )


def true_for_all(mask: Tensor) -> list[bool]:
    """The entries of a mask; under vmap, whether each is true for all."""
    entries: list[bool] = []
    _Seen.apply(lambda leaves: entries.extend(leaves[0].tolist()), lambda leaf, axis: leaf.all(axis), mask)
    return entries


class _Seen(torch.autograd.Function):
    """Shows plain tensors; what is mapped by vmap is first brought to one entry by `pick`, (leaf, axis) -> leaf."""

    @staticmethod
    def forward(
        see: Callable[[Sequence[Tensor]], None], pick: Callable[[Tensor, int], Tensor], *leaves: Tensor
    ) -> Tensor:
        with hooks_allowed():
            see(leaves)
        return leaves[0].new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep: there is no backward pass."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        see: Callable[[Sequence[Tensor]], None],
        pick: Callable[[Tensor, int], Tensor],
        *leaves: Tensor,
    ) -> tuple[Tensor, None]:
        picked = (leaf if dim is None else pick(leaf, dim) for leaf, dim in zip(leaves, in_dims[2:], strict=True))
        return _Seen.apply(see, pick, *picked), None


@contextmanager
def hooks_allowed() -> Iterator[None]:
    """Hooks on saved tensors, such as checkpoints set: torch.func forbids them, also where its transforms are left."""
    forbidden = torch._C._autograd._saved_tensors_hooks_get_disabled_error_message()
    torch._C._autograd._saved_tensors_hooks_enable()
    try:
        yield
    finally:
        if forbidden is not None:
            torch._C._autograd._saved_tensors_hooks_disable(forbidden)
