"""trimmed_mean: of every coordinate the mean without the largest and the smallest numbers.

Yin, Chen, Kannan, Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018,
Definition 2. arXiv 1803.01498.
"""

import torch
from torch import Tensor

from fedtangent.federation import Given, Rule, checked


def trimmed_mean(*, liars: int = 1) -> Rule:
    """The mean of what is left of every coordinate without its `liars` largest and smallest numbers.

    Those that are left keep their weights in proportion. Tolerates fewer than half of the senders.

    Args:
        liars: f, how many of a neighbourhood, or of a server's clients, may lie.
    """
    checked(liars)

    def average(given: Given) -> Tensor:
        m, f = len(given.x), given.liars
        x, order = given.x.sort(stable=True, dim=0)
        w = given.weights[order][f : m - f]
        return torch.where(w.sum(0) > 0, (w * x[f : m - f]).sum(0) / w.sum(0), x[f : m - f].mean(0))

    return Rule(average, liars, lambda f: 2 * f + 1)
