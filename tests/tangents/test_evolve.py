"""Evolutions against literal steps of the linearised network and tight adaptive solvers."""

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from fedtangent.tangents import jacobian
from fedtangent.tangents.evolve import Evolution, evolve
from fedtangent.training import losses
from tests.often import often
from tests.tangents.networks import INPUTS, OUTPUTS, SAMPLES, flat, inputs, weights

N, C, TESTS = SAMPLES, OUTPUTS, 4


# torch scripts its forward derivatives, and warns of its own doing
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is")


def huber(f: Tensor, y: Tensor) -> Tensor:
    return nn.functional.huber_loss(f, y)


# what losses.custom(huber) is, some ten times faster
HUBER = losses.Loss("huber", huber, lambda f, y: (f - y).clamp(-1, 1) / C, lambda outputs: 1 / outputs)
LOSSES = pytest.mark.parametrize("loss", [losses.squared, losses.cross_entropy, HUBER], ids=lambda loss: loss.name)


class Rows:
    """A network on training and test points, linearised by torch.func.jvp along every weight."""

    def __init__(self) -> None:
        torch.manual_seed(4)
        self.model = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, C)).double()
        self.w, self.x, self.x_test = weights(self.model), inputs(N), inputs(TESTS, 1)
        generator = torch.Generator().manual_seed(2)
        self.labels = torch.randint(0, C, (N,), generator=generator)
        self.targets = 1.3 * torch.randn(N, C, dtype=torch.float64, generator=generator)
        (self.f_0, self.j), (self.f_0_test, self.j_test) = self.linearised(self.x), self.linearised(self.x_test)
        self.full = torch.einsum("ncp,mdp->nmcd", self.j, self.j)
        self.trace = torch.einsum("ncp,mcp->nm", self.j, self.j) / C

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def f(w: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.model, w, (x,))  # type: ignore[no-any-return]

        def along(v: Tensor) -> Tensor:
            return torch.func.jvp(f, (self.w,), (self.tree(v),))[1]

        size = sum(part.numel() for part in self.w.values())
        return f(self.w).detach(), torch.func.vmap(along)(torch.eye(size).double()).movedim(0, -1).detach()

    def tree(self, v: Tensor) -> dict[str, Tensor]:
        parts = v.split([part.numel() for part in self.w.values()])
        return {name: part.reshape(w.shape) for (name, w), part in zip(self.w.items(), parts, strict=True)}

    def y(self, loss: losses.Loss) -> Tensor:
        return self.labels if loss is losses.cross_entropy else self.targets

    def trained(self, loss: losses.Loss, lr: float, momentum: float, steps: int) -> Tensor:
        """w - w_0 after literal heavy-ball steps on the linearised network's mean loss."""
        j, y = self.j.flatten(0, 1).numpy(), self.y(loss).numpy()
        move, v = np.zeros(j.shape[1]), np.zeros(j.shape[1])
        for _ in range(steps):
            v = momentum * v + j.T @ slope(loss, self.f_0.numpy() + (j @ move).reshape(N, C), y).ravel()
            move = move - lr * v
        return torch.from_numpy(move)


def slope(loss: losses.Loss, f: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dL/df of the mean over samples, by the definition."""
    if loss is losses.squared:
        return (f - y) / f.size
    if loss is HUBER:
        return np.clip(f - y, -1, 1) / f.size
    p = np.exp(f - f.max(1, keepdims=True))
    return (p / p.sum(1, keepdims=True) - np.eye(f.shape[1])[y]) / len(f)


def tight(kernel: np.ndarray, f_0: np.ndarray, y: np.ndarray, loss: losses.Loss, s: list[float], method: str) -> Tensor:
    """alpha (T, n, C) by an adaptive solver at rtol 1e-12, for a kernel (n C, n C)."""

    def rate(_: float, alpha: np.ndarray) -> np.ndarray:
        return slope(loss, f_0 - (kernel @ alpha).reshape(f_0.shape), y).ravel()

    found = solve_ivp(rate, (0, s[-1]), np.zeros(f_0.size), method, s, rtol=1e-12, atol=1e-15)
    return torch.from_numpy(found.y.T.copy()).reshape(len(s), *f_0.shape)


def matrix(full: Tensor) -> Tensor:
    """(n, n, C, C) as (n C, n C)."""
    return full.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


class Counted:
    """An operator from a matrix (n C, n C) that counts its products."""

    def __init__(self, kernel: Tensor) -> None:
        self.kernel, self.products = kernel, 0

    def times(self, alpha: Tensor) -> Tensor:
        self.products += 1
        return (self.kernel @ alpha.reshape(-1)).reshape(alpha.shape)


def error(a: Tensor, b: Tensor) -> float:
    """The largest relative error at any time."""
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators stay operators, however small."""
    monkeypatch.setattr("fedtangent.tangents.numerics.symmetric._WRITTEN_OUT", 0)


ONE = torch.tensor([[2.0]]), torch.tensor([[0.5]]), torch.tensor([[1.5]])


def test_one_sample_and_one_output_by_hand() -> None:
    """K = 2, f_0 - y = -1, n = C = 1: the rate is 2."""
    flow = evolve(*ONE, [0, 0.25, math.inf], lr=2.0)
    assert flow.t == (0.0, 0.25, math.inf) and flow.stable_step == 1.0
    assert flow.f.flatten().tolist() == pytest.approx([0.5, 1.5 - math.exp(-1), 1.5])
    assert flow.alpha.flatten().tolist() == pytest.approx([0, -(1 - math.exp(-1)) / 2, -0.5])
    # residuals -1, -1 + 2 * 0.1, ...; v = -1, -0.5 - 0.8, ...
    steps = evolve(*ONE, [1, 2, 3], clock="descent", lr=0.1, momentum=0.5)
    assert steps.alpha.flatten().tolist() == pytest.approx([-0.1, -0.23, -0.349])
    assert steps.f.flatten().tolist() == pytest.approx([0.7, 0.96, 1.198])
    assert steps.stable_step == 1.5


@pytest.mark.few(1)
@pytest.mark.parametrize("momentum", often([0.0, 0.9], [0.9]))
@LOSSES
def test_descent_is_ten_thousand_steps_of_the_linearised_network(
    loss: losses.Loss, momentum: float, free: None
) -> None:
    rows, lr = Rows(), 0.21
    move = rows.trained(loss, lr, momentum, 10_000)
    f = rows.f_0 + rows.j @ move
    for kernel in (rows.full, Counted(matrix(rows.full))):
        found = evolve(
            kernel, rows.f_0, rows.y(loss), [3, 10_000], loss=loss, clock="descent", lr=lr, momentum=momentum
        )
        assert error(found.f[1:], f[None]) < 1e-9
        assert error(torch.einsum("ncp,tnc->tp", rows.j, -found.alpha[1:]), move[None]) < 1e-9


def test_descent_is_autograd_on_the_jvp() -> None:
    rows, lr = Rows(), 0.4
    move = torch.zeros(rows.j.shape[2]).double()
    for _ in range(20):
        move.requires_grad_()
        f = torch.func.jvp(
            lambda w: torch.func.functional_call(rows.model, w, (rows.x,)), (rows.w,), (rows.tree(move),)
        )[1]
        (gradient,) = torch.autograd.grad(nn.functional.mse_loss(rows.f_0 + f, rows.targets) / 2, move)
        move = (move - lr * gradient).detach()
    found = evolve(jacobian(rows.model, rows.x), rows.f_0, rows.targets, 20, clock="descent", lr=lr)
    assert error(flat(found.weights(jacobian(rows.model, rows.x))), (flat_one(rows.w) + move)[None]) < 1e-12


def flat_one(w: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in w.values()])


@pytest.mark.few(1)
@LOSSES
def test_flow_agrees_with_a_tight_solver(loss: losses.Loss, free: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, times = Rows(), [0.3, 2.0, 35.0]
    s = [0.7 * time for time in times]
    exact = tight(matrix(rows.full).numpy(), rows.f_0.numpy(), rows.y(loss).numpy(), loss, s, "DOP853")
    operator = Counted(matrix(rows.full))
    for kernel, tolerance in ((rows.full, 1e-8), (operator, 1e-8), (operator, 1e-7)):
        if tolerance == 1e-7:  # as if it were too large to write out
            assert operator.products < 150
            monkeypatch.setattr(import_module("fedtangent.tangents.evolve"), "_FACTORISED", 0)
        found = evolve(kernel, rows.f_0, rows.y(loss), times, loss=loss, lr=0.7, tolerance=tolerance)
        assert error(found.alpha, exact) < tolerance
        assert error(found.f, rows.f_0 - (exact.flatten(1) @ matrix(rows.full)).reshape(found.f.shape)) < tolerance


def stiff() -> tuple[Tensor, Tensor, Tensor, Tensor, list[float]]:
    """K (n C, n C) of condition 1e7 and lambda_max = n, f_0, labels, targets, and times up to 1e5."""
    n, generator = 4, torch.Generator().manual_seed(7)
    q = torch.linalg.qr(torch.randn(n * C, n * C, dtype=torch.float64, generator=generator))[0]
    kernel = n * (q * torch.logspace(0, -7, n * C, dtype=torch.float64)) @ q.T
    f_0, targets = torch.randn(2, n, C, dtype=torch.float64, generator=generator)
    return (kernel + kernel.T) / 2, f_0, torch.tensor([2, 0, 1, 1]), 2 * targets, [0.5, 40.0, 3e3, 1e5]


@pytest.mark.few(1)
@LOSSES
def test_a_stiff_flow_is_as_exact_and_takes_few_products(loss: losses.Loss, free: None) -> None:
    """An explicit solver needs some 2e5 products or more."""
    kernel, f_0, labels, targets, s = stiff()
    y = labels if loss is losses.cross_entropy else targets
    exact = tight(kernel.numpy(), f_0.numpy(), y.numpy(), loss, s, "Radau")
    full = kernel.reshape(4, C, 4, C).transpose(1, 2)
    assert error(evolve(full, f_0, y, s, loss=loss).alpha, exact) < 1e-7
    for tolerance, products in ((1e-3, 6_000), (1e-5, 30_000)):
        operator = Counted(kernel)
        assert error(evolve(operator, f_0, y, s, loss=loss, tolerance=tolerance).alpha, exact) < tolerance
        assert operator.products < products


def duplicated() -> tuple[Tensor, Tensor, Tensor]:
    """A kernel (n C, n C) two of whose samples are one point, with outputs and targets that differ."""
    rows = Rows()
    j = rows.j[[0, 1, 2, 1, 3]].flatten(0, 1)
    return j @ j.T, rows.f_0, rows.targets


def test_a_zero_eigenvalue_does_no_harm(free: None) -> None:
    kernel, f_0, y = duplicated()
    full = kernel.reshape(N, C, N, C).transpose(1, 2)
    values, vectors = torch.linalg.eigh(kernel)
    assert int((values < 1e-12).sum()) == C
    r, t = vectors.T @ (f_0 - y).flatten(), 800.0
    kept = values > 1e-12
    gain = torch.where(kept, -torch.expm1(-values * t / (N * C)) / values, t / (N * C))
    ends = torch.stack([vectors @ (gain * r), vectors[:, kept] @ (r / values)[kept]])
    exact = ends.reshape(2, N, C)
    dense = evolve(full, f_0, y, [t, math.inf])
    assert error(dense.alpha, exact) < 1e-10
    assert error(dense.f, f_0 - (kernel @ ends.T).T.reshape(2, N, C)) < 1e-10
    by_products = evolve(Counted(kernel), f_0, y, [t, math.inf])
    assert error(by_products.alpha, exact) < 1e-8 and error(by_products.f, dense.f) < 1e-8
    for momentum in (0.0, 0.8):
        steps = evolve(full, f_0, y, [1, 10**6, 10**9], clock="descent", momentum=momentum)
        assert bool(torch.isfinite(steps.alpha).all())
        assert error(steps.f[2:], dense.f[1:]) < 1e-8


def test_the_largest_stable_step_is_where_descent_starts_to_grow() -> None:
    rows = Rows()
    for momentum in (0.0, 0.6):
        stable = evolve(rows.full, rows.f_0, rows.targets, 1, clock="descent", momentum=momentum).stable_step
        by_hand = 2 * (1 + momentum) * N * C / torch.linalg.eigvalsh(matrix(rows.full))[-1]
        assert stable == pytest.approx(float(by_hand), rel=1e-10)
        for factor, grows in ((0.999, False), (1.02, True)):
            ends = [rows.trained(losses.squared, factor * stable, momentum, steps).norm() for steps in (1000, 2000)]
            assert bool(ends[1] > 10 * ends[0]) is grows
        with pytest.raises(ValueError, match=r"`lr` must not be above the largest stable step, \d.*; got \d.*Lower it"):
            evolve(rows.full, rows.f_0, rows.targets, 1, clock="descent", lr=1.001 * stable, momentum=momentum)
        assert evolve(rows.full, rows.f_0, rows.targets, 1, lr=9 * stable).t == (1.0,)  # a flow has no such bound
    bound = evolve(rows.full, rows.f_0, rows.labels, 1, loss=losses.cross_entropy, clock="descent").stable_step
    assert bound == pytest.approx(2 * N / (0.5 * float(torch.linalg.eigvalsh(matrix(rows.full))[-1])), rel=1e-6)


@pytest.mark.parametrize(("clock", "momentum"), [("flow", 0.0), ("descent", 0.7)])
@LOSSES
def test_weights_and_predictions_are_the_linearised_networks(loss: losses.Loss, clock: Any, momentum: float) -> None:
    rows = Rows()
    train, test = jacobian(rows.model, rows.x), jacobian(rows.model, rows.x_test)
    found = evolve(rows.full, rows.f_0, rows.y(loss), [0, 2, 30], loss=loss, clock=clock, lr=0.3, momentum=momentum)
    w = found.weights(train)
    moves = flat(w) - flat_one(rows.w)
    assert {name: part.shape for name, part in w.items()} == {name: (3, *w.shape) for name, w in rows.w.items()}
    assert error(found.f, rows.f_0 + torch.einsum("ncp,tp->tnc", rows.j, moves)) < 1e-12
    cross = torch.einsum("mcp,ndp->mncd", rows.j_test, rows.j)
    on_test = rows.f_0_test + torch.einsum("ncp,tp->tnc", rows.j_test, moves)
    assert error(found.predict(cross, rows.f_0_test), on_test) < 1e-12
    assert error(found.outputs(train, test), on_test) < 1e-12
    if clock == "descent":
        literal = torch.stack([rows.trained(loss, 0.3, momentum, steps) for steps in (2, 30)])
        assert error(moves[1:], literal) < 1e-10
        assert error(on_test[1:], rows.f_0_test + torch.einsum("ncp,tp->tnc", rows.j_test, literal)) < 1e-10


@pytest.mark.parametrize("clock", ["flow", "descent"])
@LOSSES
def test_the_trace_kernel_is_one_kernel_for_every_output(loss: losses.Loss, clock: Any) -> None:
    rows, t = Rows(), [0, 3, 40]

    def run(kernel: Tensor) -> Evolution:
        return evolve(kernel, rows.f_0, rows.y(loss), t, loss=loss, clock=clock, lr=0.3)

    each = rows.trace[..., None, None] * torch.eye(C).double()
    trace, full = run(rows.trace), run(each)
    diagonal = run(rows.trace[..., None].expand(N, N, C))
    for found in (full, diagonal):
        assert error(found.alpha[1:], trace.alpha[1:]) < 1e-8 and error(found.f, trace.f) < 1e-8
        assert found.stable_step == pytest.approx(trace.stable_step, rel=1e-6)
    cross = torch.einsum("mcp,ncp->mn", rows.j_test, rows.j) / C
    on_test = trace.predict(cross, rows.f_0_test)
    assert on_test.shape == (3, TESTS, C)
    assert error(full.predict(cross[..., None, None] * torch.eye(C).double(), rows.f_0_test), on_test) < 1e-8
    assert error(diagonal.predict(cross[..., None].expand(-1, -1, C), rows.f_0_test), on_test) < 1e-8


def test_with_the_trace_kernel_f_is_not_the_linearised_output() -> None:
    rows = Rows()
    found = evolve(rows.trace, rows.f_0, rows.targets, 30)
    assert error(found.outputs(jacobian(rows.model, rows.x), jacobian(rows.model, rows.x)), found.f) > 0.05


def test_a_diagonal_kernel_evolves_every_output_alone() -> None:
    rows = Rows()
    kernel = torch.einsum("ncp,mcp->nmc", rows.j, rows.j)
    found = evolve(kernel, rows.f_0, rows.targets, [4, 50])
    for c in range(C):
        alone = evolve(kernel[..., c], rows.f_0[:, [c]], rows.targets[:, [c]], [4 / C, 50 / C])
        assert error(alone.f, found.f[..., [c]]) < 1e-12


def test_a_small_operator_is_written_out_and_a_larger_one_is_not() -> None:
    rows = Rows()
    operator = jacobian(rows.model, rows.x)
    assert error(evolve(operator, rows.f_0, rows.targets, 9).f, evolve(rows.full, rows.f_0, rows.targets, 9).f) < 1e-12
    x = inputs(50, 5)
    larger, y = jacobian(rows.model, x), torch.sin(torch.arange(50.0 * C)).reshape(50, C).double()
    f_0, j = rows.linearised(x)
    full = torch.einsum("ncp,mdp->nmcd", j, j)
    for clock, t in (("flow", [6.5, 90.0]), ("descent", [7, 90])):
        by_products, dense = (evolve(kernel, f_0, y, t, clock=clock, lr=0.4) for kernel in (larger, full))
        assert error(by_products.alpha, dense.alpha) < 1e-10 and error(by_products.f, dense.f) < 1e-10
        assert by_products.stable_step == pytest.approx(dense.stable_step, rel=1e-3)


def test_single_precision_stays_single(free: None) -> None:
    rows = Rows()
    dense = evolve(rows.full, rows.f_0, rows.labels, [3, 40], loss=losses.cross_entropy)
    for kernel in (rows.full.float(), Counted(matrix(rows.full).float())):
        found = evolve(kernel, rows.f_0.float(), rows.labels, [3, 40], loss=losses.cross_entropy)
        assert found.alpha.dtype == found.f.dtype == torch.float32
        assert error(found.alpha.double(), dense.alpha) < 1e-4
    squared = evolve(Counted(matrix(rows.full).float()), rows.f_0.float(), rows.targets, [3, math.inf])
    assert error(squared.f.double(), evolve(rows.full, rows.f_0, rows.targets, [3, math.inf]).f) < 1e-3


def test_times_come_as_numbers_lists_and_tensors() -> None:
    rows = Rows()
    for t in (7, 7.0, [7], torch.tensor([7]), np.array(7)):
        found = evolve(rows.full, rows.f_0, rows.targets, t, clock="descent")  # type: ignore[arg-type]
        assert found.t == (7.0,) and found.alpha.shape == (1, N, C)
    start = evolve(rows.full, rows.f_0, rows.targets, 0)
    assert start.f.equal(rows.f_0[None]) and not start.alpha.any()


def test_perfect_outputs_stay() -> None:
    rows = Rows()
    for loss in (losses.squared, HUBER):
        found = evolve(rows.full, rows.f_0, rows.f_0, [0.5, 4], loss=loss)
        assert not found.alpha.any() and found.f.equal(rows.f_0.expand(2, N, C))


def test_a_loss_without_curvature_descends_unchecked_and_may_not_flow() -> None:
    rows, loss = Rows(), losses.custom(huber)
    found = evolve(rows.full, rows.f_0, rows.targets, 3, loss=loss, clock="descent", lr=0.2)
    assert math.isnan(found.stable_step)
    assert error(found.f, evolve(rows.full, rows.f_0, rows.targets, 3, loss=HUBER, clock="descent", lr=0.2).f) < 1e-12
    with pytest.raises(ValueError, match="`loss` must state its curvature for a flow; got none for 'huber'"):
        evolve(rows.full, rows.f_0, rows.targets, 3, loss=loss)
    loss = losses.custom(lambda f, y: nn.functional.mse_loss(f, y), name="mine")
    with pytest.raises(ValueError, match=r"`lr` must keep descent finite; got 1000\.0, and it overflowed by step 900"):
        evolve(rows.full, rows.f_0, rows.targets, [1, 900], loss=loss, clock="descent", lr=1e3)


def test_a_users_loss_flows_like_its_equal() -> None:
    rows, loss = Rows(), losses.custom(huber, curvature=1 / C)
    found, equal = (evolve(rows.full, rows.f_0, rows.targets, [2, 30], loss=each) for each in (loss, HUBER))
    assert error(found.alpha, equal.alpha) < 1e-8


def test_an_evolution_can_be_interrupted(free: None) -> None:
    rows = Rows()

    class Stopped(Counted):
        def times(self, alpha: Tensor) -> Tensor:
            if self.products == 100:
                raise KeyboardInterrupt
            return super().times(alpha)

    with pytest.raises(KeyboardInterrupt):
        evolve(Stopped(matrix(rows.full)), rows.f_0, rows.targets, 10**6, clock="descent")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "clock": ({"clock": "steps"}, "`clock` must be 'flow' or 'descent'; got 'steps'"),
    "lr": ({"lr": 0.0}, "`lr` must be positive and finite; got 0.0"),
    "momentum": ({"momentum": 1.0, "clock": "descent"}, "`momentum` must be from 0 to below 1; got 1.0"),
    "flow": ({"momentum": 0.9}, "`momentum` must be 0 in a flow, for heavy ball takes steps; got 0.9"),
    "tolerance": ({"tolerance": 0.0}, "`tolerance` must be between 0 and 1; got 0.0"),
    "no times": ({"t": []}, r"`t` must increase from 0 or above; got \[\]"),
    "negative time": ({"t": -1}, r"`t` must increase from 0 or above; got \[-1.0\]"),
    "same times": ({"t": [2, 2]}, r"`t` must increase from 0 or above; got \[2.0, 2.0\]"),
    "no number": ({"t": [1, math.nan]}, "`t` must increase from 0 or above"),
    "half a step": ({"t": 1.5, "clock": "descent"}, r"`t` must hold whole numbers of steps for descent; got \[1.5\]"),
    "no end": ({"t": math.inf, "clock": "descent"}, r"`t` must hold whole numbers of steps for descent; got \[inf\]"),
    "no limit": ({"t": math.inf, "loss": losses.cross_entropy}, "`t` must be finite for 'cross_entropy'"),
    "f_0": ({"f_0": torch.ones(N)}, r"`f_0` must be \(n, C\) in floating point; got \(5,\) of torch.float32"),
    "f_0 not finite": ({"f_0": torch.full((N, C), math.nan)}, "`f_0` must be finite"),
    "y": ({"y": torch.ones(N, C + 1)}, r"`y` must be labels \(5,\) or targets \(5, 3\); got \(5, 4\)"),
    "labels that are floats": (
        {"y": torch.ones(5)},
        r"got \(5,\)\. Labels are whole numbers, targets",
    ),
    "y of a users loss": ({"y": torch.ones(4), "loss": HUBER}, r"`y` must be labels \(5,\) or targets .* got \(4,\)"),
    "y not finite": ({"y": torch.full((N, C), math.inf)}, "`y` must be finite"),
    "label": ({"y": torch.tensor([0, 1, 2, 3, 0])}, "`y` must hold labels from 0 to 2; got 0 to 3"),
    "kernel shape": ({"kernel": torch.ones(4, 4)}, r"`kernel` must fit f_0, \(5, 5, 3, 3\) full or .* got \(4, 4\)"),
    "kernel not square": ({"kernel": torch.ones(5, 4)}, r"`kernel` must be \(n, n, C, C\), .* got \(5, 4\)"),
    "not symmetric": ({"kernel": lambda k: k.roll(1, 0)}, "`kernel` must be symmetric"),
    "kernel not finite": ({"kernel": lambda k: k * math.nan}, "`kernel` must be finite"),
    "operator": (
        {"kernel": jacobian(nn.Linear(7, C), torch.ones(4, 7))},
        r"must fit f_0, \(5, 3\); got .* of \(4, 3\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_sentence(name: str) -> None:
    rows = Rows()
    arguments: dict[str, Any] = {"kernel": rows.full, "f_0": rows.f_0, "y": rows.targets, "t": 3}
    changes, message = BAD[name]
    if callable(changes.get("kernel")):
        changes = changes | {"kernel": changes["kernel"](rows.full)}
    with pytest.raises(ValueError, match=message):
        evolve(**arguments | changes)


def test_wrong_types_are_told() -> None:
    rows = Rows()
    with pytest.raises(TypeError, match=r"`kernel` must be a tensor or an operator with times\(alpha\); got list"):
        evolve(rows.full.tolist(), rows.f_0, rows.targets, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^`f_0` must be a tensor; got list"):
        evolve(rows.full, rows.f_0.tolist(), rows.targets, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^`y` must be a tensor; got NoneType"):
        evolve(rows.full, rows.f_0, None, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`loss` must be a Loss; got str"):
        evolve(rows.full, rows.f_0, rows.targets, 3, loss="squared")  # type: ignore[arg-type]


def test_arrays_are_taken_as_tensors() -> None:
    rows = Rows()
    found = evolve(rows.full.numpy(), rows.f_0.numpy(), rows.targets.numpy(), [3, 7])  # type: ignore[arg-type]
    same = evolve(rows.full, rows.f_0, rows.targets, [3, 7])
    assert torch.equal(found.alpha, same.alpha)
    own = rows.full.numpy(), rows.f_0.numpy()
    assert torch.equal(found.predict(*own), same.predict(rows.full, rows.f_0))  # type: ignore[arg-type]


def test_products_of_another_shape_are_told(free: None) -> None:
    rows = Rows()

    class Wide:
        def times(self, alpha: Tensor) -> Tensor:
            return torch.cat([alpha, alpha])

    with pytest.raises(ValueError, match=r"`kernel` must map \(5, 3\) to itself; got \(10, 3\)"):
        evolve(Wide(), rows.f_0, rows.targets, 3)


def test_predictions_ask_for_what_fits() -> None:
    rows = Rows()
    found = evolve(rows.full, rows.f_0, rows.targets, 3)
    with pytest.raises(ValueError, match=r"`f_0_test` must be \(n\*, 3\); got \(4,\)"):
        found.predict(rows.full, torch.ones(4))
    with pytest.raises(ValueError, match=r"`kernel_test_train` must be \(4, 5, 3, 3\) or \(4, 5\); got \(5, 5, 3, 3\)"):
        found.predict(rows.full, rows.f_0_test)
    train, test = jacobian(rows.model, rows.x), jacobian(rows.model, rows.x_test)
    with pytest.raises(ValueError, match=r"`jacobian` must have the \(n, C\) of alpha, \(5, 3\); got \(4, 3\)"):
        found.weights(test)
    with pytest.raises(ValueError, match=r"`train` must have the \(n, C\) of alpha, \(5, 3\); got \(4, 3\)"):
        found.outputs(test, train)
    moved = {name: part + 1 for name, part in rows.w.items()}
    with pytest.raises(ValueError, match="`test` must be taken at the weights of train"):
        found.outputs(train, jacobian(rows.model, rows.x_test, w=moved))


def test_a_tolerance_out_of_reach_is_told(free: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    monkeypatch.setattr("fedtangent.tangents.numerics.integrate._HALVINGS", 2)
    monkeypatch.setattr(import_module("fedtangent.tangents.evolve"), "_FACTORISED", 0)
    with pytest.raises(ValueError, match="`tolerance` must be within reach; got 1e-08, and the error stays at"):
        evolve(Counted(matrix(rows.full)), rows.f_0, rows.labels, 50, loss=losses.cross_entropy)
    monkeypatch.setattr("scipy.sparse.linalg.cg", lambda *_, **__: (None, 60))
    with pytest.raises(
        ValueError, match="`tolerance` must be within reach; got 1e-08, and conjugate gradients did not end"
    ):
        evolve(Counted(matrix(rows.full)), rows.f_0, rows.targets, math.inf)


def test_work_without_end_is_refused_before_it_begins(free: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    operator = Counted(matrix(rows.full))
    monkeypatch.setattr(import_module("fedtangent.tangents.evolve"), "_FACTORISED", 0)
    reach = r"^`lr` times the last `t` must be at most \S+ with this kernel, so that a flow takes at most 1,000,000 "
    for y, loss in ((rows.labels, losses.cross_entropy), (rows.targets, losses.squared)):
        with pytest.raises(ValueError, match=reach + "products; got 1e\\+20. Lower it, or scale the inputs down"):
            evolve(operator, rows.f_0, y, 1e19, loss=loss, lr=10)
        with pytest.raises(
            ValueError, match=r"^`t` must be at most 1,000,000 for this descent, a product .* got 1e\+18"
        ):
            evolve(operator, rows.f_0, y, 1e18, loss=loss, lr=1e-3, clock="descent")
    with pytest.raises(ValueError, match=r"^`lr` times the last `t` must be finite; got inf\. Lower one of them\.$"):
        evolve(rows.full, rows.f_0, rows.labels, 1e200, loss=losses.cross_entropy, lr=1e200)
