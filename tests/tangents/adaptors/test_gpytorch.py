"""The kernel of GPyTorch is the tangent kernel; without GPyTorch one sentence says so."""

import sys

import pytest
import torch
from torch import nn

from fedtangent.tangents import kernel, matrix
from fedtangent.tangents.adaptors.gpytorch import tangent_kernel
from tests.tangents.networks import INPUTS, OUTPUTS, inputs


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, OUTPUTS)).double()


def test_without_gpytorch_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpytorch.kernels", None)
    monkeypatch.setitem(sys.modules, "gpytorch", None)
    with pytest.raises(ValueError, match=r"`tangent_kernel` must have GPyTorch; got .*\. Install it"):
        tangent_kernel(network())


@pytest.mark.parametrize("kind", ["trace", "full"])
def test_it_is_the_tangent_kernel(kind: str) -> None:
    pytest.importorskip("gpytorch", reason="GPyTorch is not installed")
    model, x1, x2 = network(), inputs(5), inputs(4, seed=1)
    its = tangent_kernel(model, (1, INPUTS), kind=kind)
    for other in (x1, x2):
        right = matrix(kernel(model, x1, other, kind=kind))  # type: ignore[arg-type]
        assert torch.allclose(its(x1, other).to_dense(), right, rtol=1e-12)
    assert torch.allclose(its(x1, diag=True), matrix(kernel(model, x1, kind=kind)).diagonal(), rtol=1e-12)  # type: ignore[arg-type]
    assert its(x1).shape == ((5, 5) if kind == "trace" else (15, 15))
    with pytest.raises(ValueError, match="`x` must be "):
        its(x1[None]).to_dense()
    with pytest.raises(ValueError, match="`kind` must be 'trace' or 'full'; got 'diagonal'"):
        tangent_kernel(model, kind="diagonal")
