"""The posterior equals that of dense weights, by its definition, and those of laplace-torch and GPyTorch."""

import importlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import jacobian as operator
from fedtangent.tangents import kernel, own_kernel, posterior
from tests.tangents.networks import INPUTS, OUTPUTS, inputs, jacobian

NOISE, PRIOR = (0.3, 2.0, 0.01), (0.7, 5.0, 1.3)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, OUTPUTS)).double()


def targets(samples: int = 9) -> Tensor:
    return torch.randn(samples, OUTPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def literal(j: Tensor, j_test: Tensor, r: Tensor, noise: float, prior: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The posterior over the weights: mean of w - w_0, of f*, covariance of f* and log p(y); J is (rows, P)."""
    precision = j.T @ j / noise + torch.eye(j.shape[1]).double() / prior
    covariance = precision.inverse()
    step = covariance @ j.T @ r / noise
    evidence = noise * torch.eye(len(r)).double() + prior * j @ j.T
    marginal = torch.distributions.MultivariateNormal(torch.zeros_like(r), evidence).log_prob(r)
    return step, j_test @ step, j_test @ covariance @ j_test.T, marginal


@pytest.mark.parametrize("pairs", [(NOISE, PRIOR), (NOISE, 0.7), (0.3, PRIOR), (0.3, 0.7)])
def test_full_kernel(pairs: Any) -> None:
    model, x, x_test, y = network(), inputs(9), inputs(4, seed=2), targets()
    f, f_test = model(x).detach(), model(x_test).detach()
    j, j_test = jacobian(model, x).flatten(0, 1), jacobian(model, x_test).flatten(0, 1)
    found = posterior(kernel(model, x), f, y, *pairs)
    k_test, own = kernel(model, x_test, x), own_kernel(model, x_test)
    mean, covariance = found.mean(k_test, f_test), found.covariance(k_test, own)
    w = found.weights(operator(model, x))
    assert len(found.noise) == len(found.prior) == (1 if pairs == (0.3, 0.7) else 3)
    for t, (noise, prior) in enumerate(zip(found.noise, found.prior, strict=True)):
        step, change, wide, marginal = literal(j, j_test, (y - f).flatten(), noise, prior)
        blocks = wide.reshape(4, OUTPUTS, 4, OUTPUTS).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        assert torch.allclose(mean[t], f_test + change.reshape(4, OUTPUTS), rtol=1e-9, atol=1e-10)
        assert torch.allclose(covariance[t], blocks, rtol=1e-7, atol=1e-10)
        assert torch.allclose(found.log_marginal[t], marginal, rtol=1e-10)
        moved = torch.cat([(w[name][t] - p.detach()).flatten() for name, p in model.named_parameters()])
        assert torch.allclose(moved, step, rtol=1e-8, atol=1e-10)
    assert torch.equal(found.variance(k_test, own), covariance.diagonal(dim1=2, dim2=3))
    assert found.best == int(found.log_marginal.argmax())


@pytest.mark.parametrize("kind", ["trace", "diagonal"])
def test_kernels_of_independent_outputs(kind: Any) -> None:
    """A Gaussian process for every output, by its definition."""
    model, x, x_test, y = network(), inputs(9), inputs(4, seed=2), targets()
    f, f_test = model(x).detach(), model(x_test).detach()
    k, k_test = kernel(model, x, kind=kind), kernel(model, x_test, x, kind=kind)
    own = own_kernel(model, x_test, kind=kind)
    found = posterior(k, f, y, NOISE, PRIOR)
    variance = found.variance(k_test, own)
    for t, (noise, prior) in enumerate(zip(NOISE, PRIOR, strict=True)):
        marginal = 0.0
        for c in range(OUTPUTS):
            its = [part if kind == "trace" else part[..., c] for part in (k, k_test, own)]
            evidence = prior * its[0] + noise * torch.eye(9).double()
            r = y[:, c] - f[:, c]
            mean = f_test[:, c] + prior * its[1] @ evidence.inverse() @ r
            spread = prior * its[2] - prior**2 * (its[1] @ evidence.inverse() * its[1]).sum(1)
            assert torch.allclose(found.mean(k_test, f_test)[t, :, c], mean, rtol=1e-9, atol=1e-10)
            assert torch.allclose(variance[t, :, c], spread, rtol=1e-7, atol=1e-10)
            normal = torch.distributions.MultivariateNormal(torch.zeros_like(r), evidence)
            marginal += float(normal.log_prob(r))
        assert math.isclose(float(found.log_marginal[t]), marginal, rel_tol=1e-10)
    off = found.covariance(k_test, own) - torch.diag_embed(variance)
    assert not off.any()


@pytest.mark.parametrize("kind", ["full", "trace", "diagonal"])
@pytest.mark.parametrize("rows", [(4,), (128, 4), (128,)])
def test_own_kernel_is_the_diagonal(kind: Any, rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("fedtangent.tangents.own_kernel"), "_ROWS", rows)
    model, x = network(), inputs(11)
    whole = kernel(model, x, kind=kind)
    found = own_kernel(model, x, kind=kind)
    assert found.shape == (11, *whole.shape[2:])
    assert torch.allclose(found, torch.stack([whole[i, i] for i in range(11)]), rtol=1e-12, atol=0)


def test_labels_are_one_hot_and_one_output_is_any_kind() -> None:
    model, x = network(), inputs(9)
    y = torch.arange(9) % OUTPUTS
    k, f = kernel(model, x), model(x).detach()
    hot = nn.functional.one_hot(y, OUTPUTS).double()
    assert torch.equal(posterior(k, f, y, 0.1).alpha, posterior(k, f, hot, 0.1).alpha)
    one = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    f = one(x).detach()
    variances = [
        posterior(kernel(one, x, kind=kind), f, targets()[:, :1], 0.1).variance(  # type: ignore[arg-type]
            kernel(one, inputs(4, 2), x, kind=kind),  # type: ignore[arg-type]
            own_kernel(one, inputs(4, 2), kind=kind),  # type: ignore[arg-type]
        )
        for kind in ("full", "trace", "diagonal")
    ]
    assert torch.allclose(variances[0], variances[1]) and torch.allclose(variances[0], variances[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": 0.0}, "`noise` must be positive and finite; got [0.0]. "),
        ({"prior": -1.0}, "`prior` must be positive and finite; got [-1.0]. "),
        ({"noise": []}, "`noise` must be positive and finite; got []. "),
        (
            {"noise": [1.0, 2.0], "prior": [1.0, 2.0, 3.0]},
            "`prior` must be one variance, or one for each of 2 noises; got 3. ",
        ),
        ({"f_0": targets()[:5]}, "`y` must be labels (5,) or targets (5, 3); got (9, 3). "),
        ({"kernel": -torch.eye(9).double()}, "`kernel` must be positive semi-definite; "),
    ],
)
def test_what_has_no_posterior(change: dict[str, Any], message: str) -> None:
    given = {"kernel": torch.eye(9).double(), "f_0": 0 * targets(), "y": targets(), "noise": 1.0, **change}
    with pytest.raises(ValueError) as found:
        posterior(**given)
    assert message in str(found.value)


def test_new_inputs_that_do_not_fit() -> None:
    found = posterior(torch.eye(9).double(), 0 * targets(), targets(), 1.0)
    with pytest.raises(ValueError, match=r"`kernel_test_train` must be \(4, 9, 3, 3\) or \(4, 9\); got \(4, 8\)"):
        found.variance(torch.ones(4, 8), torch.ones(4))
    with pytest.raises(ValueError, match="`kernel_test_train` must be of the kernel's kind, with 2 axes; got"):
        found.variance(torch.ones(4, 9, 3, 3), torch.ones(4, 3, 3))
    with pytest.raises(ValueError, match=r"`kernel_own` must be \(4,\); got \(4, 4\)"):
        found.variance(torch.ones(4, 9), torch.ones(4, 4))


@pytest.fixture
def double() -> Iterator[None]:
    """Whatever laplace-torch makes is in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_laplace_torch_has_the_same_variance(double: None) -> None:
    laplace = pytest.importorskip("laplace", reason="laplace-torch is not installed")
    model, x, y, x_test = network(), inputs(9), targets(), inputs(4, seed=2)
    noise, prior = 0.25, 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        its = laplace.Laplace(
            model,
            "regression",
            subset_of_weights="all",
            hessian_structure="full",
            sigma_noise=noise**0.5,
            prior_precision=1 / prior,
        )
        its.fit(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4))
        covariance = its(x_test)[1]
    model.zero_grad()
    found = posterior(kernel(model, x), model(x).detach(), y, noise, prior)
    ours = found.covariance(kernel(model, x_test, x), own_kernel(model, x_test))[0]
    assert torch.allclose(ours, covariance.detach(), rtol=1e-9, atol=1e-12)


def test_gpytorch_has_the_same_posterior() -> None:
    gpytorch = pytest.importorskip("gpytorch", reason="GPyTorch is not installed")
    from fedtangent.tangents.adaptors.gpytorch import tangent_kernel

    model, x, x_test, y = network(), inputs(9), inputs(4, seed=2), targets()[:, 0]
    noise, prior = NOISE[0], PRIOR[0]

    class Process(gpytorch.models.ExactGP):
        def __init__(self, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean = gpytorch.means.ZeroMean()
            self.covariance = gpytorch.kernels.ScaleKernel(tangent_kernel(model))

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.covariance(x))

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    process = Process(likelihood).double()
    likelihood.noise, process.covariance.outputscale = noise, prior
    process.train(), likelihood.train()
    marginal = likelihood(process(x)).log_prob(y)
    process.eval(), likelihood.eval()
    with gpytorch.settings.fast_computations(False, False, False):
        predicted = process(x_test)
    found = posterior(kernel(model, x, kind="trace"), torch.zeros(9, 1).double(), y[:, None], noise, prior)
    k_test = kernel(model, x_test, x, kind="trace")
    mean, own = found.mean(k_test, torch.zeros(4, 1).double()), own_kernel(model, x_test, kind="trace")
    assert torch.allclose(mean[0, :, 0], predicted.mean.detach(), rtol=1e-6, atol=1e-8)
    assert torch.allclose(found.variance(k_test, own)[0, :, 0], predicted.variance.detach(), rtol=1e-6, atol=1e-8)
    assert torch.allclose(found.log_marginal[0], marginal.detach(), rtol=1e-6)
