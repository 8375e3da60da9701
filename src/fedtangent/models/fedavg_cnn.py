"""fedavg_cnn: the convolutional network of the FedAvg paper, two convolutions and a dense layer of 512.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas. Communication-Efficient Learning of Deep Networks from Decentralized
Data. AISTATS 2017, section 3. arXiv 1602.05629.
"""

import numpy as np
from torch import nn

from fedtangent.errors import SettingError
from fedtangent.models._draw import drawn, image


def fedavg_cnn(inputs: tuple[int, ...], outputs: int, rng: np.random.Generator) -> nn.Sequential:
    """conv 32 of 5 x 5, pool 2, conv 64 of 5 x 5, pool 2, dense 512 and the outputs.

    1,663,370 parameters for ten classes of 1 x 28 x 28. Convolutions are padded, so that only
    the pools make images smaller. Weights are Kaiming normal by fan-in.

    Args:
        inputs: Channels, height and width, at least 4 x 4.
        outputs: The number of classes or targets.
        rng: Draws the weights, first layer first.
    """
    channels, height, width = image(inputs, outputs)
    if min(height, width) < 4:
        raise SettingError(f"`inputs` must be images of at least 4 x 4 to be pooled twice; got {inputs}. Use lenet.")
    return drawn(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512),
            nn.ReLU(),
            nn.Linear(512, outputs),
        ),
        rng,
    )
