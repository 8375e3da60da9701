"""Iterative solves equal dense ones, of kernels in memory, on disk and of nobody; a preconditioner saves products."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import jacobian as operator
from fedtangent.tangents import kernel, matrix, posterior, solve
from tests.tangents.networks import INPUTS, OUTPUTS, inputs, jacobian

SAMPLES = 50


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(INPUTS, 20), nn.Tanh(), nn.Linear(20, OUTPUTS)).double()


def right() -> Tensor:
    return torch.randn(SAMPLES, OUTPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def literal(model: nn.Module, kind: str, b: Tensor, ridge: float) -> Tensor:
    j = jacobian(model, inputs(SAMPLES))
    full = torch.einsum("ncp,mdp->ncmd", j, j)
    size = SAMPLES * OUTPUTS
    if kind == "full":
        k = full.reshape(size, size) + ridge * torch.eye(size).double()
        return torch.linalg.solve(k, b.flatten()).reshape(b.shape)
    own = [full[:, c, :, c] for c in range(OUTPUTS)]
    own = [torch.stack(own).mean(0)] * OUTPUTS if kind == "trace" else own
    eye = ridge * torch.eye(SAMPLES).double()
    return torch.stack([torch.linalg.solve(k + eye, b[:, c]) for c, k in enumerate(own)], 1)


@pytest.mark.few(3)
@pytest.mark.parametrize("rank", [0, 20])
@pytest.mark.parametrize("kind", ["full", "trace", "diagonal", "operator"])
def test_it_is_the_dense_solution(kind: Any, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also some rows of the kernel at a time, that do not divide the samples."""
    model, x, b, ridge = network(), inputs(SAMPLES), right(), 0.02
    k = operator(model, x) if kind == "operator" else kernel(model, x, kind=kind)
    dense = literal(model, "full" if kind == "operator" else kind, b, ridge)
    found = solve(k, b, ridge, rank=rank, tolerance=1e-12)
    assert (found.alpha - dense).norm() <= 1e-9 * dense.norm()
    monkeypatch.setattr(importlib.import_module("fedtangent.tangents.solve"), "_CHUNK", 7 * SAMPLES * OUTPUTS**2)
    again = solve(k, b, ridge, rank=rank, tolerance=1e-12)
    assert (again.alpha - dense).norm() <= 1e-9 * dense.norm() and again.residual <= 1e-11


def test_a_preconditioner_saves_products() -> None:
    model, b = network(), right()
    k = kernel(model, inputs(SAMPLES))
    values = torch.linalg.eigvalsh(matrix(k)).flip(0)
    assert values[0] > 200 * values[40]  # there is something to save
    plain, helped = (solve(k, b, 0.01, rank=rank, tolerance=1e-8) for rank in (0, 60))
    assert (plain.alpha - helped.alpha).norm() <= 1e-6 * plain.alpha.norm()
    assert helped.products - 60 < plain.products / 2


def test_a_kernel_on_disk_and_a_posterior(tmp_path: Path) -> None:
    model, x = network(), inputs(SAMPLES)
    y, f = right(), model(x).detach()
    k = kernel(model, list(x.split(9)), out=tmp_path / "kernel", memory_bytes=2**20)
    found = solve(k, f - y, 0.3 / 2, tolerance=1e-12)
    mapped = np.load(tmp_path / "kernel", mmap_mode="r")
    assert torch.equal(solve(mapped, f - y, 0.3 / 2, tolerance=1e-12).alpha, found.alpha)
    dense = posterior(kernel(model, x), f, y, noise=0.3, prior=2.0).alpha[0]
    assert (found.alpha - dense).norm() <= 1e-9 * dense.norm()


def test_columns_of_zeros_and_single_precision() -> None:
    k, b = kernel(network(), inputs(SAMPLES), kind="trace"), right()
    b[:, 1] = 0
    found = solve(k, b, 0.1, tolerance=1e-9)
    assert not found.alpha[:, 1].any() and found.residual <= 2e-9
    single = solve(k.float(), b.float(), 0.1, tolerance=1e-9)
    assert single.alpha.dtype == torch.float32
    assert (single.alpha.double() - found.alpha).norm() <= 1e-5 * found.alpha.norm()
    its = solve(operator(network().float(), inputs(SAMPLES).float()), b.float(), 1.0, rank=20)
    dense = literal(network(), "full", b, 1.0)
    assert (its.alpha.double() - dense).norm() <= 1e-2 * dense.norm()
    with pytest.raises(ValueError, match=r"`tolerance` must be within reach; got 1e-12, and .* in float64\."):
        solve(operator(network().float(), inputs(SAMPLES).float()), b.float(), 0.01, tolerance=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridge": 0.0}, "`ridge` must be above 0 and below inf; got 0.0. "),
        ({"tolerance": 1.0}, "`tolerance` must be above 0 and below 1; got 1.0. "),
        ({"rank": 5}, "`rank` must be a whole number from 0 to 4; got 5. "),
        ({"b": torch.ones(5)}, "`b` must be (n, C), finite and in floating point; got (5,). "),
        ({"b": torch.ones(5, 1) / 0}, "`b` must be (n, C), finite and in floating point; got (5, 1). "),
        ({"b": torch.ones(4, 1)}, "`kernel` must fit b, (4, 4, 1, 1), (4, 4) or (4, 4, 1), in floating point; got"),
        ({"kernel": torch.diag(torch.arange(5.0)), "products": 1}, "`tolerance` must be within reach; got 0.0001, and"),
        ({"kernel": 3}, "`kernel` must be a tensor, or an operator with times and f or shape; got int. "),
    ],
)
def test_what_cannot_be_solved(change: dict[str, Any], message: str) -> None:
    given = {"kernel": torch.eye(5), "b": torch.ones(5, 1), "ridge": 1.0, **change}
    with pytest.raises((ValueError, TypeError)) as found:
        solve(**given)
    assert message in str(found.value)


def test_numbers_of_numpy_are_whole_numbers() -> None:
    found = solve(torch.eye(5), torch.ones(5, 1), 1.0, rank=np.int64(2))  # type: ignore[arg-type]
    assert torch.allclose(found.alpha, torch.full((5, 1), 0.5))


def test_an_operator_of_other_samples() -> None:
    with pytest.raises(ValueError, match=r"`kernel` must fit b, \(50, 3\); got an operator of \(5, 3\)\. "):
        solve(operator(network(), inputs(5)), right(), 1.0)
