"""project: fewer inputs, each a random mixture of all.

Johnson, Lindenstrauss. Extensions of Lipschitz Mappings into a Hilbert Space. 1984. In CP-NTK-FL (Yue et al.,
ICML 2022, arXiv 2110.03681) the clients share the seed, and the server does not know it.
"""

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError


def project(inputs: int, size: int, rng: np.random.Generator) -> Tensor:
    """P (inputs, size) in float64 with independent entries of N(0, 1 / size), so that E |x P|^2 = |x|^2.

    A network of x P has `size` inputs, and so do its Jacobian's rows. Who knows P and x P knows x up to a guess of
    inputs - size numbers: a server that one client tells its seed sees images (30 dB at 100 of 784 mixtures, 42 dB at
    200, with a linear prior from other images). Without P it still sees which rows are alike: |x P - z P| is |x - z|,
    nearly.

    Args:
        inputs: Of the network as it was.
        size: Of it as it is to be, at most `inputs`.
        rng: The same one at every client.

    Raises:
        ValueError: A size below 1 or above the inputs.
    """
    if not 1 <= size <= inputs:
        raise SettingError(f"`project` must be between 1 and {inputs}, the number of inputs; got {size}. Choose fewer.")
    matrix: Tensor = torch.from_numpy(rng.standard_normal((inputs, size))) / size**0.5
    return matrix


def projected(x: Tensor, matrix: Tensor) -> Tensor:
    """x P (rows, size) of inputs (rows, ...), in their dtype.

    Raises:
        TypeError: Inputs that are not floats.
    """
    if not x.is_floating_point():
        raise SettingTypeError(f"`project` must be left out for inputs that are not floats; got {x.dtype}. Drop it.")
    return x.flatten(1) @ matrix.to(x)
