"""norm_clipping: no message longer than a quantile of all lengths.

Sun, Kairouz, Suresh, McMahan. Can You Really Backdoor Federated Learning? 2019. arXiv 1911.07963; the bound from a
quantile as by Andrew, Thakkar, McMahan, Ramaswamy. Differentially Private Learning with Adaptive Clipping. NeurIPS
2021. arXiv 1905.03871.
"""

import math

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Given, Rule


def norm_clipping(*, quantile: float = 0.5) -> Rule:
    """sum_j w_j x_j min(1, tau / |x_j|), tau the quantile of the messages' lengths.

    For moves and contributions to sums, of which a long one does harm; weights are all about as long.

    Args:
        quantile: In (0, 1]: the length of rank ceil(quantile x messages).

    Raises:
        ValueError: Another quantile.
    """
    if not 0 < quantile <= 1:
        raise SettingError(f"`quantile` must be in (0, 1]; got {quantile}. Use 0.5 for the median of the lengths.")

    def average(given: Given) -> Tensor:
        length = given.x.norm(dim=1)
        tau = length.sort().values[math.ceil(quantile * len(length) - 1e-9) - 1]
        return (given.weights * torch.where(length > tau, tau / length, 1)) @ given.x

    return Rule(average, None, lambda f: 2 * f + 1)
