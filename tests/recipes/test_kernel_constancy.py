"""Jacot's kernel: the network and its kernel against autograd, training against SGD, the limit, the full size."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedtangent import tangents
from fedtangent.recipes import kernel_constancy as recipe
from fedtangent.recipes._ntk_mlp import NtkMlp
from tests.recipes.records import kept

SMALL: dict[str, Any] = {"widths": (5, 8), "inits": 3, "steps": 4, "points": 11}


def network(seed: int = 1) -> NtkMlp:
    return NtkMlp((2, 5, 5, 5, 1), np.random.default_rng(seed), 1.0, 0.1)


def test_a_layer_by_hand() -> None:
    """z = 3 / sqrt(2) (1, -2) . (0.5, 2) + 0.2 * 4, then 3 / sqrt(1) * 5 * relu(z) + 0.2 * 6."""
    model = NtkMlp((2, 1, 1), np.random.default_rng(0), 3.0, 0.2)
    values = [[[1.0, -2.0]], [[5.0]]], [[4.0], [6.0]]
    for parts, own in zip((model.weights, model.biases), values, strict=True):
        for p, value in zip(parts, own, strict=True):
            p.data = torch.tensor(value)
    x = torch.tensor([[0.5, 2.0], [2.0, 0.25]])
    hidden = max(3 / math.sqrt(2) * (2 - 0.5) + 0.8, 0)
    torch.testing.assert_close(model(x), torch.tensor([[1.2], [15 * hidden + 1.2]]))
    torch.testing.assert_close(model(x.reshape(2, 1, 2, 1)), model(x))


def test_parameters_are_standard_normal_and_hang_on_the_seed() -> None:
    values = torch.cat([p.flatten() for p in NtkMlp((40, 60, 9), np.random.default_rng(2), 1.0, 0.1).parameters()])
    assert values.mean().abs() < 0.05 and (values.std() - 1).abs() < 0.05
    first, again, other = (torch.cat([p.flatten() for p in network(seed).parameters()]) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_kernel_around_x0_is_the_tangent_kernel() -> None:
    model, x = network(), torch.randn(6, 2, generator=torch.manual_seed(1))
    x_0 = torch.tensor([[1.0, 0.0]])
    w = {name: p.detach() for name, p in model.named_parameters()}
    rows = []
    for point in torch.cat([x_0, x]):
        parts = torch.autograd.grad(model(point[None])[0, 0], list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    expected = torch.stack(rows[1:]) @ rows[0]
    torch.testing.assert_close(recipe.around(model, x, w), expected)
    torch.testing.assert_close(tangents.kernel(model, x, x_0, kind="trace")[:, 0], expected)


def test_training_is_gradient_descent_of_step_one_on_half_the_mean_square() -> None:
    model, x = network(), torch.randn(7, 2, generator=torch.manual_seed(1))
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = recipe.trained(model, w, x, 3)
    sgd = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(3):
        sgd.zero_grad()
        (0.5 * nn.functional.mse_loss(model(x)[:, 0], x[:, 0] * x[:, 1])).backward()
        sgd.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.detach())
    assert recipe.moved(found, w) > 0


def test_how_far_weights_have_moved_by_hand() -> None:
    w_0 = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    w = {"a": torch.tensor([3.0, 2.0]), "b": torch.tensor([[5.5]])}
    assert recipe.moved(w, w_0) == pytest.approx(2.5 / 5)


def test_the_limit_is_the_recursion_of_the_arc_cosine_kernel() -> None:
    """Theta at 0, pi/4, pi/2, 3 pi/4, pi of three hidden layers, sigma_w = 1, sigma_b = 0.1, step by step."""

    def theta(cosine: float) -> float:
        own, cross = 1 / 2 + 0.01, cosine / 2 + 0.01  # the covariances of the first layer; |x| = 1, two inputs
        kernel = cross
        for _ in range(3):
            angle = math.acos(max(-1.0, min(1.0, cross / own)))
            slope = (math.pi - angle) / (2 * math.pi)
            cross = own / (2 * math.pi) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) + 0.01
            own = own / 2 + 0.01
            kernel = kernel * slope + cross
        return kernel

    rows = list(recipe.kernel_constancy(widths=(3,), inits=1, steps=0))
    assert [row["gamma"] for row in rows] == [i * math.pi / 8 for i in range(-8, 9)]
    for row in rows:
        assert row["kernel_limit"] == pytest.approx(theta(math.cos(row["gamma"])), rel=1e-5)
    by_angle = {round(row["gamma"] / math.pi, 3): row["kernel_limit"] for row in rows}
    assert [by_angle[part] for part in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(
        [0.2825, 0.1700, 0.0927, 0.0660, 0.0644], abs=6e-5
    )


def test_wide_networks_start_near_the_limit_and_nothing_moves_in_no_steps() -> None:
    rows = list(recipe.kernel_constancy(widths=(20, 1000), inits=4, steps=0))
    off = {
        width: np.mean([abs(row["kernel_start"] - row["kernel_limit"]) for row in rows if row["width"] == width])
        for width in (20, 1000)
    }
    assert off[1000] < 0.02 < off[20]
    assert all(row["kernel_end"] == row["kernel_start"] for row in rows)
    assert {(row["kernel_change"], row["weight_change"]) for row in rows} == {(0.0, 0.0)}


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped() -> None:
    rows = list(recipe.kernel_constancy(**SMALL))
    for there in (1, 17, 40, len(rows)):
        assert rows[:there] + list(recipe.kernel_constancy(rows[:there], **SMALL)) == rows


def test_the_table_by_hand() -> None:
    same = {"width": 100, "steps": 200, "kernel_limit": 0.3, "kernel_change": 0.5, "weight_change": 0.1}
    rows = [
        {**same, "init": 0, "gamma": 0.0, "kernel_start": 0.2, "kernel_end": 0.5},
        {**same, "init": 0, "gamma": 1.0, "kernel_start": 9.0, "kernel_end": 9.0},
        {**same, "init": 1, "gamma": 0.0, "kernel_start": 0.4, "kernel_end": 1.0, "kernel_change": 0.7},
    ]
    wide, limit = recipe.table(rows)
    assert wide == pytest.approx(
        {
            "width": 100,
            "kernel": 0.3,
            "deviation": math.sqrt(0.02),
            "inflation": 2.5,
            "inflation_elsewhere": 1.83,
            "kernel_change": 0.6,
            "weight_change": 0.1,
        }
    )
    assert (limit["width"], limit["kernel"], limit["inflation"]) == ("∞", 0.3, 1.0)
    (one, _) = recipe.table([{**row, "steps": 100} for row in rows[:1]])
    assert math.isnan(one["deviation"]) and math.isnan(one["inflation_elsewhere"])


def test_the_figure_shows_every_width_and_the_limit() -> None:
    start, end, change = recipe.figure(list(recipe.kernel_constancy(**SMALL))).axes
    names = [text.get_text() for text in start.get_legend().get_texts()]
    assert names == ["width 5", "width 8", "infinite width"]
    assert start.get_ylim() == end.get_ylim()
    assert [list(line.get_xdata()) for line in change.lines] == [[5, 8], [5, 8]]


@pytest.mark.parametrize(
    "options", [{"widths": ()}, {"widths": (0,)}, {"inits": 0}, {"points": 0}, {"steps": -1}], ids=str
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"^`widths`, `inits` and `points` must be positive, and `steps` at least 0; got"
    ):
        list(recipe.kernel_constancy(**{**SMALL, **options}))


def as_in_the_paper(rows: list[dict[str, Any]]) -> None:
    """Scatter falls like 1 / sqrt(width), the weights' change like 1 / width, and inflation as elsewhere."""
    found = {row["width"]: row for row in recipe.table(rows)}
    assert list(found) == [50, 100, 200, 500, "∞"]
    for width in (100, 500):
        assert found[width]["inflation"] == pytest.approx(found[width]["inflation_elsewhere"], rel=0.1)
    assert 10**0.5 / 2 < found[50]["deviation"] / found[500]["deviation"] < 10**0.5 * 3  # of ten draws each
    assert found[50]["weight_change"] / found[500]["weight_change"] == pytest.approx(10, rel=0.2)
    changes = [found[width]["kernel_change"] for width in (50, 100, 200, 500)]
    assert changes == sorted(changes, reverse=True)
    for width in (50, 100, 200, 500):
        assert found[width]["kernel"] == pytest.approx(
            found["∞"]["kernel"], abs=2.5 * found[width]["deviation"] / 10**0.5
        )


def test_the_record_is_as_in_the_paper() -> None:
    as_in_the_paper(kept("kernel_constancy"))


@pytest.mark.slow
def test_full_size_is_as_in_the_paper() -> None:
    as_in_the_paper(list(recipe.kernel_constancy()))
