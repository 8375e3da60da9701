"""lenet: LeNet-5, two convolutions and three dense layers, with ReLU and max-pooling.

LeCun, Bottou, Bengio, Haffner. Gradient-Based Learning Applied to Document Recognition. Proceedings of the IEEE, 1998.
Theirs has sigmoids, trained pooling and sparse connections.
"""

import numpy as np
from torch import nn

from fedtangent.models._draw import drawn, image

SIDE = 32  # of the images that it was made for


def lenet(inputs: tuple[int, ...], outputs: int, rng: np.random.Generator) -> nn.Sequential:
    """conv 6 of 5 x 5, pool 2, conv 16 of 5 x 5, pool 2, dense 120, 84 and the outputs.

    61,706 parameters for ten classes of 1 x 28 x 28. Smaller images are padded to 32 x 32 by zeros, as
    MNIST was. Weights are Kaiming normal by fan-in.

    Args:
        inputs: Channels, height and width.
        outputs: The number of classes or targets.
        rng: Draws the weights, first layer first.
    """
    channels, *sides = image(inputs, outputs)
    rows, columns = (max(0, -(-(SIDE - side) // 2)) for side in sides)
    height, width = (
        ((side + 2 * padding - 4) // 2 - 4) // 2 for side, padding in zip(sides, (rows, columns), strict=True)
    )
    return drawn(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=(rows, columns)),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * height * width, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, outputs),
        ),
        rng,
    )
