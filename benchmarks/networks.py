"""The networks that the kernel's benchmark runs, with samples of their shape; all with ten outputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import resnet18 as torchvision_resnet18
from torchvision.models.resnet import BasicBlock

OUTPUTS = 10


def mlp() -> nn.Module:
    """784-100-10, the papers' network on Fashion-MNIST."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, OUTPUTS))


def lenet() -> nn.Module:
    """LeNet-5 on 28 x 28, 61,706 parameters."""
    convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, OUTPUTS)]
    return nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), *dense)


def norm(channels: int) -> nn.Module:
    """GroupNorm in place of batch norm: a sample's outputs are its own."""
    return nn.GroupNorm(16, channels)


def resnet8() -> nn.Module:
    """FedPart's ResNet-8 with GroupNorm: widths 64, 128, 256, one block a stage, 1,235,274 parameters."""
    stem = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), norm(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    stages: list[nn.Module] = [BasicBlock(64, 64, norm_layer=norm)]
    for width in (128, 256):
        down = nn.Sequential(nn.Conv2d(width // 2, width, 1, stride=2, bias=False), norm(width))
        stages.append(BasicBlock(width // 2, width, 2, down, norm_layer=norm))
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, OUTPUTS))


def resnet18() -> nn.Module:
    """torchvision's, with GroupNorm."""
    return torchvision_resnet18(num_classes=OUTPUTS, norm_layer=norm)


class Transformer(nn.Module):
    """Two encoder layers of width 64 on 32 vectors of 64, positions learnt, about 70,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(32, 64) / 8)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 32, 64) -> (n, 10)."""
        found: Tensor = self.head(self.encoder(x + self.positions).mean(1))
        return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (1, 28, 28)),
    "lenet": (lenet, (1, 28, 28)),
    "resnet8": (resnet8, (3, 32, 32)),
    "resnet18": (resnet18, (3, 32, 32)),
    "transformer": (Transformer, (32, 64)),
}
