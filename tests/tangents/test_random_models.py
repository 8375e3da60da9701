"""Kernels and Jacobians of models whose parts are hard to follow equal those of row-by-row autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedtangent.tangents import jacobian, kernel
from tests.tangents.random_models import ENDS, STEPS, WIDTH, RandomModel, by_autograd

X = torch.randn(6, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def agrees(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-8 * expected.norm())


def held(model: RandomModel, x: Tensor = X) -> None:
    j = by_autograd(model, x)
    assert agrees(kernel(model, x), torch.einsum("ncp,mdp->nmcd", j, j))
    assert agrees(jacobian(model, x).dense(), j)


@pytest.mark.few(14)
@pytest.mark.parametrize("step", STEPS)
def test_every_step(step: str) -> None:
    held(RandomModel([step], tied=False, end="as it is", seed=3))
    held(RandomModel(["linear", step, "tanh"], tied=True, end="as it is", seed=4))


@pytest.mark.parametrize("end", ENDS)
def test_every_end(end: str) -> None:
    held(RandomModel(["linear", "tanh"], tied=False, end=end, seed=5))


@pytest.mark.slow
@settings(max_examples=2000, derandomize=True)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
    tied=st.booleans(),
    end=st.sampled_from(sorted(ENDS)),
    seed=st.integers(0, 2**16),
)
def test_any_model(steps: list[str], tied: bool, end: str, seed: int) -> None:
    held(RandomModel(steps, tied, end, seed))
