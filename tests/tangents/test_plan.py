"""The plan says how every layer is contracted and what that costs, and holds to it."""

import re

import pytest
import torch
from torch import nn

from fedtangent.tangents import plan
from tests.tangents.networks import layers


def test_two_layers_by_hand() -> None:
    """784-100-10 and 3 samples: 6 pairs of 2 (784 + 100 C^2) and 2 (100 + 10 C^2), and a pass forward and back."""
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    its = plan(model, torch.rand(3, 784))
    assert [line.way for line in its.lines] == ["factors", "factors"]
    assert [line.operations for line in its.lines] == [6 * 2 * (784 + 100 * 100), 6 * 2 * (100 + 10 * 100)]
    assert its.operations == sum(line.operations for line in its.lines) + 3 * 2 * 2 * (784 * 100 + 100 * 10)
    assert its.result_bytes == 3 * 3 * 100 * 4
    trace = plan(model, torch.rand(3, 784), torch.rand(2, 784), kind="trace")
    assert [line.operations for line in trace.lines] == [6 * 2 * (784 + 100), 6 * 2 * (100 + 10)]
    assert trace.result_bytes == 6 * 4


@pytest.mark.parametrize(
    ("side", "channels", "kind", "way"),
    [
        (28, 1, "full", "explicit"),
        (4, 64, "full", "factors"),
        (4, 64, "trace", "factors"),
        (12, 64, "trace", "explicit"),
    ],
)
def test_few_positions_and_many_channels_factorise(side: int, channels: int, kind: str, way: str) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.Flatten(), nn.LazyLinear(10))
    x = torch.rand(2, channels, side, side)
    model(x)
    assert plan(model, x, kind=kind).lines[0].way == way  # type: ignore[arg-type]


def test_it_is_told_as_a_table() -> None:
    model = layers()["transformer"]
    text = str(plan(model.model, model.samples(5), model.samples(2)))
    assert "words.weight" in text
    assert "embedding" in text
    assert re.search(r"places +add +-", text)
    assert "torch.func" not in text
    assert "encoder.layers.0.self_attn.in_proj_weight, encoder.layers.0.self_attn.in_proj_bias" in text
    assert "scale and shift" in text
    assert "full kernel of 5 x 2 samples, 3 outputs" in text
    tied = layers()["tied to the embedding"]
    assert "used 3 times" in str(plan(tied.model, tied.samples(2)))
