"""Blocks: the parameters that share a block of the Gauss-Newton matrix, and their numbers as one matrix or vector.

G groups of a convolution; I inputs, the bias's 1 among them, and O results of a group.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.layers import Affine, Matrix, Sums
from fedtangent.tangents.capture.uses import Use, Uses
from fedtangent.tangents.capture.views import Layout

# After the name of a weight that is laid out (groups, inputs, results).
_TURNED = "^T"

Other = Literal["refuse", "exact"]


class Block(NamedTuple):
    """Parameters that share a block of the Gauss-Newton matrix.

    Attributes:
        uses: Where they are used.
        kronecker: Whether they are the weight, and perhaps the bias, of a linear map; else the block is kept whole.
        fixed: Whether the map's inputs are the data's, whatever the weights.
        lookup: Whether the map looks up rows, so that u has one 1, and A is the diagonal of how often each is read.
    """

    uses: tuple[str, ...]
    kronecker: bool
    fixed: bool
    lookup: bool = False


def blocks(found: Uses, other: Other = "refuse") -> dict[str, Block]:
    """The blocks of a model, each named by its parameters with commas between; `^T` follows a weight (I, O).

    Args:
        found: The uses of its parameters.
        other: What becomes of parameters of no linear map, normalisation, scale or sum: an error, or whole blocks, one
            a parameter.

    Raises:
        ValueError: Parameters without Kronecker factors.
    """
    if other not in ("refuse", "exact"):
        raise SettingError(f"`other` must be 'refuse' or 'exact'; got {other!r}. Choose one of the two.")
    owners: dict[str, list[str]] = {}
    for key, use in found.by_name.items():
        for name in use.call.names:
            owners.setdefault(name, []).append(key)
    made: dict[str, Block] = {}
    for name, own in owners.items():
        peers = [found.by_name[key] for key in own]
        names = _names(peers[0])
        alike = all(_names(peer) == names and all(owners[each] == own for each in names) for peer in peers)
        turned = _turned(peers[0])
        linear = alike and turned is not None and all(_turned(peer) == turned for peer in peers)
        if linear or (alike and isinstance(peers[0], (Affine, Sums)) and len(own) == 1):
            if name == names[0]:
                fixed = linear and len(own) == 1 and own[0] in found.fixed
                lookup = linear and isinstance(peers[0], Matrix) and peers[0].lookup
                made[",".join([name + _TURNED * bool(turned), *names[1:]])] = Block(tuple(own), linear, fixed, lookup)
        elif other == "refuse":
            function = getattr(peers[0].call.function, "__name__", "a function")
            raise SettingError(
                f"`model` must have Kronecker factors for every parameter; got none for {name!r}, used by {function}. "
                "Choose other='exact' for whole blocks of such parameters, or freeze it."
            )
        else:
            made[name] = Block(tuple(own), False, False)
    return made


def parameters(key: str) -> list[str]:
    """The parameters of a block."""
    return [name.removesuffix(_TURNED) for name in key.split(",")]


def matrix_of(tree: Weights, key: str, groups: int, fan_out: int) -> Tensor:
    """(G, O, I) of a weight and perhaps a bias."""
    weight, *bias = (tree[name] for name in parameters(key))
    turned = _TURNED in key
    whole = weight.reshape(groups, -1, fan_out).mT if turned else weight.reshape(groups, fan_out, -1)
    return torch.cat([whole, *(part.reshape(*whole.shape[:2], 1) for part in bias)], 2)


def of_matrix(matrix: Tensor, like: Weights, key: str) -> Weights:
    """The inverse of `matrix_of`; axes before G are kept."""
    (weight, *bias), ahead = parameters(key), matrix.shape[:-3]
    whole = matrix[..., :-1] if bias else matrix
    found = {weight: (whole.mT if _TURNED in key else whole).reshape(*ahead, *like[weight].shape)}
    return found | {name: matrix[..., -1].reshape(*ahead, *like[name].shape) for name in bias}


def of_vector(flat: Tensor, like: Weights, key: str) -> Weights:
    """Parameters from their numbers in one piece, along the last axis."""
    own = parameters(key)
    parts = torch.split(flat, [like[name].numel() for name in own], -1)
    return {name: part.reshape((*flat.shape[:-1], *like[name].shape)) for name, part in zip(own, parts, strict=True)}


def _turned(use: Use) -> bool | None:
    """Whether a matrix's weight is laid out (G, I, O); None where it has neither that layout nor (G, O, I)."""
    if not isinstance(use, Matrix) or not isinstance(use.layout, Layout):
        return None
    if use.lookup:
        return True if use.layout.in_order else None
    if use.bias_layout is not None and not use.bias_layout.in_order:
        return None
    if use.layout.in_order:
        return False
    turned = (use.groups, use.fan_in, use.fan_out)
    plain = tuple(size for size in turned if size != 1)
    order = (0, 2, 1) if len(plain) == 3 else (1, 0)
    return True if (use.layout.split, use.layout.order) == (plain, order) else None


def _names(use: Use) -> tuple[str, ...]:
    """The parameters of a use, the bias or shift last."""
    if isinstance(use, Matrix):
        return (use.weight,) if use.bias is None else (use.weight, use.bias)
    if isinstance(use, Affine):
        return (use.scale,) if use.shift is None else (use.scale, use.shift)
    return use.call.names
