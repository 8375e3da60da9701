"""The steps, and the two integrators on problems whose solution is known."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtangent.tangents.numerics.integrate import (
    _steps,
    adaptive,
    check_reach,
    phi_series,
    refined,
    series_products,
    stabilised,
    stabilised_products,
    trusted,
)


@given(stiffness=st.floats(1e-6, 1e6), end=st.floats(1e-3, 300), growth=st.floats(1.01, 3))
def test_steps_add_up_to_the_end_and_grow_as_asked(stiffness: float, end: float, growth: float) -> None:
    steps = _steps(stiffness, end, growth)
    assert sum(steps) == pytest.approx(end)
    assert 0 < steps[0] <= max(end, 2 * math.log(growth) / stiffness) * (1 + 1e-9)
    assert len(steps) == 1 or steps[0] <= 2 * math.log(growth) / stiffness * (1 + 1e-9)
    assert all(b == pytest.approx(growth * a) for a, b in itertools.pairwise(steps))


def test_stabilised_gives_any_time_between_the_ends_of_its_steps() -> None:
    """A slow decay, where the steps are long: times before the first end, on the last, and many within one step."""
    s = [1e-4, 0.3, *(1 + i / 10 for i in range(10)), 2.0]
    found = stabilised(lambda u: -u, torch.ones(1, dtype=torch.float64), 30.0, s, 1.1)
    exact = torch.exp(-torch.tensor(s, dtype=torch.float64))[:, None]
    assert found.shape == (len(s), 1)
    assert torch.allclose(found, exact, rtol=3e-3)


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


def test_a_force_within_steps_is_told_the_time() -> None:
    """Du/ds = -lambda (u - sin s) + cos s from 0 is sin s: within a step the sine is what it is then."""
    rates = torch.tensor([0.3, 40.0, 2e3], dtype=torch.float64)

    class Driven:
        now = 0.0

        def end(self, u: torch.Tensor, now: float) -> torch.Tensor:
            self.now = now
            return math.cos(now) - rates * (u - math.sin(now))

        def within(self) -> Callable[[torch.Tensor, float], torch.Tensor]:
            start = self.now
            return lambda u, time: math.cos(start + time) - rates * (u - math.sin(start + time))

    found = trusted(Driven(), torch.zeros(1, 3, dtype=torch.float64), 2e3, [0.4, 1.3, 2.9], 1.05, math.inf)
    exact = torch.sin(torch.tensor([0.4, 1.3, 2.9], dtype=torch.float64))
    assert float((found[:, 0] - exact[:, None]).abs().max()) < 3e-3


@pytest.mark.parametrize(("stiffness", "right"), [(1e4, True), (9.9e3, True), (3e3, False), (30.0, False)])
def test_trusted_gives_nan_where_the_stiffness_is_too_small(stiffness: float, right: bool) -> None:
    """Two problems, of which the second has but slow decays, and bears any."""
    fast = torch.linspace(1, 1e4, 41, dtype=torch.float64)
    rates = torch.stack([fast, fast / 1e4])
    s = [0.5, 3.0]
    found = trusted(lambda u: 1 - rates * u, torch.zeros_like(rates), stiffness, s, 1.2, 0.02)
    exact = torch.stack([-torch.expm1(-rates * time) / rates for time in s])
    assert torch.allclose(found[:, 1], exact[:, 1], rtol=2e-3)
    assert bool(found[:, 0].isfinite().all()) == right
    if right:
        assert float((found - exact)[:, 0].norm() / exact[:, 0].norm()) < 2e-3
    else:
        assert bool(found[:, 0].isnan().all())


def test_phi_series_reaches_rounding_at_all_times_at_once() -> None:
    rates, b = torch.linspace(0, 80, 30, dtype=torch.float64), torch.linspace(-1, 2, 30, dtype=torch.float64)
    s = [1e-3, 0.4, 9.0]
    found = phi_series(lambda u: rates * u, b, 80.0, s)
    for time, row in zip(s, found, strict=True):
        exact = torch.where(rates > 0, -torch.expm1(-rates * time) / rates.clamp(min=1e-9), time) * b
        assert torch.allclose(row, exact, rtol=0, atol=1e-11 * time)


def logistic(s: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rates, starts and solution of du/ds = rate (1 / 4 - u^2): u = tanh(rate s / 2 + artanh(2 start)) / 2."""
    rates = torch.logspace(-1, 4, 9, dtype=torch.float64)
    start = torch.linspace(-0.2, 0.3, 9, dtype=torch.float64)
    exact = torch.tanh(torch.tensor(s, dtype=torch.float64)[:, None] * rates / 2 + torch.atanh(2 * start)) / 2
    return rates, start, exact


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_refined_keeps_its_tolerance(tolerance: float) -> None:
    s = [0.003, 0.4, 2.0]
    rates, start, exact = logistic(s)
    found = refined(lambda u: rates * (0.25 - u**2), start, 1.0e4, s, tolerance)
    assert float(((found - exact).norm(dim=1) / exact.norm(dim=1)).max()) < tolerance


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_adaptive_keeps_its_tolerance_in_few_products(tolerance: float) -> None:
    s, calls = [0.003, 0.4, 200.0], []
    rates, start, exact = logistic(s)

    def force(u: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return rates * (0.25 - u**2)

    found = adaptive(force, start, 1.0e4, s, tolerance)
    assert float(((found - exact).norm(dim=1) / exact.norm(dim=1)).max()) < tolerance
    assert len(calls) < 4000  # explicit steps: a million


def test_what_does_not_move_stays() -> None:
    start = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for solve in (adaptive, refined):
        assert solve(lambda u: 0.25 - u**2, start, 1.0, [1.0, 3.0], 1e-8).equal(start.expand(2, 2))


def test_a_tolerance_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedtangent.tangents.numerics.integrate._HALVINGS", 2)
    monkeypatch.setattr("fedtangent.tangents.numerics.integrate._CALLS", 20)
    start = torch.tensor([0.1, 0.2], dtype=torch.float64)
    with pytest.raises(ValueError, match="`tolerance` must be within reach; got 1e-12, and the error stays at"):
        refined(lambda u: 0.25 - u**2, start, 1.0, [9.0], 1e-12)
    with pytest.raises(ValueError, match="`tolerance` must be within reach; got 1e-12, and LSODA did not end"):
        adaptive(lambda u: 0.25 - u**2, start, 1.0, [9.0], 1e-12)


def test_a_force_that_is_not_finite_is_told() -> None:
    start = torch.tensor([0.1, 0.2], dtype=torch.float64)
    for solve in (adaptive, refined):
        with pytest.raises(ValueError, match="`loss` must stay finite; got a derivative that is not"):
            solve(lambda u: torch.log(u), start, 1.0, [0.1, 30.0], 1e-6)


@pytest.mark.parametrize(("stiffness", "end", "growth"), [(1e-3, 0.7, 1.3), (40.0, 3.0, 1.3), (5e3, 2.0, 1.1)])
def test_the_products_of_stabilised_are_known_before(stiffness: float, end: float, growth: float) -> None:
    calls = []

    def force(u: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return -stiffness * u

    stabilised(force, torch.ones(2, dtype=torch.float64), stiffness, [end / 3, end], growth)
    assert len(calls) == stabilised_products(stiffness, end, growth)


@pytest.mark.parametrize("radius", [0.3, 80.0, 4e3])
def test_the_products_of_a_series_are_bounded_before(radius: float) -> None:
    calls, b = [], torch.linspace(0.5, 2, 5, dtype=torch.float64)
    phi_series(lambda u: calls.append(1) or radius * u, b, radius, [0.1, 2.5])  # type: ignore[func-returns-value]
    most = series_products(radius, 2.5, b.dtype)
    assert most / 4 < len(calls) <= most


def test_a_long_series_takes_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a fast transform, and near the exact solution; a matrix of cosines would have 30,000^2 numbers."""
    rates, b = torch.tensor([0.0, 3e-7, 0.4, 9.0]).double(), torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    s = [70.0, 1e5]
    exact = torch.stack([b * torch.where(rates > 0, -torch.expm1(-rates * t) / rates.clamp(min=1e-9), t) for t in s])
    assert torch.allclose(phi_series(lambda u: rates * u, b, 9.0, s), exact, rtol=1e-9)
    monkeypatch.setattr("fedtangent.tangents.numerics.integrate._BY_MATRIX", 0)
    by_transform = phi_series(lambda u: rates * u, b, 9.1, [0.3, 70.0])  # another radius: coefficients are kept
    monkeypatch.setattr("fedtangent.tangents.numerics.integrate._BY_MATRIX", 10**9)
    by_matrix = phi_series(lambda u: rates * u, b, 9.1 + 1e-13, [0.3, 70.0])
    assert torch.allclose(by_transform, by_matrix, rtol=1e-11)


@given(stiffness=st.floats(1e-12, 1e300), end=st.floats(1e-9, 1e300), most=st.sampled_from([20, 300, 16_384]))
def test_the_reach_that_is_told_is_in_reach_and_near_its_edge(stiffness: float, end: float, most: int) -> None:
    def products(s: float) -> float:
        return stabilised_products(stiffness, s)

    if products(end) <= most:
        check_reach("`s`", products, end, most)
        return
    with pytest.raises(
        ValueError, match=rf"^`s` must be at most \S+ with this kernel, so that a flow takes at most {most:,}"
    ) as error:
        check_reach("`s`", products, end, most)
    told = float(str(error.value).split()[5])
    assert 0 < told < end
    assert products(told) <= most < products(1.2 * told)


def test_a_time_that_is_not_finite_is_out_of_reach() -> None:
    for products in (
        stabilised_products(1e300, 1e300),
        stabilised_products(5e8, 1.9e299),
        series_products(1e300, 1e300, torch.float64),
    ):
        assert products == math.inf


def test_refined_stops_before_it_takes_too_many_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedtangent.tangents.numerics.integrate.PRODUCTS", 400)
    calls, start = [], torch.tensor([0.1, 0.2], dtype=torch.float64)
    with pytest.raises(ValueError, match="`tolerance` must be within reach; got 1e-12, and the error stays at"):
        refined(lambda u: calls.append(1) or 0.25 - u**2, start, 1.0, [9.0], 1e-12)  # type: ignore[func-returns-value]
    assert 100 < len(calls) < 450
