"""krum: the message nearest to its nearest ones; multi-Krum averages several of these.

Blanchard, El Mhamdi, Guerraoui, Stainer. Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent.
NeurIPS 2017. arXiv 1703.02757.
"""

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Given, Rule, checked


def krum(*, liars: int = 1, chosen: int = 1) -> Rule:
    """Of m messages the one with the least sum of squared distances to its m - f - 2 nearest others.

    Needs 2 f + 3 messages.

    Args:
        liars: f, how many of a neighbourhood, or of a server's clients, may lie.
        chosen: The mean of so many with the least sums, by their weights; 1 is Krum, more multi-Krum.

    Raises:
        ValueError: None is chosen.
    """
    checked(liars)
    if chosen < 1:
        raise SettingError(f"`chosen` must be at least 1; got {chosen}. Use 1 for Krum.")

    def average(given: Given) -> Tensor:
        x, m = given.x, len(given.x)
        squared = torch.stack([(x - row).square().sum(1) for row in x])
        squared.fill_diagonal_(torch.inf)
        nearest = squared.sort(1).values[:, : max(m - given.liars - 2, 1)]
        score = torch.where(nearest.isfinite(), nearest, 0).sum(1)
        best = score.argsort(stable=True)[:chosen]
        w = given.weights[best]
        return (w / w.sum()) @ x[best] if w.sum() > 0 else x[best].mean(0)

    return Rule(average, liars, lambda f: max(2 * f + 3, chosen))
