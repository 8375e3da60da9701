"""resnet8: FedPart's small residual network: a stem and one basic block of each width 64, 128, 256.

Wang et al. Why Go Full? Elevating Federated Learning Through Partial Network Updates. NeurIPS 2024. arXiv 2410.11559.
The blocks are those of He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016. arXiv 1512.03385;
the normalisation is that of Wu, He. Group Normalization. ECCV 2018. arXiv 1803.08494.
"""

import numpy as np
from torch import nn

from fedtangent.models._resnet import Norm, resnet


def resnet8(inputs: tuple[int, ...], outputs: int, rng: np.random.Generator, *, norm: Norm = "group") -> nn.Sequential:
    """1,235,274 parameters and 14.5 million multiply-adds a pass for ten classes of 3 x 32 x 32.

    Args:
        inputs: Channels, height and width.
        outputs: The number of classes or targets.
        rng: Draws the weights.
        norm: `group`, or the paper's `batch`: the rows of a batch normalise each other, and where the model is measured
            statistics do that the clients sum after every round, of methods that average weights at a server.
    """
    return resnet(inputs, outputs, rng, widths=(64, 128, 256), blocks=1, norm=norm)
