"""The residual networks: typed once more, their sizes by hand, and groups of layers in the order of a forward pass."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent.models.resnet8 import resnet8
from fedtangent.models.resnet18 import resnet18
from fedtangent.training import batch_norm
from fedtangent.training.batch_norm import BatchNorm

STEM, BLOCK_64 = 3 * 64 * 49 + 2 * 64, 64 * 64 * 9 + 2 * 64
GROUPS = {  # a convolution with the scale and shift after it, shortcuts on their own, the classifier last
    "resnet8": [STEM, BLOCK_64, BLOCK_64, 73_984, 147_712, 8_448, 295_424, 590_336, 33_280, 2_570],
    "resnet18": [
        9_536, *[36_992] * 4, 73_984, 147_712, 8_448, 147_712, 147_712, 295_424, 590_336, 33_280, 590_336, 590_336,
        1_180_672, 2_360_320, 132_096, 2_360_320, 2_360_320, 5_130,
    ],
}  # fmt: skip
BUILD: dict[str, Callable[..., nn.Sequential]] = {"resnet8": resnet8, "resnet18": resnet18}


@pytest.mark.parametrize(
    ("name", "outputs", "size"),
    [
        ("resnet8", 10, 1_235_274),
        ("resnet8", 100, 1_258_404),
        ("resnet8", 200, 1_284_104),
        ("resnet18", 10, 11_181_642),
        ("resnet18", 100, 11_227_812),
    ],
)
def test_the_papers_number_of_parameters(name: str, outputs: int, size: int) -> None:
    model = BUILD[name]((3, 32, 32), outputs, np.random.default_rng(0))
    assert sum(p.numel() for p in model.parameters()) == size


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", GROUPS)
def test_the_papers_groups_come_in_the_order_of_a_forward_pass(name: str, norm: str) -> None:
    model = BUILD[name]((3, 32, 32), 10, np.random.default_rng(0), norm=norm)
    sizes: list[int] = []

    def note(part: nn.Module, given: object, result: object) -> None:
        size = sum(p.numel() for p in part.parameters())
        if isinstance(part, (nn.GroupNorm, BatchNorm)):
            sizes[-1] += size
        else:
            sizes.append(size)

    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.GroupNorm, BatchNorm, nn.Linear)):
            part.register_forward_hook(note)
    model(torch.zeros(1, 3, 32, 32))
    assert sizes == GROUPS[name]


def by_batch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel, over rows and image, to mean 0 and deviation 1; then scale and shift."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    scaled = centred / ((centred**2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    return scaled * weight[:, None, None] + bias[:, None, None]


def by_group(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each of 32 groups of channels, over the image, to mean 0 and deviation 1; then scale and shift by channel."""
    parts = x.reshape(len(x), 32, -1)
    centred = parts - parts.mean(2, keepdim=True)
    scaled = centred / ((centred**2).mean(2, keepdim=True) + 1e-5).sqrt()
    return scaled.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def literal(w: dict[str, Tensor], x: Tensor, stages: int, blocks: int, norm: str) -> Tensor:
    normed = {"group": by_group, "batch": by_batch}[norm]

    def part(x: Tensor, conv: str, norm: str, stride: int, padding: int) -> Tensor:
        return normed(F.conv2d(x, w[f"{conv}.weight"], None, stride, padding), w[f"{norm}.weight"], w[f"{norm}.bias"])

    x = part(x, "conv", "norm", 2, 3).clamp(min=0)
    x = F.pad(x, (1, 1, 1, 1), value=-math.inf).unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    for stage in range(stages):
        for block in range(blocks):
            at, stride = f"stage{stage}.{block}", 2 if stage > 0 and block == 0 else 1
            z = part(x, f"{at}.conv1", f"{at}.bn1", stride, 1).clamp(min=0)
            z = part(z, f"{at}.conv2", f"{at}.bn2", 1, 1)
            x = part(x, f"{at}.downsample.0", f"{at}.downsample.1", 2, 0) if stride == 2 else x
            x = (x + z).clamp(min=0)
    return x.mean((2, 3)) @ w["classifier.weight"].T + w["classifier.bias"]


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(("name", "stages", "blocks"), [("resnet8", 3, 1), ("resnet18", 4, 2)])
def test_computes_its_formula(name: str, stages: int, blocks: int, norm: str) -> None:
    model = BUILD[name]((2, 36, 41), 7, np.random.default_rng(1), norm=norm).double()
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():  # general position: scales and shifts too
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 2, 36, 41, generator=generator, dtype=torch.float64)
    with batch_norm.over(torch.ones(3, dtype=torch.bool)):
        found = model(x)
    torch.testing.assert_close(found, literal(dict(model.state_dict()), x, stages, blocks, norm), rtol=1e-9, atol=1e-9)


def test_nothing_of_batch_norm_is_left_to_chance() -> None:
    for part in resnet8((3, 32, 32), 10, np.random.default_rng(0), norm="batch").modules():
        if isinstance(part, BatchNorm):
            assert (part.weight == 1).all() and (part.var == 1).all()
            assert not part.bias.any() and not part.mean.any()


def test_convolutions_are_kaiming_normal_by_what_they_feed() -> None:
    model = resnet8((3, 32, 32), 10, np.random.default_rng(4))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.out_channels * math.prod(layer.kernel_size)
            deviation = layer.weight.double().std().item() * math.sqrt(fan / 2)
            assert deviation == pytest.approx(1, abs=4 / math.sqrt(2 * layer.weight.numel()))
    dense = model.get_submodule("classifier").weight
    assert isinstance(dense, Tensor) and dense.double().std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.06)


@pytest.mark.parametrize("build", BUILD.values())
def test_one_sentence_names_what_is_wrong(build: Callable[..., nn.Sequential]) -> None:
    with pytest.raises(ValueError, match=r"^`inputs` must be \(channels, height, width\) for a conv.*got \(784,\)"):
        build((784,), 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^`inputs` must be the shape of one sample.*got \(3, 0, 32\)"):
        build((3, 0, 32), 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^`outputs` must be at least 1; got 0"):
        build((3, 32, 32), 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^`norm` must be 'group' or 'batch'; got 'layer'"):
        build((3, 32, 32), 10, np.random.default_rng(0), norm="layer")
