"""geometric_median: the point of the least weighted distances to all messages, by smoothed Weiszfeld steps (RFA).

Pillutla, Kakade, Harchaoui. Robust Aggregation for Federated Learning. IEEE Transactions on Signal Processing 70, 2022,
Algorithm 2. arXiv 1912.13445.
"""

from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Given, Rule


def geometric_median(*, steps: int = 32, smoothing: float = 1e-6) -> Rule:
    """argmin_z sum_i w_i |x_i - z|, from the mean by z <- sum_i b_i x_i / sum_i b_i, b_i = w_i / max(nu, |x_i - z|).

    Tolerates less than half of the weights.

    Args:
        steps: Of Weiszfeld's algorithm. The paper's three suffice for small corruptions; a far message needs more.
        smoothing: nu, relative to the mean distance of the messages to their mean.

    Raises:
        ValueError: No step, or no smoothing.
    """
    if steps < 1:
        raise SettingError(f"`steps` must be at least 1; got {steps}. Use 32.")
    if not 0 < smoothing < float("inf"):
        raise SettingError(f"`smoothing` must be positive and finite; got {smoothing}. Use 1e-6.")

    def average(given: Given) -> Tensor:
        x, w = given.x, given.weights
        z = w @ x
        nu = smoothing * (x - z).norm(dim=1).mean()
        for _ in range(steps if nu > 0 else 0):
            beta = w / (x - z).norm(dim=1).clamp_min(nu)
            z = beta @ x / beta.sum()
        return z

    return Rule(average, None, lambda f: 2 * f + 1)
