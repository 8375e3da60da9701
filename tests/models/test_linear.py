"""One dense layer of the flattened sample."""

import numpy as np
import pytest
import torch

from fedtangent.models.linear import linear


def test_computes_its_formula() -> None:
    model = linear((2, 3), 4, np.random.default_rng(1))
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), x.reshape(7, 6) @ model.state_dict()["1.weight"].T)
    assert sum(p.numel() for p in model.parameters()) == 28 and not model.state_dict()["1.bias"].any()


def test_kaiming_normal_from_its_generator_alone() -> None:
    before = torch.get_rng_state()
    weight, again = (linear((500,), 300, np.random.default_rng(6)).state_dict()["1.weight"] for _ in range(2))
    assert torch.equal(weight, again) and torch.equal(torch.get_rng_state(), before)
    assert weight.double().std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.01)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^`outputs` must be at least 1; got -2"):
        linear((5,), -2, np.random.default_rng(0))
