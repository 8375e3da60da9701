"""Samples along one leading axis: a tensor, or the several tensors that a model takes as arguments."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import optree
import torch
from optree import register_pytree_node
from torch import Tensor
from torch.utils import _pytree
from torch.utils.data import DataLoader, Dataset

from fedtangent.errors import SettingError, SettingTypeError


class Batch:
    """Samples that a model takes as model(*parts), of a tuple, or as model(**parts), of a dict.

    It has what is used of a tensor: len, an index along the leading axis, split, clone. Trees and vmap look into it.
    """

    def __init__(self, parts: tuple[Any, ...] | dict[str, Any]) -> None:
        self.parts = parts

    @property
    def leaves(self) -> list[Tensor]:
        """Its tensors in order."""
        return list(self.parts.values() if isinstance(self.parts, dict) else self.parts)

    def map(self, fn: Callable[[Tensor], Any]) -> "Batch":
        """The samples with `fn` of every tensor."""
        return _unflatten(_keys(self), map(fn, self.leaves))  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.leaves[0])

    def __getitem__(self, index: Any) -> "Batch":
        return self.map(lambda leaf: leaf[index])

    def split(self, size: int) -> list["Batch"]:
        """Parts of so many samples, the last of the rest."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def clone(self) -> "Batch":
        """A copy."""
        return self.map(torch.clone)

    def numel(self) -> int:
        """Numbers in all tensors."""
        return sum(leaf.numel() for leaf in self.leaves)


Samples = Tensor | Batch


def _keys(batch: Batch) -> tuple[str, ...] | None:
    return tuple(batch.parts) if isinstance(batch.parts, dict) else None


def _flatten(batch: Any) -> tuple[list[Tensor], tuple[str, ...] | None]:
    return batch.leaves, _keys(batch)


def _unflatten(keys: Any, leaves: Iterable[Any]) -> Any:
    return Batch(tuple(leaves) if keys is None else dict(zip(keys, leaves, strict=True)))


# of the two libraries that look into trees: ours, and that of torch.func
register_pytree_node(Batch, _flatten, _unflatten, namespace=optree.registry.__GLOBAL_NAMESPACE)  # type: ignore[arg-type]
_pytree.register_pytree_node(Batch, _flatten, lambda leaves, keys: _unflatten(keys, leaves))


def leaves(x: Samples) -> list[Tensor]:
    """The tensors of samples."""
    return x.leaves if isinstance(x, Batch) else [x]


def checked(x1: Any, x2: Any = None, name: str = "x1") -> tuple[Samples, Samples | None]:
    """The samples, of which the first are called `name`, as tensors without history.

    Raises:
        TypeError: What holds no samples as tensors or arrays.
        ValueError: No samples, tensors of different lengths, NaN or infinity; x2 of another shape.
    """
    own = _finite(name, samples(name, x1))
    if x2 is None:
        return own, None
    its = _finite("x2", samples("x2", x2))
    if shape(own) != shape(its):
        raise SettingError(
            f"`x1` and `x2` must hold samples of one shape; got {shape(own)} and {shape(its)}. Reshape one of them."
        )
    for called, leaf, other in zip(names("x2", its), leaves(own), leaves(its), strict=True):
        if leaf.dtype != other.dtype and (leaf.is_floating_point() or other.is_floating_point()):
            raise SettingError(
                f"`{called}` must be {leaf.dtype}, as x1 is; got {other.dtype}. Convert it: {called}.to({leaf.dtype})."
            )
    return own, its


def check_plain(name: str, tensors: Iterable[Tensor]) -> None:
    """Raises for tensors inside of a transform of torch.func, whose values nothing can look at."""
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)):
        raise SettingError(
            f"`{name}` must be given outside of the transforms of torch.func; got a tensor of vmap, grad or jvp. Call "
            "this before them."
        )


def samples(name: str, x: Any) -> Samples:
    """A tensor as it is; a dict or tuple of tensors as a `Batch`; arrays of numpy as tensors."""
    if isinstance(x, Batch):
        return x
    if isinstance(x, Mapping) or type(x) is tuple:
        several = Batch({str(key): part for key, part in x.items()} if isinstance(x, Mapping) else x)
        own = _unflatten(_keys(several), map(tensor, names(name, several), several.leaves))
        lengths = {len(leaf) if leaf.dim() else 0 for leaf in own.leaves}
        if len(lengths) != 1 or 0 in lengths:
            raise SettingError(
                f"`{name}` must hold tensors with the samples along their first axes; got {shape(own, whole=True)}. "
                "Leave out what is no sample's own, such as flags: wrap the model."
            )
        return own  # type: ignore[no-any-return]
    if (remedy := next((said for kind, said in _REMEDIES if isinstance(x, kind)), None)) is not None:
        raise SettingTypeError(
            f"`{name}` must be a tensor, or a dict or tuple of tensors for a model of several arguments; "
            f"got {type(x).__name__}. {remedy}"
        )
    only = tensor(name, x)
    if only.dim() and not len(only):
        raise SettingError(
            f"`{name}` must hold samples along its first axis; got shape {tuple(only.shape)}. Give one at the least."
        )
    # whole numbers may each be a sample: an id
    if only.dim() < (2 if only.is_floating_point() else 1):
        raise SettingError(
            f"`{name}` must hold samples along its first axis; got shape {tuple(only.shape)}. Add that axis."
        )
    return only


def some(x: Samples, most: int) -> Samples:
    """At most so many samples, from the first to the last: samples are often sorted."""
    return x[torch.linspace(0, len(x) - 1, min(most, len(x)), device="cpu").round().long()]


def names(name: str, x: Samples) -> list[str]:
    """What the tensors of samples called `name` are called."""
    if not isinstance(x, Batch):
        return [name]
    return [f"{name}[{key!r}]" for key in (x.parts if isinstance(x.parts, dict) else range(len(x.parts)))]


def shape(x: Samples, whole: bool = False) -> Any:
    """The shape of a sample, or of all of them, by argument where there are several."""
    found = [tuple(leaf.shape[0 if whole else 1 :]) for leaf in leaves(x)]
    if not isinstance(x, Batch):
        return found[0]
    return dict(zip(x.parts, found, strict=True)) if isinstance(x.parts, dict) else tuple(found)


def _finite(name: str, x: Samples) -> Samples:
    check_plain(name, leaves(x))
    for called, leaf in zip(names(name, x), leaves(x), strict=True):
        # an argument may be a mask that holds -inf
        wrong = torch.isnan(leaf) if isinstance(x, Batch) else ~torch.isfinite(leaf)
        if leaf.is_floating_point() and wrong.any():
            raise SettingError(f"`{called}` must be finite; got NaN or infinity. Clean the data.")
    return x.map(Tensor.detach) if isinstance(x, Batch) else x.detach()


def tensor(name: str, x: Any) -> Tensor:
    """A dense tensor, of one or of an array of numpy."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise SettingError(f"`{name}` must hold all of its numbers; got a masked array. Fill it: {name}.filled(0).")
    if isinstance(x, np.memmap) and not x.flags.writeable:
        with warnings.catch_warnings():  # what torch says of an array that it must not write to, as nobody here does
            warnings.simplefilter("ignore", UserWarning)
            x = torch.from_numpy(np.asarray(x))
    elif isinstance(x, np.ndarray) and x.dtype.kind in "biufc":
        x = x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
        x = torch.from_numpy(np.ascontiguousarray(x) if x.flags.writeable else x.copy())
    if not isinstance(x, Tensor):
        got = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        numbers = f"{name}.to_numpy()" if hasattr(x, "to_numpy") else f"{name}.astype('float32')"
        convert = numbers if hasattr(x, "__array__") else "..."
        raise SettingTypeError(f"`{name}` must be a tensor; got {got}. Convert it: torch.as_tensor({convert}).")
    if x.is_meta:
        raise SettingTypeError(f"`{name}` must hold numbers; got a tensor on the device meta. Give its numbers.")
    if x.layout != torch.strided or x.is_nested:
        kind, remedy = ("a nested one", "to_padded_tensor") if x.is_nested else (f"one of {x.layout}", "to_dense")
        raise SettingTypeError(f"`{name}` must be a dense tensor; got {kind}. Convert it: {name}.{remedy}().")
    found: Tensor = x.long() if x.dtype in _UNSIGNED else x
    return found.clone() if found.is_inference() else found  # which a backward pass could not keep


_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # for which torch has next to no functions

_REMEDIES = (
    (DataLoader, "Join its batches, torch.cat([x for x, y in loader]), or let kernel stream it to a file: out=."),
    (Dataset, "Stack its samples: torch.stack([x for x, y in dataset])."),
    (list, "Stack samples, torch.stack(x), or give the model's arguments as tuple(x)."),
    (type(None), "Give the samples."),
)
