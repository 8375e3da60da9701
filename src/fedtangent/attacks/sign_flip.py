"""sign_flip: the message against itself.

Li, Xu, Chen, Giannakis, Ling. RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
Heterogeneous Datasets. AAAI 2019. arXiv 1811.03761, where the factor is 4.
"""

from fedtangent.errors import SettingError
from fedtangent.federation import Attack


def sign_flip(*, factor: float = 1.0) -> Attack:
    """-factor times what the liar would send.

    Args:
        factor: Of every number, positive; its sign is turned.

    Raises:
        ValueError: Another factor.
    """
    if not 0 < factor < float("inf"):
        raise SettingError(f"`factor` must be positive and finite; got {factor}. Use 1 to flip signs alone.")
    return Attack(lambda told: -factor * told.own)
