"""A kernel split into what is stiff, of low rank, and a rest: against the flow by the whole kernel, and dopri5."""

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from fedtangent import trees
from fedtangent.tangents.capture.factors import factors
from fedtangent.tangents.capture.kernel_operator import Factored, Trace, kernel_of_factors
from fedtangent.tangents.capture.verified_uses import uses
from fedtangent.tangents.numerics.dynamics import flow
from fedtangent.tangents.numerics.integrate import stabilised_products
from fedtangent.tangents.numerics.split import FEWER, INPUTS_RANK, RANK, LowRank, split
from fedtangent.training.losses import cross_entropy
from tests.tangents.networks import weights

N, C = FEWER * RANK + 21, 3
TIMES = [7.0, 40.0, 90.0]


class Counted(Trace):
    """A kernel that counts its products with all outputs; a split one multiplies single columns some times more."""

    taken: ClassVar[list[int]] = []

    def times(self, alpha: Tensor) -> Tensor:
        self.taken.extend([1] if alpha.shape[-1] == C else [])
        return super().times(alpha)


def problem(decay: float = 1.3) -> tuple[Tensor, Tensor, Tensor]:
    """A kernel whose eigenvalues fall like those of a network's, to a rest that is not small; outputs and labels."""
    generator = torch.Generator().manual_seed(3)
    q = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64, generator=generator)).Q
    values = 900 * torch.arange(1, N + 1).double() ** -decay
    f_0 = torch.randn(N, C, dtype=torch.float64, generator=generator)
    return (q * values) @ q.T, f_0, torch.randint(0, C, (N,), generator=generator)


class Dense:
    """A network of two layers on inputs whose products fall like those of images, and its kernel, written out too."""

    def __init__(self, rows: int = FEWER * INPUTS_RANK + 13) -> None:
        generator = torch.Generator().manual_seed(4)
        width = rows  # wide enough that products of inputs are the cheaper form
        scales = torch.arange(1, width + 1).double() ** -0.8
        self.x = torch.randn(rows, width, dtype=torch.float64, generator=generator) * scales + scales
        self.model = nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, C)).double()
        self.w = {
            name: 0.4 * torch.randn(part.shape, dtype=torch.float64, generator=generator)
            for name, part in weights(self.model).items()
        }
        found = uses(self.model, self.w, self.x)
        f_0, parts = factors(self.model, self.w, self.x, found)
        self.f_0, self.y = f_0, torch.randint(0, C, (rows,), generator=generator)
        self.kernel = kernel_of_factors("full", found, parts, self.w)
        assert isinstance(self.kernel, Factored) and list(self.kernel.grams) == ["0."]
        j = torch.func.vmap(torch.func.jacrev(self.outputs), (None, 0))(self.w, self.x)
        rows_of_j = torch.cat([part.flatten(2) for part in j.values()], 2).flatten(0, 1)
        self.matrix = rows_of_j @ rows_of_j.T

    def outputs(self, w: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(self.model, w, (x[None],))[0]  # type: ignore[no-any-return]

    def rate(self, _: Tensor, alpha: Tensor) -> Tensor:
        one_hot = torch.nn.functional.one_hot(self.y, C).double()
        moved = (self.matrix @ alpha.flatten()).reshape(alpha.shape)
        return ((self.f_0 - moved).softmax(1) - one_hot) / len(self.y)


def error(a: Tensor, b: Tensor) -> float:
    """The largest relative error at any time."""
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())


def test_a_split_is_the_kernel_less_a_small_rest() -> None:
    matrix, *_ = problem()
    real = torch.ones(1, N, dtype=torch.bool)
    alpha = torch.randn(1, N, C, dtype=torch.float64)
    near, largest = split(Trace(matrix[None]), alpha, real)
    assert isinstance(near, LowRank)
    rest = torch.linalg.eigvalsh(matrix - near.b[0] @ near.b[0].T)
    values = torch.linalg.eigvalsh(matrix).flip(0)
    assert near.b.shape == (1, N, RANK)
    assert rest[0] > -1e-9 * values[0]
    assert float(rest[-1]) == pytest.approx(float(largest), rel=0.05)
    assert float(rest[-1]) < 3 * float(values[RANK])
    assert torch.allclose(near.times(alpha), near.b @ (near.b.mT @ alpha))


def test_a_split_flow_agrees_with_dopri5_in_few_products() -> None:
    matrix, f_0, y = problem()
    real = torch.ones(N, dtype=torch.bool)
    one_hot = torch.nn.functional.one_hot(y, C).double()

    def rate(_: Tensor, alpha: Tensor) -> Tensor:
        return ((f_0 - matrix @ alpha).softmax(1) - one_hot) / N

    tight = odeint(rate, torch.zeros_like(f_0), torch.tensor([0.0, *TIMES]).double(), rtol=1e-10, atol=1e-12)[1:]
    Counted.taken.clear()
    found = flow(Counted(matrix), f_0, y, real, cross_entropy, TIMES)
    assert error(found, tight) < 2.5e-3
    by_bound = stabilised_products(900 / (2 * N), TIMES[-1])
    assert len(Counted.taken) < by_bound / 3


def test_a_full_kernel_is_split_in_the_products_of_its_inputs() -> None:
    dense = Dense()
    real = torch.ones(1, len(dense.y), dtype=torch.bool)
    kernel: Factored = trees.map(lambda part: part[None], dense.kernel)
    near, largest = split(kernel, dense.f_0[None], real)
    assert isinstance(near, Factored) and not near.grams
    assert {key: part.shape[-1] for key, part in near.inputs.items()} == {"0.": INPUTS_RANK, "2.": 7}
    eye = torch.eye(dense.f_0.numel(), dtype=torch.float64).reshape(-1, *dense.f_0.shape)
    written = torch.func.vmap(trees.map(lambda part: part[0], near).times)(eye).flatten(1)
    rest = torch.linalg.eigvalsh(dense.matrix - written)
    assert rest[0] > -1e-9 * float(dense.matrix.trace())
    assert float(rest[-1]) == pytest.approx(float(largest), rel=0.05)
    assert float(rest[-1]) < 0.02 * float(torch.linalg.eigvalsh(dense.matrix)[-1])


def test_a_split_flow_of_a_full_kernel_agrees_with_dopri5(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, real = Dense(), torch.ones(FEWER * INPUTS_RANK + 13, dtype=torch.bool)
    start = torch.zeros_like(dense.f_0)
    tight = odeint(dense.rate, start, torch.tensor([0.0, *TIMES]).double(), rtol=1e-9, atol=1e-11)[1:]
    near = []
    times = Factored.times
    monkeypatch.setattr(Factored, "times", lambda self, alpha: near.append(not self.grams) or times(self, alpha))
    assert error(flow(dense.kernel, dense.f_0, dense.y, real, cross_entropy, TIMES), tight) < 2.5e-3
    assert sum(near) > 2 * (len(near) - sum(near))


def test_padding_and_company_change_nothing_of_a_split_flow_of_a_full_kernel() -> None:
    dense = Dense()
    rows = len(dense.y)
    alone = flow(dense.kernel, dense.f_0, dense.y, torch.ones(rows, dtype=torch.bool), cross_entropy, TIMES)
    places = torch.cat([torch.arange(7), torch.arange(12, rows + 5)])  # five rows that are none, among the others
    x, f_0, y = torch.full((rows + 5, rows), 0.3), torch.full((rows + 5, C), 2.0), torch.zeros(rows + 5)
    x, f_0 = x.double().index_copy(0, places, dense.x), f_0.double().index_copy(0, places, dense.f_0)
    y = y.long().index_copy(0, places, dense.y)
    real = torch.zeros(rows + 5, dtype=torch.bool).index_fill(0, places, True)
    few = real & (torch.arange(rows + 5) < 40)  # too few to be split

    found = uses(dense.model, dense.w, x)

    def solve(x: Tensor, real: Tensor) -> Tensor:
        kernel = kernel_of_factors("full", found, factors(dense.model, dense.w, x, found)[1], dense.w)
        return flow(kernel, f_0, y, real, cross_entropy, TIMES)

    mapped = torch.func.vmap(solve)(torch.stack([x, x * math.nan, x]), torch.stack([real, real, few]))
    assert torch.allclose(mapped[0][:, places], alone, rtol=1e-8, atol=1e-12)
    assert bool((mapped[0][:, ~real] == 0).all()) and bool(mapped[1].isnan().any())
    assert torch.allclose(mapped[2], solve(x, few), rtol=1e-8, atol=1e-12)


def test_a_rest_that_is_stiff_is_not_split_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all eigenvalues are alike: the flow is by the whole kernel, as where none is split."""
    matrix, f_0, y = problem(0.1)
    real = torch.ones(N, dtype=torch.bool)
    found = flow(Trace(matrix), f_0, y, real, cross_entropy, TIMES)
    fine = flow(Trace(problem()[0]), f_0, y, real, cross_entropy, TIMES)
    monkeypatch.setattr("fedtangent.tangents.numerics.split.FEWER", N)
    assert torch.equal(found, flow(Trace(matrix), f_0, y, real, cross_entropy, TIMES))
    assert not torch.equal(fine, flow(Trace(problem()[0]), f_0, y, real, cross_entropy, TIMES))


def test_padding_and_company_change_nothing_of_a_split_flow() -> None:
    matrix, f_0, y = problem()
    real = torch.ones(N, dtype=torch.bool)
    alone = flow(Trace(matrix), f_0, y, real, cross_entropy, TIMES)
    places = torch.cat([torch.arange(7), torch.arange(12, N + 5)])  # five rows that are none, among the others
    whole, f, labels = (
        torch.full((N + 5, N + 5), 0.3).double(),
        torch.full((N + 5, C), 2.0).double(),
        torch.zeros(N + 5),
    )
    whole[places[:, None], places] = matrix
    f[places], labels[places] = f_0, y.to(labels)
    mask = torch.zeros(N + 5, dtype=torch.bool)
    mask[places] = True
    kernels = torch.stack([whole, whole * math.nan, whole])

    def solve(matrix: Tensor, mask: Tensor) -> Tensor:
        return flow(Trace(matrix), f, labels.long(), mask, cross_entropy, TIMES)

    few = mask & (torch.arange(N + 5) < 40)  # too few to be split
    mapped = torch.func.vmap(solve)(kernels, torch.stack([mask, mask, few]))
    assert torch.allclose(mapped[0][:, places], alone, rtol=1e-8, atol=1e-12)
    assert bool((mapped[0][:, ~mask] == 0).all()) and bool(mapped[1].isnan().all())
    assert torch.allclose(mapped[2], solve(whole, few), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kernel_of_lower_rank_than_its_part(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are repeated: what is left of the kernel is rounding."""
    matrix, f_0, y = problem()
    some = torch.arange(N) % 17
    matrix, f_0, real = matrix[some[:, None], some].to(dtype), f_0.to(dtype), torch.ones(N, dtype=torch.bool)
    near = split(Trace(matrix[None]), f_0[None], real[None]).near
    assert isinstance(near, LowRank)
    assert float((matrix - near.b[0] @ near.b[0].T).norm()) < 1e3 * torch.finfo(dtype).eps * float(matrix.norm())
    found = flow(Trace(matrix), f_0, y, real, cross_entropy, TIMES)
    monkeypatch.setattr("fedtangent.tangents.numerics.split.FEWER", N)
    assert error(found, flow(Trace(matrix), f_0, y, real, cross_entropy, TIMES)) < 1e-3
