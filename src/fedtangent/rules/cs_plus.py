"""cs_plus: the neighbours' differences, the furthest of them clipped to the length of the next (CS+).

Gaucher, Dieuleveut, Hendrikx. Unified Breakdown Analysis for Byzantine Robust Gossip. ICML 2025. arXiv 2410.10418.
"""

import torch
from torch import Tensor

from fedtangent.federation import Given, Rule, checked


def cs_plus(*, liars: int = 1) -> Rule:
    """x_i + sum_j W_ij clip(x_j - x_i, tau), with the largest tau beyond which there is still a weight of 2 b.

    b is the weight of the `liars` heaviest neighbours; x_i itself counts with its weight, at the distance 0. With
    2 b at or above the neighbours' weight tau is 0, and the node stays where it is: it needs 2 f + 2 messages.

    Args:
        liars: f, how many of a neighbourhood may lie.
    """
    checked(liars)

    def average(given: Given) -> Tensor:
        assert given.own is not None
        own, w = given.x[given.own], given.weights
        moves = given.x - own
        far = moves.norm(dim=1)
        others = torch.cat([w[: given.own], w[given.own + 1 :]])
        b = others.sort(descending=True).values[: given.liars].sum()
        order = far.argsort(stable=True)
        inside = w[order].cumsum(0) <= w.sum() - 2 * b + 1e-6  # the weights' sums are rounded
        tau = torch.where(inside, far[order], 0).max() if given.liars else far.max()
        kept = torch.where(far > tau, tau / far, 1)
        return own + (w * kept) @ moves

    return Rule(average, liars, lambda f: 2 * f + 2, centred=True)
