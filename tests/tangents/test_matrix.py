"""A kernel as one matrix is J1 J2^T."""

import pytest
import torch
from torch import nn

from fedtangent.tangents import kernel, matrix
from tests.tangents.networks import INPUTS, OUTPUTS, inputs, jacobian


def test_it_is_j_j_transposed() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, OUTPUTS)).double()
    x1, x2 = inputs(5), inputs(4, seed=1)
    j1, j2 = jacobian(model, x1).flatten(0, 1), jacobian(model, x2).flatten(0, 1)
    assert torch.allclose(matrix(kernel(model, x1, x2)), j1 @ j2.T, rtol=1e-12)
    trace = kernel(model, x1, x2, kind="trace")
    assert matrix(trace) is trace


def test_what_is_no_kernel() -> None:
    with pytest.raises(ValueError, match=r"`k` must be \(n1, n2, C, C\) or \(n1, n2\); got \(5, 5, 3\)\. A diagonal"):
        matrix(torch.ones(5, 5, 3))
    with pytest.raises(TypeError, match="`k` must be a tensor; got int"):
        matrix(3)  # type: ignore[arg-type]
