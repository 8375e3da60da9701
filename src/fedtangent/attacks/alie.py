"""alie: a little is enough: as far from the mean as the spread of honest messages hides.

Baruch, Baruch, Goldberg. A Little Is Enough: Circumventing Defenses For Distributed Learning. NeurIPS 2019,
Algorithm 3. arXiv 1902.06156.
"""

from statistics import NormalDist

from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Attack, Told


def alie(*, z: float | None = None) -> Attack:
    """mu - z sigma of the honest messages to the same receiver, coordinate by coordinate; all liars send the same.

    Where the honest messages are of other shapes, such as rows of data, the liar's own is sent.

    Args:
        z: How many deviations; none is the paper's bound, where of n senders m lie: the quantile (n - m - s) / (n - m)
            of the normal distribution with s = floor(n / 2 + 1) - m, which is nothing in a small neighbourhood.

    Raises:
        ValueError: z is not positive.
    """
    if z is not None and not 0 < z < float("inf"):
        raise SettingError(f"`z` must be positive and finite; got {z}. Leave it out for the paper's bound.")

    def lie(told: Told) -> Tensor:
        if not len(told.honest):
            return told.own
        by = largest(len(told.honest) + told.liars, told.liars) if z is None else z
        return told.honest.mean(0) - by * told.honest.std(0, correction=0)

    return Attack(lie, colludes=True)


def largest(senders: int, liars: int) -> float:
    """z_max of the paper; 0 where it is negative, or every sender lies."""
    share = (senders - liars - (senders // 2 + 1 - liars)) / max(senders - liars, 1)
    return max(NormalDist().inv_cdf(share), 0.0) if 0 < share < 1 else 0.0
