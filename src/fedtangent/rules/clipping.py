"""clipping: self-centred: no neighbour moves a node by more than a radius (ClippedGossip).

He, Karimireddy, Jaggi. Byzantine-Robust Decentralized Learning via ClippedGossip. 2022, Algorithm 1. arXiv 2202.01545.
"""

import math

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Given, Rule


def clipping(*, quantile: float = 0.5, radius: float | None = None) -> Rule:
    """x_i + sum_j W_ij clip(x_j - x_i, tau): a difference longer than tau is shortened to it.

    The paper's tau is a constant, or uses who is honest; here it is a quantile of the distances to this round's
    neighbours: it follows the training, needs no memory, and fewer than a share 1 - `quantile` of liars cannot raise it
    above an honest distance.

    Args:
        quantile: Of the neighbours' distances, in (0, 1]: the one of rank ceil(quantile x neighbours).
        radius: tau itself, in place of the quantile.

    Raises:
        ValueError: Another quantile or radius.
    """
    if not 0 < quantile <= 1:
        raise SettingError(f"`quantile` must be in (0, 1]; got {quantile}. Use 0.5 for the median of the distances.")
    if radius is not None and not radius > 0:
        raise SettingError(f"`radius` must be positive; got {radius}. Leave it out for a quantile of the distances.")

    def average(given: Given) -> Tensor:
        assert given.own is not None
        own = given.x[given.own]
        moves = given.x - own
        far = moves.norm(dim=1)
        others = torch.cat([far[: given.own], far[given.own + 1 :]]).sort().values
        if not len(others):
            return own
        tau = far.new_tensor(radius) if radius is not None else others[math.ceil(quantile * len(others) - 1e-9) - 1]
        kept = torch.where(far > tau, tau / far, 1)
        return own + (given.weights * kept) @ moves

    return Rule(average, None, lambda f: 2 * f + 1, centred=True)
