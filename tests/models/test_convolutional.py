"""LeNet-5 and FedAvg's network: typed once more, and their sizes by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent import catalog
from fedtangent.models.fedavg_cnn import fedavg_cnn
from fedtangent.models.lenet import lenet


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("inputs", "first"), [((1, 28, 28), 6 * 25 + 6), ((3, 32, 32), 6 * 75 + 6), ((1, 8, 8), 156)])
def test_lenets_size(inputs: tuple[int, ...], first: int) -> None:
    rest = (16 * 6 * 25 + 16) + (16 * 5 * 5 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert size(lenet(inputs, 10, np.random.default_rng(0))) == first + rest


def test_fedavgs_network_has_the_papers_1_663_370_parameters() -> None:
    by_hand = (32 * 25 + 32) + (64 * 32 * 25 + 64) + (64 * 7 * 7 * 512 + 512) + (512 * 10 + 10)
    assert size(fedavg_cnn((1, 28, 28), 10, np.random.default_rng(0))) == by_hand == 1_663_370


def convolved(x: Tensor, weight: Tensor, bias: Tensor, rows: int, columns: int) -> Tensor:
    """Every window of 5 x 5 times the weight, ReLU, and the largest of every 2 x 2."""
    windows = F.pad(x, (columns, columns, rows, rows)).unfold(2, 5, 1).unfold(3, 5, 1)
    z = (torch.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]).clamp(min=0)
    return z.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))


def dense(z: Tensor, w: list[Tensor]) -> Tensor:
    *hidden, weight, bias = w
    for part, shift in zip(hidden[::2], hidden[1::2], strict=True):
        z = (z @ part.T + shift).clamp(min=0)
    return z @ weight.T + bias


@pytest.mark.parametrize(
    ("build", "inputs", "paddings"),
    [
        (lenet, (2, 27, 33), ((3, 0), (0, 0))),  # 27 rows are padded by 3 on either side, 33 columns not
        (fedavg_cnn, (2, 11, 9), ((2, 2), (2, 2))),
    ],
)
def test_computes_its_formula(
    build: Callable[..., nn.Sequential], inputs: tuple[int, ...], paddings: tuple[tuple[int, int], ...]
) -> None:
    model = build(inputs, 7, np.random.default_rng(1)).double()
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    z = x = torch.randn(3, *inputs, generator=generator, dtype=torch.float64)
    w = [p.detach() for p in model.parameters()]
    for layer, padding in enumerate(paddings):
        z = convolved(z, w[2 * layer], w[2 * layer + 1], *padding)
    torch.testing.assert_close(model(x), dense(z.flatten(1), w[4:]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", [lenet, fedavg_cnn])
def test_weights_are_kaiming_normal_by_fan_in(build: Callable[..., nn.Sequential]) -> None:
    for layer in build((3, 32, 32), 10, np.random.default_rng(4)):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan = layer.weight[0].numel()
            deviation = layer.weight.double().std().item() * math.sqrt(fan / 2)
            assert deviation == pytest.approx(1, abs=4 / math.sqrt(2 * layer.weight.numel()))


@pytest.mark.parametrize("build", [lenet, fedavg_cnn])
def test_one_sentence_names_what_is_wrong(build: Callable[..., nn.Sequential]) -> None:
    with pytest.raises(ValueError, match=r"^`inputs` must be \(channels, height, width\) for a conv.*got \(28, 28\)"):
        build((28, 28), 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^`outputs` must be at least 1; got 0"):
        build((1, 28, 28), 0, np.random.default_rng(0))


def test_an_image_too_small_to_be_pooled_twice() -> None:
    with pytest.raises(ValueError, match=r"^`inputs` must be images of at least 4 x 4 .*got \(1, 3, 9\). Use lenet.$"):
        fedavg_cnn((1, 3, 9), 10, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["lenet", "fedavg_cnn", "resnet8", "resnet18"])
def test_images_with_their_channels_last_are_refused(name: str) -> None:
    """In floats, too, whatever the data set."""
    build = catalog.load("models", name)
    message = (
        r"^`x_train` must hold images with their channels first, .*; got \(rows, 28, 26, 3\)\. Transpose with \(0, 3, 1"
    )
    with pytest.raises(ValueError, match=message):
        build((28, 26, 3), 10, np.random.default_rng(0))
    build((3, 28, 4), 10, np.random.default_rng(0))
