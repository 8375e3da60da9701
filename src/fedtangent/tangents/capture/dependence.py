"""Which tensors depend on some given ones, followed through every operator of a forward pass.

Whatever lies in one storage counts as one tensor, so views, their bases and what is written in place are followed; so
are complex numbers, integers and booleans.
"""

from collections.abc import Iterable
from typing import Any

import optree
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Dependence(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered: follows what depends on `sources`. A forward pass outside the transforms of `torch.func`.

    Args:
        sources: Tensors such as a model's parameters.

    Attributes:
        everywhere: Whether Python has read a value that depends on them, so that anything may depend on them since.
    """

    def __init__(self, sources: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.everywhere = False
        self._storages: dict[int, Any] = {}  # kept alive, so that no other storage takes an address
        self._mark(sources)

    def of(self, tensors: Iterable[Tensor]) -> bool:
        """Whether one of these depends on the sources."""
        return self.everywhere or any(part.untyped_storage()._cdata in self._storages for part in tensors)

    def read(self, tensors: Iterable[Tensor]) -> None:
        """Notes that Python reads the values of these."""
        self.everywhere = self.of(tensors)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        depends = self.of(tensors((args, kwargs)))
        result = function(*args, **kwargs)
        if depends:
            if (
                function is torch.ops.aten._local_scalar_dense.default
                or torch.Tag.dynamic_output_shape in function.tags
            ):
                self.everywhere = True
            self._mark(tensors(result))
            given = {**dict(zip((part.name for part in function._schema.arguments), args, strict=False)), **kwargs}
            for part in function._schema.arguments:
                if part.alias_info is not None and part.alias_info.is_write:
                    self._mark(tensors(given.get(part.name)))
        return result

    def _mark(self, tensors: Iterable[Tensor]) -> None:
        for part in tensors:
            storage = part.untyped_storage()
            self._storages[storage._cdata] = storage


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of a tree."""
    return [leaf for leaf in optree.tree_leaves(tree, none_is_leaf=True) if isinstance(leaf, Tensor)]
