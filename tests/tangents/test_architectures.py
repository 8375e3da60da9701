"""Whole architectures, unmodified: residual networks with GroupNorm and a small transformer encoder."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

from fedtangent.tangents import jacobian, kernel
from tests.often import often

OUTPUTS = 10


def norm(channels: int) -> nn.Module:
    return nn.GroupNorm(16, channels)


def resnet8() -> nn.Module:
    """As FedPart defines it: a stem and one block of each width 64, 128, 256."""
    stem = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), norm(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks: list[nn.Module] = [BasicBlock(64, 64, norm_layer=norm)]
    for width in (128, 256):
        down = nn.Sequential(nn.Conv2d(width // 2, width, 1, stride=2, bias=False), norm(width))
        blocks.append(BasicBlock(width // 2, width, 2, down, norm_layer=norm))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, OUTPUTS))


class Transformer(nn.Module):
    """Two encoder layers of width 64 on 32 vectors of 64, positions learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(32, 64) / 8)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(x + self.positions).mean(1))
        return found


MODELS = {
    "resnet8": (resnet8, (3, 32, 32), 1_235_274),
    "resnet18": (lambda: resnet18(num_classes=OUTPUTS, norm_layer=norm), (3, 32, 32), 11_181_642),
    "transformer": (Transformer, (32, 64), 2_048 + 2 * (12_480 + 4_160 + 8_320 + 8_256 + 2 * 128) + 650),
}


@pytest.mark.parametrize("name", often(MODELS, ["resnet8", "transformer"]))
def test_the_kernel_of_an_architecture(name: str) -> None:
    """K alpha of the kernel, tile by tile, equals J (J^T alpha), which forms neither."""
    build, shape, size = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = build().double(), torch.randn(3, *shape, dtype=torch.float64)
        alpha = torch.randn(3, OUTPUTS, dtype=torch.float64)
    assert sum(part.numel() for part in model.parameters()) == size
    full = kernel(model, x)
    literal = jacobian(model, x).times(alpha)
    assert (torch.einsum("nmcd,md->nc", full, alpha) - literal).norm() < 1e-10 * literal.norm()
    diagonal = full.diagonal(dim1=2, dim2=3)
    for kind, expected in (("diagonal", diagonal), ("trace", diagonal.mean(2))):
        assert (kernel(model, x, kind=kind) - expected).norm() < 1e-10 * expected.norm()  # type: ignore[arg-type]
    cross = kernel(model, x[:1], x[1:])
    assert (cross - full[:1, 1:]).norm() < 1e-10 * cross.norm()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", ["full", "trace", "diagonal"])
def test_a_convolution_that_sees_part_of_its_input_at_one_position(kind: str, size: int) -> None:
    """As in the shortcut of a last stage on small images: 1 x 1 or 2 x 2 of 3 x 2 pixels are all that counts."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Conv2d(4, 5, size, stride=3), nn.Tanh(), nn.Flatten(), nn.Linear(5, 3)).double()
    x = torch.randn(6, 4, 3, 2, dtype=torch.float64, generator=generator)
    seen = nn.Sequential(nn.Flatten(), nn.Linear(4 * size**2, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    seen.load_state_dict(
        {
            name.replace("0.", "1."): part.flatten(1) if part.dim() == 4 else part
            for name, part in model[:1].state_dict().items()
        }
        | {name: part for name, part in model.state_dict().items() if name.startswith("3.")}
    )
    expected = kernel(seen, x[:, :, :size, :size], kind=kind)  # type: ignore[arg-type]
    torch.testing.assert_close(kernel(model, x, kind=kind), expected, rtol=1e-10, atol=0)  # type: ignore[arg-type]
