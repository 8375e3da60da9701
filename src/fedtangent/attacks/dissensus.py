"""dissensus: neighbours are kept from agreeing: what honest neighbours pull a node by is taken back.

He, Karimireddy, Jaggi. Byzantine-Robust Decentralized Learning via ClippedGossip. 2022, section 3. arXiv 2202.01545.
"""

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Attack, Told


def dissensus(*, strength: float = 1.0) -> Attack:
    """x_i - strength sum_k W_ik (x_k - x_i) / sum_j W_ij, over honest k and lying j; to every receiver i another.

    With strength 1 a plain average leaves every node that has a liar beside it where it was. Other messages than
    those that neighbours average are sent as they are.

    Args:
        strength: epsilon of the paper, positive.

    Raises:
        ValueError: Another strength.
    """
    if not 0 < strength < float("inf"):
        raise SettingError(f"`strength` must be positive and finite; got {strength}. Use 1 to stop all averaging.")

    def lie(told: Told) -> Tensor:
        if told.receiver is None:
            return told.own
        pull: Tensor = torch.tensordot(told.weights, told.honest - told.receiver, dims=1)
        return told.receiver - strength * pull / told.weight

    return Attack(lie, colludes=True, between=True)
