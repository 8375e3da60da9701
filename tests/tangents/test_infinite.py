"""The closed form against quadrature of its definition, cases by hand, and a wide random network."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent.tangents import infinite
from fedtangent.tangents.infinite import kernel
from tests.often import often
from tests.tangents.networks import flat, inputs, jacobian

PHI = {"relu": torch.relu, "erf": torch.erf}
X1, X2 = inputs(4), inputs(3, seed=1)


def expectation(activation: str, cross: float, own1: float, own2: float) -> tuple[float, float]:
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)], by Gauss-Hermite quadrature for erf, by angles for the kinked ReLU."""
    side = math.sqrt(max(own2 - cross**2 / own1, 0))
    lower = torch.tensor([[math.sqrt(own1), 0], [cross / math.sqrt(own1), side]], dtype=torch.float64)
    if activation == "erf":
        nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(150))
        z = torch.cartesian_prod(nodes, nodes)
        weight = torch.cartesian_prod(weights, weights).prod(1) / (2 * math.pi)
        radius = 1.0
    else:  # both are homogeneous: E over the radius is by hand, 2 for the values and 1 for the slopes
        angle = (torch.arange(2_000_000) + 0.5).double() * (2 * math.pi / 2_000_000)
        z, weight, radius = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor(1 / 2_000_000), 2.0
    u = z @ lower.T
    slope = (u > 0).double() if activation == "relu" else 2 / math.sqrt(math.pi) * torch.exp(-(u**2))
    return float(radius * (PHI[activation](u).prod(1) * weight).sum()), float((slope.prod(1) * weight).sum())


@pytest.mark.parametrize("activation", ["relu", "erf"])
@pytest.mark.parametrize("depth", often([0, 1, 3], [0, 1]))
def test_every_entry_by_quadrature(activation: Any, depth: int) -> None:
    """The recursion, number by number."""
    w, b = 1.3, 0.4
    found = kernel(depth, activation, w, b)(X1, X2)
    for i, j in ((0, 0), (3, 2)):
        x, y = X1[i], X2[j]
        cross, own1, own2 = (float(w**2 * p @ q / 7 + b**2) for p, q in ((x, y), (x, x), (y, y)))
        ntk = cross
        for _ in range(depth):
            value, slope = expectation(activation, cross, own1, own2)
            near = [expectation(activation, own, own, own)[0] for own in (own1, own2)]
            cross, (own1, own2) = w**2 * value + b**2, (w**2 * v + b**2 for v in near)
            ntk = cross + w**2 * slope * ntk
        assert float(found.nngp[i, j]) == pytest.approx(cross, rel=1e-5)
        assert float(found.ntk[i, j]) == pytest.approx(ntk, rel=1e-5)


def test_two_orthogonal_inputs_by_hand() -> None:
    """ReLU, one hidden layer, sigma_w^2 = 2: own 2/2 = 1, cross 0; then 2 E = 1/pi, and the NTK adds 0."""
    nngp, ntk = kernel(1)(torch.eye(2).double())
    assert torch.allclose(nngp, torch.tensor([[1, 1 / math.pi], [1 / math.pi, 1]]).double())
    assert torch.allclose(ntk, torch.tensor([[2, 1 / math.pi], [1 / math.pi, 2]]).double())


def test_an_input_of_zeros_is_no_division_by_zero() -> None:
    found = kernel(2)(torch.zeros(1, 3), torch.ones(2, 3))
    assert all(torch.equal(part, torch.zeros(1, 2)) for part in found)


def digits(activation: str, depth: int, w: float, b: float, x: list[float], y: list[float]) -> tuple[Any, Any]:
    """NNGP and NTK of two samples in 60 digits."""
    pi, w, b = mpmath.pi, mpmath.mpf(w) ** 2, mpmath.mpf(b) ** 2

    def expected(cross: Any, own1: Any, own2: Any) -> tuple[Any, Any]:
        if activation == "erf":
            sides = (1 + 2 * own1) * (1 + 2 * own2)
            slope = 4 / pi / mpmath.sqrt(sides - 4 * cross**2)
            return 2 / pi * mpmath.asin(2 * cross / mpmath.sqrt(sides)), slope
        unit = mpmath.sqrt(own1 * own2)
        angle = mpmath.acos(cross / unit)
        return unit * (mpmath.sin(angle) + (pi - angle) * mpmath.cos(angle)) / (2 * pi), (pi - angle) / (2 * pi)

    def product(p: list[float], q: list[float]) -> Any:
        return w * mpmath.fsum(mpmath.mpf(i) * mpmath.mpf(j) for i, j in zip(p, q, strict=True)) / len(p) + b

    with mpmath.workdps(60):
        cross, own1, own2 = product(x, y), product(x, x), product(y, y)
        ntk = cross
        for _ in range(depth):
            value, slope = expected(cross, own1, own2)
            own1, own2 = (w * expected(own, own, own)[0] + b for own in (own1, own2))
            cross = w * value + b
            ntk = cross + w * slope * ntk
        return cross, ntk


@pytest.mark.few(8)
@pytest.mark.parametrize("activation", ["relu", "erf"])
@pytest.mark.parametrize(("depth", "w", "b"), [(1, 1.3, 0.0), (3, 1.4142, 0.0), (4, 1.1, 0.3), (12, 8.0, 0.5)])
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e6])
def test_float32_is_right_for_near_equal_opposite_tiny_and_large_samples(
    activation: Any, depth: int, w: float, b: float, size: float
) -> None:
    """Against 60 digits: to 1e-6 of every entry, and of the product of the norms where it all but vanishes."""
    if activation == "erf":  # a step at 1e6, chaos in twelve layers: 1e-16 becomes more than 1e-6 even in float64
        size, depth = min(size, 1e3), min(depth, 4)
    x = inputs(1).float()[0] * size
    step = torch.zeros(7).index_fill_(0, torch.tensor([2]), 1.0) * size
    x = torch.stack([x, x * (1 + 3e-7), x + 1e-3 * step, x + 3e-5 * step, -x, -x + 1e-2 * step, -2 * x])
    found = kernel(depth, activation, w, b)(x)
    cross = kernel(depth, activation, w, b)(x, x.clone())
    assert found.ntk.dtype == torch.float32
    for i, p in enumerate(x.tolist()):
        for j, q in enumerate(x.tolist()):
            expected = digits(activation, depth, w, b, p, q)
            for part, again, its in zip(found, cross, expected, strict=True):
                # entries of opposite samples cancel to nothing at the first ReLU: there the norms count
                own = 1e-2 * float(mpmath.sqrt(part[i, i].item() * part[j, j].item()))
                assert abs(float(part[i, j]) - float(its)) <= 1e-6 * max(abs(float(its)), own)
                assert abs(float(again[i, j]) - float(its)) <= 1e-6 * max(abs(float(its)), own)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_a_sample_meets_itself_exactly(activation: Any) -> None:
    """In float64 to the last digits, however the samples are cut."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 5, dtype=torch.float64, generator=generator)
    found = kernel(3, activation, 1.5, 0.2)(x)
    for i in (0, 299, 599):
        for part, its in zip(found, digits(activation, 3, 1.5, 0.2, x[i].tolist(), x[i].tolist()), strict=True):
            assert float(part[i, i]) == pytest.approx(float(its), rel=1e-14)
    again = kernel(3, activation, 1.5, 0.2)(x, x[300:])
    for part, its in zip(found, again, strict=True):
        torch.testing.assert_close(part[:, 300:], its, rtol=1e-7, atol=0)


def test_a_kernel_beyond_the_range_is_an_error() -> None:
    x = torch.ones(2, 3)
    assert torch.isfinite(kernel(15, weight_std=8.0)(x).ntk).all()
    with pytest.raises(
        ValueError, match=r"^`weight_std` must keep the kernel within .* torch.float32; got 8.0 for 40 "
    ):
        kernel(40, weight_std=8.0)(x)
    assert torch.isfinite(kernel(40, weight_std=8.0)(x.double()).ntk).all()
    with pytest.raises(ValueError, match=r"^`x2` must be finite; got NaN or infinity\. "):
        kernel(1)(x, x / 0)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_a_wide_network_comes_near(activation: str) -> None:
    width, generator = 3000, torch.Generator().manual_seed(0)

    class Erf(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(x)

    middle: torch.nn.Module = torch.nn.ReLU() if activation == "relu" else Erf()
    model = torch.nn.Sequential(torch.nn.Linear(7, width), middle, torch.nn.Linear(width, 1)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
        model[0].weight *= 1.3 / math.sqrt(7)  # type: ignore[operator]
        model[0].bias *= 0.4  # type: ignore[operator]
        model[2].weight *= 1.3 / math.sqrt(width)  # type: ignore[operator]
    j = jacobian(model, X1)[:, 0]
    # the derivatives by the standard normal parameters: those by ours, times their scales
    scale = {"0.weight": 1.3 / math.sqrt(7), "0.bias": 0.4, "2.weight": 1.3 / math.sqrt(width), "2.bias": 0.4}
    j = j * flat({n: torch.full_like(p, scale[n])[None].detach() for n, p in model.named_parameters()})
    expected = kernel(1, activation, 1.3, 0.4)(X1).ntk  # type: ignore[arg-type]
    assert float((j @ j.T - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": -1}, r"^`depth` must not be negative; got -1\. "),
        ({"depth": 1, "activation": "tanh"}, r"^`activation` must be 'relu' or 'erf'; got 'tanh'\. "),
        ({"depth": 1, "weight_std": -1.0}, r"^`weight_std` must not be negative; got -1.0\. "),
        ({"depth": 1, "bias_std": math.nan}, r"^`bias_std` must not be negative; got nan\. "),
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel(**options)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.ones(3), r"\(3,\) of torch.float32"),
        (torch.ones(0, 3), r"\(0, 3\) of torch.float32"),
        (torch.ones(3, 0), r"\(3, 0\) of torch.float32"),
        (torch.ones(2, 3) * 1j, r"\(2, 3\) of torch.complex64"),
    ],
)
def test_inputs_that_are_none(x: Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=rf"^`x1` must be \(n, \*inputs\) of real numbers; got {got}\. "):
        kernel(1)(x)
    with pytest.raises(ValueError, match=rf"^`x2` must be \(n, \*inputs\) of real numbers; got {got}\. "):
        kernel(1)(torch.ones(2, 3), x)


def test_inputs_of_different_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"^`x1` and `x2` must have inputs of one shape; got \(3,\) and \(4,\)\. "):
        infinite.kernel(1)(torch.ones(2, 3), torch.ones(2, 4))
