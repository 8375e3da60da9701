"""Every figure of a spectrum from explicit matrices in numpy; operators, whose figures are estimates, against those."""

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import jacobian as operator
from fedtangent.tangents.spectrum import Spectrum, distance, drift, largest_eigenvalue, spectrum
from tests.tangents.networks import inputs, jacobian, networks

# by its name, since the package's attribute of that name is the function
module = import_module("fedtangent.tangents.spectrum")
N, C = 5, 3
KINDS = ("full", "trace", "diagonal")
LABELS = torch.tensor([0, 2, 1, 0, 2])


def kernel(kind: str = "full", seed: int = 0, n: int = N, parameters: int = 40) -> Tensor:
    j = torch.randn(n, C, parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    full = torch.einsum("icp,jdp->ijcd", j, j)
    diagonal = full.diagonal(dim1=2, dim2=3)
    return {"full": full, "trace": diagonal.mean(2), "diagonal": diagonal}[kind].clone()


def matrix(kernel: Tensor) -> np.ndarray:
    """The kernel as a matrix over samples, or over (sample, output)."""
    if kernel.dim() == 2:
        return kernel.numpy()
    if kernel.dim() == 3:
        kernel = torch.einsum("ijc,cd->ijcd", kernel, torch.eye(kernel.shape[2], dtype=kernel.dtype))
    n, _, c, _ = kernel.shape
    found = np.zeros((n * c, n * c))
    for i in range(n):
        for j in range(n):
            for a in range(c):
                for b in range(c):
                    found[i * c + a, j * c + b] = kernel[i, j, a, b]
    return found


class Plain:
    """An operator that knows its shape only."""

    def __init__(self, kernel: Tensor) -> None:
        self.shape, self.matrix = (*kernel.shape[1:3], 40), torch.from_numpy(matrix(kernel))

    def times(self, alpha: Tensor) -> Tensor:
        return (self.matrix @ alpha.flatten()).reshape(alpha.shape)


def large(seed: int = 0) -> Tensor:
    """A kernel that is not written out: 141 rows, of which 90 are independent."""
    return kernel(seed=seed, n=47, parameters=90)


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_by_numpy(kind: str) -> None:
    k, other = kernel(kind), kernel(kind, seed=1)
    found = spectrum(k, 4, other=other)
    by_numpy = matrix(k)
    values = np.sort(np.linalg.eigvalsh(by_numpy))[::-1]
    assert found.eigenvalues.dtype == torch.float64
    assert found.eigenvalues.numpy() == pytest.approx(values[:4], rel=1e-12)
    assert found.size == len(by_numpy)
    assert found.trace == pytest.approx(np.trace(by_numpy), rel=1e-12)
    assert found.norm == pytest.approx(np.linalg.norm(by_numpy), rel=1e-12)
    assert (found.trace_error, found.norm_error) == (0, 0)
    assert found.largest == pytest.approx(values[0])
    assert found.effective_rank == pytest.approx(values.sum() / values[0], rel=1e-12)
    assert found.condition == pytest.approx(values[0] / values[-1], rel=1e-9)
    cosine = (by_numpy * matrix(other)).sum() / np.linalg.norm(by_numpy) / np.linalg.norm(matrix(other))
    assert found.distance == pytest.approx(1 - cosine, rel=1e-12)
    assert found.alignment is None


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_alignment_with_the_labels(kind: str, labelled: bool) -> None:
    """<K, y y^T> / (|K| |y y^T|), with y y^T summed over the outputs where the kernel has none."""
    k = kernel(kind)
    targets = inputs(N, seed=9)[:, :C]
    y = targets
    if labelled:
        y, targets = LABELS, torch.full((N, C), -1 / 3, dtype=torch.float64)
        targets[range(N), LABELS] += 1
    like = (targets @ targets.T).numpy() if kind == "trace" else np.outer(targets.flatten(), targets.flatten())
    expected = (matrix(k) * like).sum() / np.linalg.norm(matrix(k)) / np.linalg.norm(like)
    assert spectrum(k, 2, y=y).alignment == pytest.approx(expected, rel=1e-12)


def test_two_classes_are_plus_and_minus_one() -> None:
    """Cristianini et al.: y in {-1, 1}; y^T K y / (n |K|)."""
    k, y = kernel("trace"), torch.tensor([0, 1, 1, 0, 1])
    sign = 2.0 * y.double() - 1
    expected = float(sign @ k @ sign / (N * k.norm()))
    assert spectrum(k, 1, y=y).alignment == pytest.approx(expected, rel=1e-12)
    assert spectrum(k, 1, y=y == 1).alignment == pytest.approx(expected, rel=1e-12)
    assert spectrum(k, 1, y=sign).alignment == pytest.approx(expected, rel=1e-12)
    assert spectrum(torch.outer(sign, sign), 1, y=y).alignment == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stable_step_is_where_descent_begins_to_grow(kind: str) -> None:
    """r <- r - lr / (n C) K r, the residual of the linearised network under the squared loss."""
    k = kernel(kind)
    whole = torch.from_numpy(np.kron(matrix(k), np.eye(C)) if kind == "trace" else matrix(k))
    outputs = C if kind == "trace" else 1  # what the docstring says of a mean over outputs
    for factor, grows in ((0.99, False), (1.01, True)):
        r = start = torch.ones(N * C, dtype=torch.float64)
        for _ in range(600):
            r = r - factor * spectrum(k, 1).stable_step * outputs / (N * C) * whole @ r
        assert (float(r.norm()) > float(start.norm())) == grows


def test_a_repeated_sample_has_no_finite_condition() -> None:
    model, x = networks()["deep"], inputs()
    j = jacobian(model, torch.cat([x, x[:1]])).flatten(0, 1)
    for dtype in (torch.float64, torch.float32):
        found = spectrum((j @ j.T).to(dtype), 18)
        assert found.condition == math.inf
        assert bool((found.eigenvalues >= 0).all())
    assert spectrum(kernel("trace").float(), 5).condition == pytest.approx(
        spectrum(kernel("trace"), 5).condition, rel=1e-4
    )


def test_a_large_matrix_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ALL", 4)
    for kind in KINDS:
        k = kernel(kind, n=9)
        values = np.sort(np.linalg.eigvalsh(matrix(k)))[::-1]
        found = spectrum(k, 3, y=torch.arange(9) % 3, other=kernel(kind, seed=1, n=9))
        assert found.eigenvalues.numpy() == pytest.approx(values[:3], rel=1e-10)
        assert found.condition is None
        assert spectrum(k.float(), 3).eigenvalues.numpy() == pytest.approx(values[:3], rel=1e-5)
        monkeypatch.setattr(module, "_ALL", 2048)
        exact = spectrum(k, 3, y=torch.arange(9) % 3, other=kernel(kind, seed=1, n=9))
        monkeypatch.setattr(module, "_ALL", 4)
        assert found[1:6] == pytest.approx(exact[1:6], rel=1e-12)
        assert found[7:] == pytest.approx(exact[7:], rel=1e-12)


@pytest.mark.parametrize("name", ["deep", "own module", "one output"])
def test_a_small_operator_is_exact(name: str) -> None:
    model, x = networks()[name], inputs(4)
    j = jacobian(model, x)
    k = torch.einsum("icp,jdp->ijcd", j, j)
    j_other = jacobian(model, inputs(4, seed=1))
    other = torch.einsum("icp,jdp->ijcd", j_other, j_other)
    y = inputs(4, seed=2)[:, : j.shape[1]]
    expected = spectrum(k, 3, y=y, other=other)
    for its in (operator(model, inputs(4, seed=1)), other):
        found = spectrum(operator(model, x), 3, y=y, other=its)
        assert found.eigenvalues.numpy() == pytest.approx(expected.eigenvalues.numpy(), rel=1e-10)
        assert found[1:] == pytest.approx(expected[1:], rel=1e-6)


def test_a_large_operator_is_estimated() -> None:
    """A Jacobian of 47 samples and 3 outputs, by forward and backward passes."""
    model, x = networks()["deep"], inputs(47)
    j = jacobian(model, x)
    k = torch.einsum("icp,jdp->ijcd", j, j)
    y = torch.arange(47) % 3
    exact, found = (spectrum(each, 5, y=y) for each in (k, operator(model, x)))
    check_estimates(found, exact)
    assert found.alignment == pytest.approx(exact.alignment, rel=1e-2)


def check_estimates(found: Spectrum, exact: Spectrum) -> None:
    assert found.eigenvalues.numpy() == pytest.approx(exact.eigenvalues.numpy(), rel=1e-9)
    assert 0 < found.trace_error < 0.05 * exact.trace
    assert 0 < found.norm_error < 0.05 * exact.norm
    assert abs(found.trace - exact.trace) < 4 * found.trace_error
    assert abs(found.norm - exact.norm) < 4 * found.norm_error
    assert found.condition is None


def test_an_operator_may_know_its_shape_only() -> None:
    k, other = large(), large(1)
    exact, found = spectrum(k, 6, other=other), spectrum(Plain(k), 6, other=Plain(other))
    check_estimates(found, exact)
    assert found.distance == pytest.approx(exact.distance, rel=0.05)
    doubled = Plain(2 * k)
    assert float(spectrum(Plain(k), 6, other=doubled).distance or 0) < 1e-12


def test_the_stated_errors_are_the_spread_over_seeds() -> None:
    """That of 60 estimates is known to a tenth."""
    k = Plain(large())
    found = [spectrum(k, 3, seed=seed) for seed in range(60)]
    for figure, error in (("trace", "trace_error"), ("norm", "norm_error")):
        spread = np.std([getattr(each, figure) for each in found])
        assert np.mean([getattr(each, error) for each in found]) == pytest.approx(spread, rel=0.35)
    mean = np.mean([each.trace for each in found])
    assert mean == pytest.approx(np.trace(matrix(large())), abs=4 * found[0].trace_error / math.sqrt(60))


def test_the_same_seed_gives_the_same_figures() -> None:
    k = Plain(large())
    first, again, other = (spectrum(k, 3, seed=seed) for seed in (4, 4, 5))
    assert first[1:] == again[1:]
    assert torch.equal(first.eigenvalues, again.eigenvalues)
    assert first.trace != other.trace


def test_it_agrees_with_the_largest_eigenvalue_of_the_dynamics() -> None:
    model, x = networks()["deep"], inputs(47)
    j = operator(model, x)
    bound = largest_eigenvalue(j.times, j.f, torch.ones(47, dtype=torch.bool))
    assert float(bound) == pytest.approx(spectrum(j, 1).largest, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_distance_and_drift(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = kernel(kind), kernel(kind, seed=1)
    for chunk in (2**22, 1, 2 * a[0].numel()):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        assert distance(a, b) == pytest.approx(float(1 - (a * b).sum() / a.norm() / b.norm()), rel=1e-12)
        assert drift(b, a) == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-12)
    assert distance(a, 7 * a) < 1e-30
    assert drift(1.25 * a, a) == pytest.approx(0.25, rel=1e-12)
    assert drift(0 * a, a) == pytest.approx(1, rel=1e-12)
    cross = a[:2]
    assert distance(cross, b[:2]) == pytest.approx(float(1 - (cross * b[:2]).sum() / cross.norm() / b[:2].norm()))


def test_a_small_distance_keeps_its_digits() -> None:
    """A part of eps that is orthogonal moves K by an angle of eps: 1 - cos is eps^2 / 2, far below rounding."""
    a, b = kernel(), kernel(seed=1)
    b = b - (a * b).sum() / (a * a).sum() * a
    moved = a + 1e-9 * b * a.norm() / b.norm()
    assert distance(a, moved) == pytest.approx(0.5e-18, rel=1e-5)


SKEW = torch.tensor([[2.0, 0.3], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 4), 1), r"^`kernel` must be \(n, n, C, C\), \(n, n\) or \(n, n, C\); got \(3, 4\)\. "),
        ((torch.ones(3), 1), r"^`kernel` must be \(n, n, C, C\), .*; got \(3,\)\. "),
        ((torch.ones(3, 3, 2, 4), 1), r"^`kernel` must be \(n, n, C, C\), .*; got \(3, 3, 2, 4\)\. "),
        ((torch.ones(3, 2, 3, 2), 1), r"^`kernel` must be \(n, n, C, C\), .*; got \(3, 2, 3, 2\)\. "),
        ((torch.ones(2, 2, 2, 2, 2), 1), r"^`kernel` must be \(n, n, C, C\), .*; got \(2, 2, 2, 2, 2\)\. "),
        ((torch.ones(0, 0), 1), r"^`kernel` must hold numbers in floating point; got 0 of torch.float32\. "),
        ((torch.ones(2, 2).long(), 1), r"^`kernel` must hold numbers in floating point; got 4 of torch.int64\. "),
        ((torch.full((2, 2), math.nan), 1), r"^`kernel` must be finite; got numbers that are not\. "),
        ((torch.zeros(2, 2), 1), r"^`kernel` must not be zero; got zeros only\. "),
        ((SKEW, 1), r"^`kernel` must be symmetric; got one that is not\. "),
        ((kernel().transpose(2, 3) * torch.arange(3), 1), r"^`kernel` must be symmetric; got one that is not\. "),
        ((torch.diag(torch.tensor([1.0, -2.0])), 1), r"^`kernel` must be positive semi-definite; got an .* of -2\. "),
        ((kernel(), 0), r"^`k` must be from 1 to 15 for this kernel; got 0\. "),
        ((kernel(), 16), r"^`k` must be from 1 to 15 for this kernel; got 16\. "),
        ((kernel("trace"), 6), r"^`k` must be from 1 to 5 for this kernel; got 6\. "),
        ((Plain(large()), 141), r"^`k` must be from 1 to 140 for this kernel; got 141\. "),
    ],
)
def test_a_wrong_kernel_or_k_is_an_error(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectrum(*arguments)


@pytest.mark.parametrize(
    ("kind", "y", "message"),
    [
        ("full", LABELS[:4], r"^`y` must be \(5,\) labels or \(5, 3\) targets; got \(4,\)\. "),
        ("full", torch.ones(N), r"^`y` must be \(5,\) labels or \(5, 3\) targets; got \(5,\)\. "),
        ("full", torch.ones(N, 2), r"^`y` must be \(5,\) labels or \(5, 3\) targets; got \(5, 2\)\. "),
        ("trace", torch.ones(4, 2), r"^`y` must be \(5,\) labels or \(5, C\) targets; got \(4, 2\)\. "),
        ("diagonal", torch.ones(N, 3, 1), r"^`y` must be \(5,\) labels or \(5, 3\) targets; got \(5, 3, 1\)\. "),
        ("full", LABELS + 1, r"^`y` must hold labels from 0 to 2; got 1 to 3\. "),
        ("trace", LABELS - 1, r"^`y` must hold labels from 0 to 1; got -1 to 1\. "),
        ("trace", 0 * LABELS, r"^`y` must be finite and not constant; got numbers without a class to tell\. "),
        (
            "full",
            torch.full((N, C), math.inf),
            r"^`y` must be finite and not constant; got numbers without a class to tell\. ",
        ),
    ],
)
def test_a_wrong_y_is_an_error(kind: str, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectrum(kernel(kind), 2, y=y)


def test_a_wrong_other_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"^`other` must be of the kind and shape of kernel, \(5, 5, 3, 3\); got \(5, 5\)\. "
    ):
        spectrum(kernel(), 2, other=kernel("trace"))
    with pytest.raises(
        ValueError, match=r"^`other` must be of the kind and shape of kernel, \(47, 3\); got \(47, 47, 3, 3\)\. "
    ):
        spectrum(Plain(large()), 2, other=large())
    with pytest.raises(ValueError, match=r"^`other` must be \(n, n, C, C\), "):
        spectrum(kernel(), 2, other=torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"^`other` must be symmetric; got one that is not\. "):
        spectrum(kernel(), 2, other=kernel().transpose(2, 3) * torch.arange(3))
    with pytest.raises(ValueError, match=r"^`other` must not be zero; got zeros only\. "):
        spectrum(kernel(), 2, other=0 * kernel())


def test_numbers_of_numpy_are_whole_numbers() -> None:
    assert torch.equal(spectrum(kernel(), np.int64(3)).eigenvalues, spectrum(kernel(), 3).eigenvalues)  # type: ignore[arg-type]


def test_what_is_no_kernel_is_a_type_error() -> None:
    with pytest.raises(
        TypeError, match=r"^`kernel` must be a tensor, or an operator with times and f or shape; got list\. "
    ):
        spectrum([[1.0]], 1)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"^`other` must be a tensor, or an operator with times and f or shape; got Linear\. "
    ):
        spectrum(kernel(), 1, other=nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^`k` must be a whole number; got Tensor\. Give labels as y=\.$"):
        spectrum(kernel(), torch.arange(3))  # type: ignore[arg-type]


def test_an_operator_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for written_out in (128, 1):
        monkeypatch.setattr("fedtangent.tangents.numerics.symmetric._WRITTEN_OUT", written_out)
        with pytest.raises(ValueError, match=r"^`kernel` must be finite; got numbers that are not\. "):
            spectrum(Plain(kernel() * math.inf), 1)


def test_kernels_that_cannot_be_compared_are_an_error() -> None:
    a = kernel()
    cases = [
        (distance, (a, kernel("trace")), r"^`k_1` and `k_2` must have one shape; got \(5, 5, 3, 3\) and \(5, 5\)\. "),
        (drift, (a, kernel("trace")), r"^`k_t` and `k_0` must have one shape; got \(5, 5, 3, 3\) and \(5, 5\)\. "),
        (distance, (0 * a, a), r"^`k_1` must not be zero; got zeros only\. "),
        (distance, (a, 0 * a), r"^`k_2` must not be zero; got zeros only\. "),
        (drift, (a, 0 * a), r"^`k_0` must not be zero; got zeros only\. "),
        (distance, (a / 0, a), r"^`k_1` must be finite; got numbers that are not\. "),
        (drift, (a / 0, a), r"^`k_t` must be finite; got numbers that are not\. "),
        (drift, (a, a / 0), r"^`k_0` must be finite; got numbers that are not\. "),
    ]
    for compare, kernels, message in cases:
        with pytest.raises(ValueError, match=message):
            compare(*kernels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    model, x = networks()["deep"], inputs(47)
    for k in (kernel(), large()):
        assert spectrum(k.cuda(), 3, y=torch.arange(len(k)) % 3).alignment == pytest.approx(
            spectrum(k, 3, y=torch.arange(len(k)) % 3).alignment, rel=1e-10
        )
    on_cpu, on_gpu = spectrum(operator(model, x), 3), spectrum(operator(model.cuda(), x.cuda()), 3)
    assert on_gpu[1:6] == pytest.approx(on_cpu[1:6], rel=1e-8)


def test_arrays_are_taken_as_tensors() -> None:
    a, b = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double(), torch.eye(6).double()
    k, y = a @ a.T, torch.tensor([0, 1, 1, 0, 2, 1])
    found, same = spectrum(k.numpy(), 2, y=y.numpy(), other=b.numpy()), spectrum(k, 2, y=y, other=b)  # type: ignore[arg-type]
    assert (found.largest, found.alignment, found.distance) == (same.largest, same.alignment, same.distance)
    assert distance(k.numpy(), b.numpy()) == distance(k, b)  # type: ignore[arg-type]
    assert drift(k.numpy(), b.numpy()) == drift(k, b)  # type: ignore[arg-type]
