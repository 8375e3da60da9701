"""scaling: the message made larger, so that it outweighs the others.

Bagdasaryan, Veit, Hua, Estrin, Shmatikov. How To Backdoor Federated Learning. AISTATS 2020. arXiv 1807.00459.
"""

import math

from fedtangent.errors import SettingError
from fedtangent.federation import Attack


def scaling(*, factor: float = 10.0) -> Attack:
    """The factor times what the liar would send.

    Args:
        factor: Of every number; finite, and not 1.

    Raises:
        ValueError: Another factor.
    """
    if not math.isfinite(factor) or factor == 1:
        raise SettingError(f"`factor` must be finite and not 1, which changes nothing; got {factor}. Use 10.")
    return Attack(lambda told: factor * told.own)
