"""The gains of single modes against their recurrences and limits."""

import math

import pytest
import torch

from fedtangent.tangents.numerics.modes import descent_gain, flow_gain, modes


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
def test_descent_gain_is_the_recurrence(momentum: float) -> None:
    """From a zero rate to just below the stable one, where neighbouring steps have opposite signs."""
    lr = 0.7
    rate = torch.cat([torch.zeros(1), torch.linspace(0.001, 1.99 * (1 + momentum) / lr, 40)]).double()[None]
    times = [1, 2, 3, 10, 77, 1000]
    found = descent_gain(rate, times, lr, momentum)
    alpha, v = torch.zeros_like(rate), torch.zeros_like(rate)
    for step in range(1, 1001):
        v = momentum * v + 1 - rate * alpha
        alpha = alpha + lr * v
        if step in times:
            assert torch.allclose(found[times.index(step)], alpha, rtol=1e-11, atol=0)


def test_slow_modes_keep_their_digits_over_many_steps() -> None:
    rate, lr, steps = torch.tensor([[1.3e-9]], dtype=torch.float64), 0.5, 10**8
    gain = -math.expm1(steps * math.log1p(-lr * 1.3e-9)) / 1.3e-9
    assert float(descent_gain(rate, [steps], lr, 0.0)) == pytest.approx(gain, rel=1e-13)
    # heavy ball is then as a flow ten times as fast, but for its first steps
    assert float(descent_gain(rate, [steps], lr, 0.9)) == pytest.approx(-math.expm1(-0.65) / 1.3e-9, rel=1e-6)


def test_flow_gain_has_its_limits() -> None:
    rate = torch.tensor([[0.0, 1e-18, 1e-9, 0.4, 1e9]], dtype=torch.float64)
    short, long = flow_gain(rate, [3.0, math.inf], 1e-15)[:, 0].tolist()
    assert short == pytest.approx([3.0, 3.0, 3 * (1 - 1.5e-9), -math.expm1(-1.2) / 0.4, 1e-9], rel=1e-14)
    assert long == pytest.approx([0, 0, 0, 2.5, 1e-9], rel=1e-14)  # 1e-9 is below 1e-15 of the largest


@pytest.mark.parametrize("more", [-1e-9, 0.0, 5e-16])
def test_modes_take_rounding_for_zero(more: float) -> None:
    matrix = torch.tensor([[[1.0, 2.0], [2.0, 4.0 + more]], [[3.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)
    found = modes(matrix)
    assert found.values[0, 0] == 0 and found.values[0, 1] == pytest.approx(5)
    assert torch.allclose((found.vectors * found.values[:, None]) @ found.vectors.mT, matrix, atol=1e-8)


def test_a_negative_eigenvalue_is_told() -> None:
    with pytest.raises(ValueError, match="`kernel` must be positive semi-definite; got eigenvalues from -1 to 3"):
        modes(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]], dtype=torch.float64))
