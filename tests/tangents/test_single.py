"""Numbers that a function of `tangents` is given: what is none is one sentence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import (
    distance,
    drift,
    evolve,
    infinite,
    jacobian,
    kernel,
    pinn,
    posterior,
    sketch,
    solve,
    spectrum,
)

MODEL, X = nn.Linear(4, 2), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def k() -> tuple[Tensor, Tensor, Tensor]:
    return kernel(MODEL, X), MODEL(X).detach(), torch.zeros(3, 2)


CALLS: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]] = {
    "size": (lambda value: sketch(MODEL, X, value), (1.5, "3", None)),
    "seed": (lambda value: sketch(MODEL, X, 3, seed=value), (1.5, "3", None)),
    "t": (lambda value: evolve(*k(), value), ("a", ["a"], None, iter([1.0]))),
    "products": (lambda value: solve(*k()[:2], 0.1, products=value), ("a", 1.5, None)),
    "ridge": (lambda value: solve(jacobian(MODEL, X), X[:, :2], ridge=value), ("a", None)),
    "lr": (lambda value: evolve(*k(), [1.0], lr=value), ("a", None)),
    "depth": (infinite.kernel, (1.5, "2", True)),
    "weight_std": (lambda value: infinite.kernel(1, weight_std=value), ("a", None)),
    "noise": (lambda value: posterior(*k(), value), ("a", ["a"], None)),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, values) in CALLS.items() for value in values])
def test_what_is_no_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^`{name}` must be an? (integer|number); got .*\. Give "):
        CALLS[name][0](value)


def test_numbers_of_numpy_and_torch() -> None:
    assert torch.equal(sketch(MODEL, X, np.int64(3), seed=np.uint8(1)), sketch(MODEL, X, 3, seed=1))
    found = solve(jacobian(MODEL, X), X[:, :2], ridge=torch.tensor(0.5))
    assert torch.equal(found.alpha, solve(jacobian(MODEL, X), X[:, :2], ridge=0.5).alpha)


@pytest.mark.parametrize(
    "call", [lambda seed: solve(*k()[:2], 0.1, seed=seed), lambda seed: spectrum(k()[0], 1, seed=seed)]
)
def test_seeds_are_not_negative(call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"^`seed` must not be negative; got -1\. Give"):
        call(-1)
    with pytest.raises(TypeError, match=r"^`seed` must be an integer; got 'a'\. Give"):
        call("a")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_unsigned_numbers(dtype: Any) -> None:
    model, ids = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2)), np.array([[1, 2], [3, 8], [2, 2]])
    found = kernel(nn.Sequential(Long(), model), ids.astype(dtype))
    assert torch.equal(found, kernel(nn.Sequential(Long(), model), torch.from_numpy(ids)))
    labels = np.array([0, 1, 1])
    assert torch.equal(evolve(*k()[:2], labels.astype(dtype), 1.0).f, evolve(*k()[:2], torch.from_numpy(labels), 1.0).f)


class Long(nn.Module):
    """Whole numbers of any type as torch looks them up."""

    def forward(self, x: Tensor) -> Tensor:
        return x.long()


def test_arrays_are_vectors_of_a_product() -> None:
    j, alpha = jacobian(MODEL, X), np.ones((3, 2), np.float32)
    assert torch.equal(j.times(alpha), j.times(torch.from_numpy(alpha)))
    with pytest.raises(TypeError, match=r"^`alpha` must be a tensor; got list\. "):
        j.vjp([1.0])  # type: ignore[arg-type]


def test_numbers_of_torch_that_are_trained() -> None:
    """As a variance that marginal likelihood tunes; derivatives by it are not taken."""
    noise = torch.tensor([0.1, 0.3], dtype=torch.float64, requires_grad=True)
    right = posterior(*k(), [0.1, 0.3]).log_marginal
    assert torch.equal(posterior(*k(), noise).log_marginal, right)
    assert torch.equal(posterior(*k(), list(noise)).log_marginal, right)
    assert torch.equal(evolve(*k(), noise.cumsum(0)).alpha, evolve(*k(), [0.1, 0.4]).alpha)


def test_a_kernel_kept_in_half_precision() -> None:
    """Products in half precision would not be symmetric; its numbers are taken in float32."""
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    whole = (x @ x.T).bfloat16()
    f_0, y = torch.zeros(40, 1), torch.randn(40, 1)
    assert torch.equal(evolve(whole, f_0, y, 3.0).alpha, evolve(whole.float(), f_0, y, 3.0).alpha)
    assert torch.equal(spectrum(whole, 3).eigenvalues, spectrum(whole.float(), 3).eigenvalues)


@pytest.mark.parametrize("take", [distance, drift])
def test_complex_kernels_have_no_distance(take: Callable[[Tensor, Tensor], float]) -> None:
    complex_ = torch.complex(torch.eye(3), torch.randn(3, 3))
    with pytest.raises(ValueError, match=r"^`k_.` must hold real numbers; got torch.complex64\. Take its real part"):
        take(complex_, complex_)


def test_a_model_is_no_jacobian() -> None:
    with pytest.raises(TypeError, match=r"^`jacobian` must be a Jacobian; got Linear\. Call jacobian\(model, x\)\."):
        evolve(*k(), 1.0).weights(MODEL)  # type: ignore[arg-type]


def test_arrays_in_the_infinite_width() -> None:
    kernels = infinite.kernel(2)
    assert torch.equal(kernels(X.numpy()).ntk, kernels(X).ntk)
    with pytest.raises(TypeError, match=r"^`x1` must be a tensor; got list\. "):
        kernels(X.tolist())


def test_terms_are_a_dict() -> None:
    with pytest.raises(TypeError, match=r"^`terms` must be a dict; got list\. Give \{'u': \(identity, points\)\}\."):
        pinn.kernel(MODEL, [(lambda u, x: u(x), X)])  # type: ignore[arg-type]
