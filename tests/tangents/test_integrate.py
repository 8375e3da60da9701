"""The plan of steps, and the two integrators on problems whose solution is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtangent.tangents.integrate import _plan, phi_series, stabilised


@given(
    stiffness=st.floats(1e-6, 1e6),
    gaps=st.lists(st.floats(1e-3, 50), min_size=1, max_size=6),
    growth=st.floats(1.01, 3),
)
def test_steps_add_up_to_the_times_and_grow_no_faster_than_asked(
    stiffness: float, gaps: list[float], growth: float
) -> None:
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    plan = _plan(stiffness, tuple(times), growth)
    now, longest = 0.0, 2 * math.log(growth) / stiffness
    for steps, end in zip(plan, times, strict=True):
        for h in steps:
            assert 0 < h <= longest * (1 + 1e-9)
            now, longest = now + h, max(longest, h * growth)
        assert now == pytest.approx(end)


def test_stabilised_takes_stiff_steps() -> None:
    """Du/ds = -lambda u, for lambda from 0 to the stiffness: explicit steps of this length would blow up."""
    rates = torch.linspace(0, 1e4, 41, dtype=torch.float64)
    products = []

    def force(u: torch.Tensor) -> torch.Tensor:
        products.append(1)
        return -rates * u

    found = stabilised(force, torch.ones_like(rates), 1e4, [0.5, 3.0], 1.2)
    exact = torch.exp(-rates * torch.tensor([[0.5], [3.0]], dtype=torch.float64))
    assert float((found - exact).abs().max()) < 2e-3
    assert len(products) < 1500  # Euler needs 15,000 and more


def test_phi_series_reaches_rounding_at_all_times_at_once() -> None:
    rates, b = torch.linspace(0, 80, 30, dtype=torch.float64), torch.linspace(-1, 2, 30, dtype=torch.float64)
    s = [1e-3, 0.4, 9.0]
    found = phi_series(lambda u: rates * u, b, 80.0, s)
    for time, row in zip(s, found, strict=True):
        exact = torch.where(rates > 0, -torch.expm1(-rates * time) / rates.clamp(min=1e-9), time) * b
        assert torch.allclose(row, exact, rtol=0, atol=1e-11 * time)
