"""Natural: every site of the data set is a node with its own rows, such as the hospitals that they come from."""

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.shard import Partition


def natural(x: Tensor, y: Tensor, nodes: int | None, rng: np.random.Generator, site: Tensor | None) -> Partition:
    """Disjoint shards that use every row once, node k the k-th lowest site number; it draws nothing from `rng`.

    Args:
        x: Inputs, (rows, *inputs).
        y: Labels or targets; not used.
        nodes: Number of nodes, which must be that of the sites; none takes the sites'.
        rng: Not used.
        site: The data set's `site_train`, where each row comes from, (rows,) as integers.

    Raises:
        ValueError: A data set without sites, or another number of them.
    """
    if site is None:
        raise SettingError(
            "`dataset` must say which site each row comes from, in `site_train`, for the partition natural; got one "
            "without sites. Use heart_disease, an .npz file with the array site_train, or --site of a table."
        )
    numbers = torch.unique(site)
    if nodes is not None and nodes != len(numbers):
        raise SettingError(
            f"`nodes` must be the number of the data set's sites, {len(numbers)}; got {nodes}. Leave it out."
        )
    return Partition([torch.nonzero(site == number).flatten().cpu().numpy() for number in numbers])
