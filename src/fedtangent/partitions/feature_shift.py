"""Feature shift: IID rows, whose inputs are noisier from node to node.

After Li, Diao, Chen, He. Federated Learning on Non-IID Data Silos: An Experimental Study. ICDE 2022, "noise-based
feature imbalance". arXiv 2102.02079.
"""

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.partitions._rows import shuffled_rows
from fedtangent.shard import Partition


def feature_shift(x: Tensor, y: Tensor, nodes: int, rng: np.random.Generator, *, noise: float = 0.5) -> Partition:
    """An IID partition and a copy of the inputs, with noise of deviation `noise` (k + 1) / `nodes` on those of node k.

    Args:
        x: Inputs, (rows, *inputs), as floats.
        y: Labels or targets; they stay as they are.
        nodes: Number of nodes.
        rng: The only source of randomness.
        noise: Standard deviation of the last node's Gaussian noise, in units of the inputs.

    Raises:
        TypeError: Inputs that are not floats.
        ValueError: Fewer rows than nodes, or a noise that is negative or not finite.
    """
    if not x.is_floating_point():
        raise SettingTypeError(
            f"`x` must be floats to take noise; got {x.dtype}. Use another partition for tokens and counts."
        )
    if not 0 <= noise < np.inf:
        raise SettingError(f"`noise` must be finite and not negative; got {noise}. Use a value such as 0.5.")
    parts = [np.sort(part) for part in np.array_split(shuffled_rows(x, nodes, rng), nodes)]
    shifted = x.clone()
    for node, part in enumerate(parts):
        rows = torch.from_numpy(part).to(x.device)
        drawn = torch.from_numpy(rng.standard_normal((len(part), *x.shape[1:]))).to(x)
        shifted[rows] += noise * (node + 1) / nodes * drawn
    return Partition(parts, shifted)
