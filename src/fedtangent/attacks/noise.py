"""noise: the message with Gaussian noise.

As the Gaussian attack of Blanchard, El Mhamdi, Guerraoui, Stainer. Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent. NeurIPS 2017, added to the message.
"""

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation import Attack, Told


def noise(*, deviation: float = 1.0) -> Attack:
    """What the liar would send, and normal noise: the same to all receivers of one message.

    Args:
        deviation: Of every number's noise, positive.

    Raises:
        ValueError: Another deviation.
    """
    if not 0 < deviation < float("inf"):
        raise SettingError(f"`deviation` must be positive and finite; got {deviation}. Use 1.")

    def lie(told: Told) -> Tensor:
        return told.own + deviation * torch.from_numpy(told.draw().normal(size=told.own.shape)).to(told.own)

    return Attack(lie)
