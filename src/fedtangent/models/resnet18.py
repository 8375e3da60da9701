"""resnet18: torchvision's residual network of 18 layers, two basic blocks of each width 64 to 512.

He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016. arXiv 1512.03385.
Wu, He. Group Normalization. ECCV 2018. arXiv 1803.08494.
"""

import numpy as np
from torch import nn

from fedtangent.models._resnet import Norm, resnet


def resnet18(inputs: tuple[int, ...], outputs: int, rng: np.random.Generator, *, norm: Norm = "group") -> nn.Sequential:
    """11,181,642 parameters for ten classes of colour images.

    Args:
        inputs: Channels, height and width.
        outputs: The number of classes or targets.
        rng: Draws the weights.
        norm: `group`, or `batch`, as in resnet8.
    """
    return resnet(inputs, outputs, rng, widths=(64, 128, 256, 512), blocks=2, norm=norm)
