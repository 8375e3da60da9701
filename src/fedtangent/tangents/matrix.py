"""A kernel as one matrix over samples and outputs."""

from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.samples import tensor


def matrix(k: Tensor) -> Tensor:
    """A full kernel (n1, n2, C, C) as the matrix J1 J2^T, (n1 C, n2 C), a sample's outputs side by side; a copy.

    Row n C + c is output c of sample n, as in `alpha.flatten()` of alpha (n, C). A trace kernel (n1, n2) is a matrix
    already, and given back.

    Raises:
        TypeError: No tensor.
        ValueError: Other axes.

    Example:
        >>> import torch
        >>> matrix(torch.arange(8).reshape(1, 2, 2, 2)).tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    k = tensor("k", k)
    if k.dim() == 2:
        return k
    if k.dim() != 4 or k.shape[2] != k.shape[3]:
        raise SettingError(
            f"`k` must be (n1, n2, C, C) or (n1, n2); got {tuple(k.shape)}. "
            "A diagonal kernel is a matrix for every output: k.movedim(2, 0)."
        )
    n1, n2, c, _ = k.shape
    return k.transpose(1, 2).reshape(n1 * c, n2 * c)
