"""inner_product: against the mean of the honest messages, so that the average points away from it (IPM).

Xie, Koyejo, Gupta. Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation. UAI 2019.
arXiv 1903.03936.
"""

from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Attack, Told


def inner_product(*, factor: float = 0.5) -> Attack:
    """-factor times the mean of the honest messages to the same receiver; all liars send the same.

    Where the honest messages are of other shapes, such as rows of data, it is the liar's own message that is flipped.

    Args:
        factor: epsilon of the paper, positive.

    Raises:
        ValueError: Another factor.
    """
    if not 0 < factor < float("inf"):
        raise SettingError(f"`factor` must be positive and finite; got {factor}. Use 0.5.")

    def lie(told: Told) -> Tensor:
        return -factor * (told.honest.mean(0) if len(told.honest) else told.own)

    return Attack(lie, colludes=True)
