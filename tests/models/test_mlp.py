"""The papers' network: its size, its first weights, and where they come from."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.models.mlp import ACTIVATIONS, mlp


def test_the_papers_network_has_79510_parameters() -> None:
    model = mlp((1, 28, 28), 10, np.random.default_rng(0))
    assert sum(p.numel() for p in model.parameters()) == 79_510
    assert [type(layer) for layer in model] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


def test_weights_are_kaiming_normal_and_biases_zero() -> None:
    model = mlp((700,), 300, np.random.default_rng(4), hidden=(500, 400))
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(700, 500), (500, 400), (400, 300)]
    for layer in layers:
        z = layer.weight.detach().double() * math.sqrt(layer.in_features / 2)
        assert z.mean().item() == pytest.approx(0, abs=0.015)
        assert z.std().item() == pytest.approx(1, abs=0.01)
        assert (z**4).mean().item() == pytest.approx(3, abs=0.1)  # a normal's, not a uniform's 1.8
        assert not layer.bias.any()


def test_one_seed_one_network_and_torch_keeps_its_own_state() -> None:
    before = torch.get_rng_state()
    first, again, other = (mlp((3, 5), 4, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.state_dict()["1.weight"], other.state_dict()["1.weight"])


def test_the_generator_moves_on() -> None:
    rng = np.random.default_rng(7)
    assert not torch.equal(*(mlp((5,), 4, rng).state_dict()["1.weight"] for _ in range(2)))


def test_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = mlp((5,), 4, np.random.default_rng(7))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(p.dtype == torch.float32 for p in model.parameters())


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda z: z.clamp(min=0),
    "tanh": lambda z: 1 - 2 / (1 + torch.exp(2 * z)),
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "silu": lambda z: z / (1 + torch.exp(-z)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_computes_its_formula(activation: str) -> None:
    model = mlp((2, 3), 4, np.random.default_rng(1), hidden=(5,), activation=activation).double()
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = x.reshape(7, 6) @ model.state_dict()["1.weight"].T
    torch.testing.assert_close(model(x), FORMULAS[activation](z) @ model.state_dict()["3.weight"].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ()}, r"^`inputs` must be the shape of one sample, positive sizes; got \(\)"),
        ({"inputs": (3, 0)}, r"^`inputs` must be the shape of one sample, positive sizes; got \(3, 0\)"),
        ({"outputs": 0}, r"^`outputs` must be at least 1; got 0"),
        ({"hidden": ()}, r"^`hidden` must be one or more positive widths; got \(\)\. Use the model linear"),
        ({"hidden": (5, -1)}, r"^`hidden` must be one or more positive widths; got \(5, -1\)"),
        ({"activation": "rely"}, r"^`activation` must be one of relu, tanh, gelu, sigmoid, silu; got 'rely'"),
    ],
)
def test_one_sentence_names_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp(**({"inputs": (5,), "outputs": 4, "rng": np.random.default_rng(0)} | change))  # type: ignore[arg-type]
