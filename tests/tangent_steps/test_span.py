"""The quadratic model in the span of some directions equals the one from an explicit Jacobian and Hessian."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent.shard import Shard
from fedtangent.tangent_steps.kfac import Moments, directions, moments
from fedtangent.tangent_steps.span import Curvature, Span, candidates, curvature, rows_of_curvature
from fedtangent.tangent_steps.triangles import pack, unpack
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests.tangents import unusual
from tests.tangents.literal_moments import EXAMPLES, ggn, rows
from tests.tangents.networks import flat, weights
from tests.tiny_federation import assert_close

Weights = dict[str, Tensor]
SPAN = Span(dampings=(0.3, 5.0), ridges=(1e-3, 0.2), scales=(0.5, 1.0, 1.5))


def some(w: Weights, count: int, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, *part.shape, generator=generator, dtype=torch.float64) for name, part in w.items()}


@pytest.fixture
def total() -> Moments:
    model = EXAMPLES["deep"].model
    return moments(Task(model), weights(model), rows(EXAMPLES["deep"]))


@pytest.mark.few(14)
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("squared", [False, True])
def test_the_curvature_is_that_of_the_gauss_newton_matrix(name: str, squared: bool) -> None:
    example, loss = EXAMPLES[name], losses.squared if squared else losses.cross_entropy
    model, data = example.model, rows(example, squared=squared)
    w = weights(model)
    basis = some(w, 4)
    expected = flat(basis) @ ggn(model, data, loss) @ flat(basis).T
    assert_close(curvature(Task(model, loss), w, basis, data).total, expected, 1e-9 * float(expected.abs().max()))


def test_padded_rows_have_no_curvature() -> None:
    model, data = EXAMPLES["deep"].model, rows(EXAMPLES["deep"])
    w = weights(model)
    padded = Shard(*(torch.cat([part, part[:2]]) for part in data))
    padded = padded._replace(x=padded.x * torch.arange(7)[:, None], real=torch.arange(7) < 5)
    alone = data._replace(x=padded.x[:5])
    found = [curvature(Task(model), w, some(w, 3), each) for each in (padded, alone)]
    assert_close(*found)


def test_the_basis_is_a_direction_for_every_damping_and_the_last_displacement(total: Moments) -> None:
    v = {name: part[0] for name, part in some(total.gradient, 1).items()}
    made = directions(total, {}, (0.3, 5.0))
    found = SPAN.basis(total, {}, v)
    assert_close(found, {name: torch.cat([part, v[name][None]]) for name, part in made.items()}, 0)
    assert_close(Span((0.3, 5.0), (1.0,), (1.0,), momentum=False).basis(total, {}, {}), made, 0)


def test_a_direction_that_is_not_finite_is_left_out_unless_all_are(total: Moments) -> None:
    values, vectors = torch.linalg.eigh(unpack(total.inputs["1.weight,1.bias"])[0])
    values[0] = -values[1:].mean()
    bent = pack((vectors * values @ vectors.T)[None])
    total = total._replace(inputs={**total.inputs, "1.weight,1.bias": bent})
    v = {name: part[0] for name, part in some(total.gradient, 1).items()}
    found = Span((0.3, 5.0), (1.0,), (1.0,)).basis(total, {}, v)
    made = directions(total, {}, (5.0,))
    assert_close(found, {name: torch.stack([0 * part[0], part[0], v[name]]) for name, part in made.items()}, 0)
    found = Span((0.3, 0.2), (1.0,), (1.0,)).basis(total, {}, v)
    assert found["1.weight"][:2].isnan().all()


def test_all_work_with_the_rounded_directions(total: Moments) -> None:
    model, data = EXAMPLES["deep"].model, rows(EXAMPLES["deep"])
    w = weights(model)
    basis = {name: part.to(torch.bfloat16) for name, part in some(w, 3).items()}
    exact = {name: part.double() for name, part in basis.items()}
    task, q = Task(model), torch.diag(torch.tensor([1.0, 2.0, 3.0]).double())
    c = torch.tensor([[0.1, 0.2, -0.3], [1.0, 0.0, 2.0]]).double()
    assert_close(curvature(task, w, basis, data), curvature(task, w, exact, data), 0)
    assert_close(SPAN.combinations(total, basis, one(q)), SPAN.combinations(total, exact, one(q)), 0)
    assert_close(candidates(w, basis, c), candidates(w, exact, c), 0)


def test_combinations_minimise_the_damped_quadratic(total: Moments) -> None:
    basis = some(total.gradient, 3)
    d, g = flat(basis), torch.cat([part.flatten() for part in total.gradient.values()]) / 5
    root = torch.randn(3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    q = root @ root.T * 100 ** torch.arange(3)[:, None] * 100 ** torch.arange(3)
    found, expected = SPAN.combinations(total, basis, one(q)), []
    for ridge in (1e-3, 0.2):
        c = -torch.linalg.solve(q + ridge * q.diagonal().diag(), d @ g)
        expected += [scale * c for scale in (0.5, 1.0, 1.5)]
    assert_close(found, torch.stack(expected), 1e-10)


def one(mean: Tensor) -> Curvature:
    return Curvature(mean, torch.tensor(1))


def by_hand(gradient: list[float], rows: int = 1) -> Moments:
    return Moments({"w": torch.tensor(gradient).double()}, {}, {}, torch.tensor(rows))


def test_by_hand() -> None:
    """Directions (1, 0) and (0, 2); g = (3, 4) along them (3, 8); Q = [[2, 0], [0, 4]], doubled by the ridge of 1."""
    basis = {"w": torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()}
    span = Span((1.0, 2.0), ridges=(1.0,), scales=(1.0, 0.5), momentum=False)
    assert span.tries == 2
    c = span.combinations(by_hand([6.0, 8.0], rows=2), basis, one(torch.tensor([[2.0, 0.0], [0.0, 4.0]]).double()))
    assert_close(c, torch.tensor([[-0.75, -1.0], [-0.375, -0.5]]).double())
    w = {"w": torch.tensor([10.0, 20.0]).double()}
    assert_close(candidates(w, basis, c), {"w": torch.tensor([[9.25, 18.0], [9.625, 19.0]]).double()})


def test_a_zero_direction_gets_no_part(total: Moments) -> None:
    basis = some(total.gradient, 3)
    basis = {name: torch.stack([part[0], 0 * part[1], part[2]]) for name, part in basis.items()}
    model, data = EXAMPLES["deep"].model, rows(EXAMPLES["deep"])
    q = curvature(Task(model), weights(model), basis, data)
    assert int(q.rows) == 5
    found = SPAN.combinations(total, basis, q)
    assert found[:, 1].tolist() == [0.0] * 6
    others = {name: part[[0, 2]] for name, part in basis.items()}
    assert_close(
        found[:, [0, 2]], SPAN.combinations(total, others, q._replace(total=q.total[[0, 2]][:, [0, 2]])), 1e-10
    )


def test_nearly_parallel_directions_do_no_harm_in_single_precision() -> None:
    basis = {"w": torch.tensor([[1.0, 0.0], [1.0, 1e-5]])}
    total = Moments({"w": torch.tensor([3.0, 4.0])}, {}, {}, torch.tensor(1))
    q = basis["w"] @ torch.diag(torch.tensor([2.0, 1.0])) @ basis["w"].T
    (c,) = Span((1.0,), ridges=(1e-3,), scales=(1.0,)).combinations(total, basis, one(q))
    moved = (c @ basis["w"]).tolist()
    assert c.dtype == torch.float32
    assert moved == pytest.approx([-1.5, 0.0], abs=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dampings": ()}, r"^`dampings` must be positive numbers; got \[\]\. Give at least one\.$"),
        ({"dampings": (1.0, 0.0)}, r"^`dampings` must be positive numbers; got \[1.0, 0.0\]\. Give at least one\.$"),
        ({"ridges": (-0.1,)}, r"^`ridges` must be positive numbers; got \[-0.1\]\. Give at least one\.$"),
        ({"ridges": (math.nan,)}, r"^`ridges` must be positive numbers; got \[nan\]\. Give at least one\.$"),
        ({"scales": (math.inf,)}, r"^`scales` must be positive numbers; got \[inf\]\. Give at least one\.$"),
    ],
)
def test_a_wrong_setting_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Span(**{"dampings": (1.0,), "ridges": (1.0,), "scales": (1.0,), **options})


@pytest.mark.parametrize("name", ["no_grad", "hook", "checkpoint"])
def test_the_curvature_is_that_of_training_under_vmap_too(name: str) -> None:
    model = unusual.model(name)
    task = Task(model, losses.squared)
    nodes = [Shard(unusual.samples(4) + k, torch.zeros(4, 3).double(), torch.ones(4).bool()) for k in range(2)]
    basis = some(task.w_0, 3)
    stacked = Shard(*(torch.stack(parts) for parts in zip(*nodes, strict=True)))
    found = torch.func.vmap(lambda data: curvature(task, task.w_0, basis, data).total)(stacked)
    for one, data in zip(found, nodes, strict=True):
        moved = unusual.by_rows(model, data.x) @ flat(basis).T  # (n, C, k)
        assert_close(one, torch.einsum("nci,ncj->ij", moved, moved) / 3)


def test_a_curvature_that_is_negative_counts_for_no_rows() -> None:
    found = Curvature(torch.tensor([[2.0, -9.0], [-9.0, 0.0]]), torch.tensor(4))
    assert int(rows_of_curvature(found)) == 4
    assert int(rows_of_curvature(found._replace(total=-found.total))) == 0
