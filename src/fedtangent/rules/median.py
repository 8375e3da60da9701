"""median: of every coordinate.

Yin, Chen, Kannan, Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018,
Definition 1. arXiv 1803.01498.
"""

from torch import Tensor

from fedtangent.federation import Given, Rule


def median() -> Rule:
    """The median of every coordinate, the mean of the two middle numbers where their count is even; no weights.

    Tolerates fewer than half of the senders.
    """

    def average(given: Given) -> Tensor:
        x, m = given.x.sort(0).values, len(given.x)
        return (x[(m - 1) // 2] + x[m // 2]) / 2

    return Rule(average, None, lambda f: 2 * f + 1)
