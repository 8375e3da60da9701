"""Flow and descent against literal steps on the linearised network and torchdiffeq's dopri5 at tight tolerance."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from fedtangent.tangents.capture.factors import factors
from fedtangent.tangents.capture.kernel_operator import Factored, Trace, kernel_of_factors, pullback
from fedtangent.tangents.capture.verified_uses import uses
from fedtangent.tangents.numerics.dynamics import descent, flow, stable_step
from fedtangent.tangents.numerics.integrate import stabilised_products
from fedtangent.tangents.spectrum import largest_eigenvalue
from fedtangent.training import losses
from tests.often import often
from tests.tangents.networks import flat, inputs, jacobian, weights

N, C = 11, 3
TIMES = [0.7, 1.0, 2.5, 40.0]


class Problem:
    """A network, its data and its kernels, in general position."""

    def __init__(self, kind: str = "full", loss: losses.Loss = losses.cross_entropy) -> None:
        torch.manual_seed(5)
        self.model = nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, C)).double()
        self.w, self.x, self.loss = weights(self.model), inputs(N), loss
        self.y = torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(1))
        self.real = torch.ones(N, dtype=torch.bool)
        self.uses = uses(self.model, self.w, self.x)
        self.f_0, self.factors = factors(self.model, self.w, self.x, self.uses)
        self.kernel = kernel_of_factors(kind, self.uses, self.factors, self.w)  # type: ignore[arg-type]
        self.j = jacobian(self.model, self.x)
        self.k = torch.einsum("ncp,mdp->ncmd", self.j, self.j)

    def flow(self, s: list[float] = TIMES, growth: float = 1.3) -> Tensor:
        return flow(self.kernel, self.f_0, self.y, self.real, self.loss, s, growth)

    def explicit(self, alpha: Tensor) -> Tensor:
        """K alpha by the definition."""
        if isinstance(self.kernel, Factored):
            return (self.k.reshape(N * C, N * C) @ alpha.flatten()).reshape(N, C)
        return self.k.diagonal(dim1=1, dim2=3).mean(2) @ alpha

    def tight(self, s: list[float] = TIMES) -> Tensor:
        def rate(_: Tensor, alpha: Tensor) -> Tensor:
            return self.loss.residual(self.f_0 - self.explicit(alpha), self.y) / N

        return odeint(
            rate, torch.zeros_like(self.f_0), torch.tensor([0.0, *s], dtype=torch.float64), rtol=1e-11, atol=1e-13
        )[1:]


def error(a: Tensor, b: Tensor) -> float:
    """The largest relative error at any time."""
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("kind", ["full", "trace"])
def test_cross_entropy_flow_agrees_with_dopri5_as_stated(kind: str) -> None:
    problem = Problem(kind)
    assert error(problem.flow(), problem.tight()) < 2.5e-3


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ["full", "trace"])
@pytest.mark.parametrize("sure", [3.0, 40.0])
def test_a_flow_that_begins_sure_and_wrong_takes_the_bound_of_its_stiffness(kind: str, sure: float) -> None:
    """At the start no softmax is curved, later all are: the stiffness grows many times."""
    problem = Problem(kind)
    problem.f_0 = sure * nn.functional.one_hot((problem.y + 1) % C, C).double() + 0.1 * problem.f_0
    s = [20.0, 200.0, 900.0]
    assert error(problem.flow(s, growth=1.1), problem.tight(s)) < 2.5e-3


def test_a_flow_takes_fewer_products_than_the_bound_of_its_stiffness_asks_for() -> None:
    problem, taken = Problem("trace"), []

    class Counted(Trace):
        def times(self, alpha: Tensor) -> Tensor:
            taken.append(1)
            return super().times(alpha)

    problem.f_0 = 4 * nn.functional.one_hot(problem.y, C).double() + problem.f_0  # a trained model's
    problem.kernel = Counted(problem.kernel.matrix)  # type: ignore[union-attr, call-arg]
    bound = float(largest_eigenvalue(problem.kernel.times, problem.f_0, problem.real)) / (2 * N)
    taken.clear()
    problem.flow([100.0, 3000.0])
    assert len(taken) < 0.8 * stabilised_products(bound, 3000.0)


def test_cross_entropy_flow_converges_with_order_two() -> None:
    problem = Problem()
    errors = [error(problem.flow(growth=growth), problem.tight()) for growth in (1.2, 1.02)]
    assert errors[1] < errors[0] / 30  # the steps are ten times shorter
    assert errors[1] < 3e-5


@pytest.mark.parametrize("kind", ["full", "trace"])
def test_squared_flow_is_exact(kind: str) -> None:
    problem = Problem(kind, losses.squared)
    assert error(problem.flow(), problem.tight()) < 1e-9


def test_squared_flow_equals_the_matrix_exponential() -> None:
    problem = Problem("trace", losses.squared)
    assert isinstance(problem.kernel, Trace)
    values, vectors = torch.linalg.eigh(problem.kernel.matrix)
    start = problem.f_0 - torch.eye(C).double()[problem.y]
    for s, alpha in zip(TIMES, problem.flow(), strict=True):
        gain = -torch.expm1(-values * s / (N * C)) / values
        assert error(alpha[None], (vectors * gain @ vectors.T @ start)[None]) < 1e-9


@pytest.mark.parametrize("kind", often(["full", "trace"], ["trace"]))
def test_a_weighted_squared_flow_is_exact_and_one_of_that_name_alone_is_solved(kind: str) -> None:
    weighted = losses.weighted(losses.squared, [0.3, 2.0, 1.1, 4.0][:C])
    assert error((one := Problem(kind, weighted)).flow(), one.tight()) < 1e-9
    named = losses.custom(partial(nn.functional.huber_loss, delta=0.1), "squared", curvature=1 / C)
    targets = Problem(kind, named)
    targets.y = nn.functional.one_hot(targets.y, C).double() / 3
    tight = targets.tight()
    assert error(targets.flow(growth=1.1), tight) < 2.5e-3
    targets.loss = named._replace(quadratic=True)
    assert error(targets.flow(growth=1.1), tight) > 0.01


def test_squared_flow_takes_a_singular_kernel() -> None:
    """Two samples are one and the same: an eigenvalue is zero, and alpha grows without end along it."""
    kernel, f_0 = Trace(torch.ones(2, 2).double()), torch.tensor([[0.3], [-0.9]]).double()
    y, real = torch.tensor([[1.0], [2.0]]).double(), torch.ones(2, dtype=torch.bool)
    alpha = flow(kernel, f_0, y, real, losses.squared, [5.0])[0, :, 0]
    r = (f_0 - y)[:, 0]
    by_hand = (1 - math.exp(-5)) / 2 * r.mean() + 5 / 2 * (r - r.mean())  # eigenvalues 2 and 0, 1 / (N C) = 1 / 2
    assert torch.allclose(alpha, by_hand, rtol=1e-10)


def test_descent_is_gradient_descent_on_the_linearised_network() -> None:
    problem = Problem()
    alpha = descent(problem.kernel, problem.f_0, problem.y, problem.real, problem.loss, 0.05, [1, 30])
    move = torch.zeros(problem.j.shape[2]).double()
    for step in range(1, 31):
        move.requires_grad_()
        f = problem.f_0 + torch.einsum("ncp,p->nc", problem.j, move)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(f, problem.y), move)
        move = (move - 0.05 * gradient).detach()
        if step in (1, 30):
            row = [1, 30].index(step)
            assert torch.allclose(
                -flat(pullback(problem.uses, problem.factors, problem.w, alpha))[row], move, rtol=1e-10
            )


def test_one_descent_step_is_one_full_batch_gradient_step() -> None:
    problem = Problem("trace")  # the first step does not see the kernel
    alpha = descent(problem.kernel, problem.f_0, problem.y, problem.real, problem.loss, 0.2, [1])
    problem.model.zero_grad()
    nn.functional.cross_entropy(problem.model(problem.x), problem.y).backward()
    gradient = torch.cat([p.grad.flatten() for p in problem.model.parameters() if p.grad is not None])
    assert torch.allclose(
        flat(pullback(problem.uses, problem.factors, problem.w, alpha))[0], 0.2 * gradient, rtol=1e-10
    )


def test_descent_with_short_steps_is_the_flow() -> None:
    problem = Problem("trace")
    steps = descent(problem.kernel, problem.f_0, problem.y, problem.real, problem.loss, 1e-3, [700, 1000, 2500])
    assert error(steps, problem.tight()[:3]) < 2e-3


def test_the_papers_left_sum_over_unit_times_differs_little_from_the_integral() -> None:
    """NTK-FL and NTK-DFL sum the residuals at t = 0, 1, ... of the flow, of lr 0.01, instead of integrating them."""
    problem, lr = Problem("trace"), 0.01
    path = problem.tight([lr * t for t in range(1, 100)])
    path = torch.cat([torch.zeros_like(path[:1]), path])
    residuals = [problem.loss.residual(problem.f_0 - problem.explicit(alpha), problem.y) for alpha in path]
    left_sum = lr / N * torch.stack(residuals).sum(0)
    assert 1e-4 < error(left_sum[None], problem.tight([1.0])) < 0.05


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.squared])
def test_stable_step_is_where_descent_starts_to_grow(loss: losses.Loss) -> None:
    problem = Problem("full", loss)
    step = float(stable_step(problem.kernel, problem.f_0, problem.real, loss))
    by_hand = 2 * N / (loss.curvature(C) * torch.linalg.eigvalsh(_matrix(problem.j))[-1])  # type: ignore[misc]
    assert 0.98 * float(by_hand) < step <= float(by_hand) * 1.001
    if loss is losses.squared:
        for factor, grows in ((0.97, False), (1.1, True)):
            alpha = descent(problem.kernel, problem.f_0, problem.y, problem.real, loss, factor * step, [500, 1000])
            assert bool(alpha[1].norm() > 10 * alpha[0].norm()) is grows


def _matrix(j: Tensor) -> Tensor:
    flat_rows = j.flatten(0, 1)
    return flat_rows @ flat_rows.T


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.squared])
@pytest.mark.parametrize("kind", ["full", "trace"])
def test_padding_changes_nothing(kind: str, loss: losses.Loss) -> None:
    problem = Problem(kind, loss)
    x = torch.cat([problem.x, torch.full((4, 7), 3.0).double()])
    y, real = torch.cat([problem.y, torch.zeros(4, dtype=torch.long)]), torch.arange(N + 4) < N
    f_0, its = factors(problem.model, problem.w, x, problem.uses)
    kernel = kernel_of_factors(kind, problem.uses, its, problem.w)  # type: ignore[arg-type]
    alpha = flow(kernel, f_0, y, real, loss, TIMES)
    assert torch.allclose(alpha[:, :N], problem.flow(), rtol=1e-9)
    assert bool((alpha[:, N:] == 0).all())
    by_steps = descent(kernel, f_0, y, real, loss, 0.1, [9])
    alone = descent(problem.kernel, problem.f_0, problem.y, problem.real, loss, 0.1, [9])
    assert torch.allclose(by_steps[:, :N], alone, rtol=1e-9) and bool((by_steps[:, N:] == 0).all())


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.squared])
def test_under_vmap_every_problem_follows_its_own_plan(loss: losses.Loss) -> None:
    problem = Problem("trace", loss)
    scales = torch.tensor([1.0, 1.01, 50.0]).double()

    def solve(scale: Tensor) -> Tensor:
        return flow(Trace(problem.kernel[0] * scale), problem.f_0, problem.y, problem.real, loss, TIMES)

    mapped = torch.func.vmap(solve)(scales)
    for alpha, scale in zip(mapped, scales, strict=True):
        assert torch.allclose(alpha, solve(scale), rtol=1e-9)


def test_a_network_that_has_diverged_gives_nan_and_harms_no_other() -> None:
    problem = Problem("trace")

    def solve(f_0: Tensor, scale: Tensor) -> Tensor:
        return flow(Trace(problem.kernel[0] * scale), f_0, problem.y, problem.real, problem.loss, TIMES)

    bad = torch.stack([problem.f_0, problem.f_0])
    mapped = torch.func.vmap(solve)(bad, torch.tensor([1.0, math.inf]).double())
    assert torch.allclose(mapped[0], problem.flow()) and bool(mapped[1].isnan().all())


def test_a_users_loss_needs_its_curvature_for_a_flow() -> None:
    def huber(f: Tensor, y: Tensor) -> Tensor:
        return nn.functional.huber_loss(f, y)

    problem = Problem("full", losses.custom(huber))
    problem.y = torch.randn(N, C, dtype=torch.float64)
    with pytest.raises(ValueError, match="`loss` must state its curvature for a flow; got none for 'huber'"):
        problem.flow()
    with pytest.raises(ValueError, match="`loss` must state its curvature; got none for 'huber'"):
        stable_step(problem.kernel, problem.f_0, problem.real, problem.loss)
    problem.loss = losses.custom(huber, curvature=1 / C)
    assert error(problem.flow(growth=1.05), problem.tight()) < 2.5e-3  # its kinks cost an order


@pytest.mark.parametrize("s", [[1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [-1.0]])
def test_times_increase(s: list[float]) -> None:
    with pytest.raises(ValueError, match="`s` must be positive and increasing"):
        Problem().flow(s)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_largest_eigenvalue_of_few_real_rows_among_many(rank: int) -> None:
    """After as many products as the kernel has ranks only rounding is left, of which no direction is made."""
    real = torch.arange(60) < 2
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(4, rank, generator=generator) * torch.logspace(0, -seed % 7, rank)
        whole = nn.functional.pad(a @ a.T, (0, 116, 0, 116))
        found = largest_eigenvalue(lambda v, k=whole: (k @ v.flatten()).view(60, 2), torch.zeros(60, 2), real)
        assert float(found) == pytest.approx(float(torch.linalg.norm(a.double(), 2) ** 2), rel=1e-3)


def test_largest_eigenvalue_is_bounded_from_above_and_closely() -> None:
    for seed in range(20):
        a = torch.randn(40, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        top = float(torch.linalg.eigvalsh(a @ a.T)[-1])
        bound = largest_eigenvalue(Trace(a @ a.T).times, torch.ones(40, 2).double(), torch.ones(40, dtype=torch.bool))
        assert top * (1 - 1e-3) <= float(bound) <= 1.2 * top
    zero = largest_eigenvalue(torch.zeros_like, torch.ones(1, 1).double(), torch.ones(1, dtype=torch.bool))
    assert float(zero) < 1e-20
