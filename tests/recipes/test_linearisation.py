"""A network and its first-order model: against the closed form and SGD; a linear network; the full size."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedtangent import tangents
from fedtangent.recipes import linearisation as recipe
from fedtangent.recipes._ntk_mlp import NtkMlp
from fedtangent.shard import Dataset
from fedtangent.training import losses
from tests.experiments.tiny import saved
from tests.recipes.records import kept

SMALL: dict[str, Any] = {"samples": 30, "widths": (4, 7), "steps": 4, "inits": 2, "probe": 5, "lr": 0.1}


@cache
def small() -> list[dict[str, Any]]:
    return list(recipe.linearisation(**SMALL))


def problem(classes: int = 3) -> tuple[NtkMlp, Dataset]:
    """Eleven samples to train on and seven to test, in float64."""
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.standard_normal((18, 2, 2)))
    y = torch.from_numpy(rng.integers(0, 3, 18)) if classes else torch.from_numpy(rng.standard_normal((18, 3)))
    model = NtkMlp((4, 6, 5, 3), np.random.default_rng(1), 1.3, 0.2).double()
    return model, Dataset("tiny", x[:11], y[:11], x[11:], y[11:], classes)


def test_the_first_order_model_is_the_closed_form() -> None:
    model, data = problem()
    rows = list(recipe.trained(model, data, losses.squared, 0.4, 60, data.x_train[:4]))
    steps = [row["step"] for row in rows]
    assert steps[0] == 0 and steps[-1] == 60 and steps == sorted(set(steps))
    with torch.no_grad():
        f_0, f_0_test = model(data.x_train), model(data.x_test)
    found = tangents.evolve(
        tangents.kernel(model, data.x_train), f_0, data.y_train, steps, loss=losses.squared, clock="descent", lr=0.4
    )
    test = found.predict(tangents.kernel(model, data.x_test, data.x_train), f_0_test)
    for row, f, f_test in zip(rows, found.f, test, strict=True):
        targets = nn.functional.one_hot(data.y_test, 3)
        assert row["linear_test_loss"] == pytest.approx(float(((f_test - targets) ** 2).mean()) / 2, rel=1e-9)
        assert row["linear_train_loss"] == pytest.approx(float(losses.mean(losses.squared, f, data.y_train)), rel=1e-9)
        assert row["linear_test_accuracy"] == float((f_test.argmax(1) == data.y_test).double().mean())


@pytest.mark.few(1)
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.squared], ids=lambda loss: loss.name)
def test_the_network_is_trained_by_plain_descent(loss: losses.Loss) -> None:
    model, data = problem()
    f_lin = tangents.linearize(model)
    kernel = tangents.kernel(model, data.x_train[:4])
    with torch.no_grad():
        f_0 = model(data.x_test)
    rows = {row["step"]: row for row in recipe.trained(model, data, loss, 0.4, 9, data.x_train[:4])}
    sgd = torch.optim.SGD(model.parameters(), 0.4)
    for step in range(10):
        if step in rows:
            with torch.no_grad():
                f = model(data.x_test)
            w = {name: p.detach() for name, p in model.named_parameters()}
            at_w = f_lin(w, data.x_test)
            row = rows[step]
            assert row["test_loss"] == pytest.approx(float(losses.mean(loss, f, data.y_test)), rel=1e-10)
            assert row["test_accuracy"] == float((f.argmax(1) == data.y_test).double().mean())
            drift = (tangents.kernel(model, data.x_train[:4]) - kernel).norm() / kernel.norm()
            assert row["kernel_drift"] == pytest.approx(float(drift), rel=1e-9, abs=1e-14)
            gap = (f - at_w).norm() / (f - f_0).norm() if step else 0.0
            assert row["gap"] == pytest.approx(float(gap), rel=1e-8)
        sgd.zero_grad()
        (
            nn.functional.cross_entropy(model(data.x_train), data.y_train)
            if loss.name == "cross_entropy"
            else 0.5 * nn.functional.mse_loss(model(data.x_train), nn.functional.one_hot(data.y_train, 3).double())
        ).backward()
        sgd.step()
    assert rows[9]["difference"] > rows[1]["difference"] > rows[0]["difference"] == 0


def test_the_difference_is_that_of_the_two_trained_models() -> None:
    """One step, by autograd: w_1 = w_0 - lr g for both, so the difference is the gap."""
    model, data = problem(0)
    rows = list(recipe.trained(model, data, losses.squared, 0.4, 1, data.x_train[:4]))
    assert rows[1]["difference"] == pytest.approx(rows[1]["gap"], rel=1e-9)
    assert rows[1]["difference"] > 1e-3


def test_a_linear_network_is_its_first_order_model() -> None:
    _, data = problem()
    model = NtkMlp((4, 3), np.random.default_rng(1), 1.3, 0.2).double()
    for row in recipe.trained(model, data, losses.cross_entropy, 0.4, 30, data.x_train[:4]):
        assert max(row["difference"], row["gap"], row["kernel_drift"]) < 1e-12
        assert row["test_loss"] == pytest.approx(row["linear_test_loss"], rel=1e-12)


@pytest.mark.slow
def test_wider_networks_are_followed_more_closely() -> None:
    rows = list(recipe.linearisation(**{**SMALL, "widths": (5, 300), "steps": 9}))
    assert [(row["width"], row["init"]) for row in rows if row["step"] == 9] == [(5, 0), (5, 1), (300, 0), (300, 1)]
    narrow, wide = recipe.table(rows)
    for key in ("difference", "gap", "kernel_drift"):
        assert wide[key] < narrow[key] / 3


@pytest.mark.slow
def test_a_regression_has_no_accuracy(tmp_path: Path) -> None:
    options = {**SMALL, "dataset": "npz", "data_dir": saved(tmp_path / "sums.npz", classes=0), "loss": "squared"}
    rows = list(recipe.linearisation(**options))
    assert all(math.isnan(row["test_accuracy"]) and math.isnan(row["linear_train_accuracy"]) for row in rows)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    with pytest.raises(
        ValueError, match=r"^`loss` must be squared for sums, which has no classes; got cross_entropy. Ch"
    ):
        list(recipe.linearisation(**{**options, "loss": "cross_entropy"}))


def test_layers_and_samples_are_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def trained(model: NtkMlp, data: Dataset, loss: Any, lr: float, steps: int, probe: torch.Tensor) -> Any:
        seen.append(([tuple(p.shape) for p in model.weights], len(data.x_train), len(data.x_test), len(probe)))
        return iter(())

    monkeypatch.setattr(recipe, "trained", trained)
    list(recipe.linearisation(**{**SMALL, "widths": (4,), "inits": 1, "layers": 2}))
    assert seen == [([(4, 64), (4, 4), (10, 4)], 30, 360, 5)]


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped() -> None:
    rows = small()
    for there in (7, len(rows)):
        assert rows[:there] + list(recipe.linearisation(rows[:there], **SMALL)) == rows


def test_the_table_by_hand() -> None:
    same = dict.fromkeys(("test_loss", "linear_test_loss", "gap", "kernel_drift"), 0.5)
    scores = {"test_accuracy": 0.75, "linear_test_accuracy": 0.5}
    rows = [
        {"width": 7, "init": init, "step": step, **same, **scores, "difference": difference}
        for init, curve in enumerate([(0, 0.05, 0.2, 0.01), (0, 0.09, 0.1, 0.3), (0, 0.01, 0.02, 0.05)])
        for step, difference in zip((0, 1, 10, 100), curve, strict=True)
    ]
    assert [recipe.followed([row for row in rows if row["init"] == init]) for init in range(3)] == [1, 10, 100]
    (row,) = recipe.table(rows)
    assert row == pytest.approx(
        {
            "width": 7,
            "accuracy": 0.75,
            "linear_accuracy": 0.5,
            "difference": 0.12,
            "gap": 0.5,
            "kernel_drift": 0.5,
            "steps_followed": 10,
        }
    )


def test_the_figure_shows_both_models_by_width() -> None:
    loss, difference, drift = recipe.figure(small()).axes
    names = [text.get_text() for text in loss.get_legend().get_texts()]
    assert names == ["width 4", "width 7", "first-order model"]
    assert [len(axes.lines) for axes in (loss, difference, drift)] == [5, 2, 2]
    assert list(difference.lines[0].get_xdata())[:3] == [1, 2, 3]
    assert drift.get_ylim() == difference.get_ylim()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"widths": ()},
            r"^`widths`, `samples`, .* must be positive; got \(\), 30, 1, 4, 2 and 5. Give such whole num",
        ),
        ({"widths": (0,)}, "must be positive"),
        *(({name: 0}, "must be positive") for name in ("samples", "layers", "steps", "inits", "probe")),
        ({"lr": 0.0}, "^`lr` must be positive and finite; got 0.0. Choose a step size.$"),
        ({"lr": math.inf}, "^`lr` must be positive and finite; got inf. Choose a step size.$"),
        ({"lr": 50.0}, "^`lr` must be below the largest stable step, .* at width 4; got 50.0. Choose a smaller one.$"),
        ({"dataset": "digit"}, "^`dataset` must be one of agnews, .*Did you mean 'digits'"),
        ({"data_dir": "x"}, "^`data_dir` must be left out for digits"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        list(recipe.linearisation(**{**SMALL, **options}))


def test_the_largest_stable_step_is_that_of_the_kernel() -> None:
    model, data = problem()
    kernel = tangents.kernel(model, data.x_train).movedim(2, 1).reshape(33, 33)
    stable = 2 * 11 * 3 / float(torch.linalg.eigvalsh(kernel)[-1])  # curvature 1 / 3
    next(recipe.trained(model, data, losses.squared, 0.999 * stable, 1, data.x_train))
    with pytest.raises(ValueError, match=r"^`lr` must be below the largest stable step"):
        next(recipe.trained(model, data, losses.squared, 1.001 * stable, 1, data.x_train))


def faithful_when_wide(rows: list[dict[str, Any]]) -> None:
    """A thousand steps: the difference and the drift fall with every width, and the widest is followed to the end."""
    found = recipe.table(rows)
    assert [row["width"] for row in found] == [30, 100, 300, 1000]
    for key in ("difference", "gap", "kernel_drift"):
        values = [row[key] for row in found]
        assert values == sorted(values, reverse=True)
    assert found[0]["steps_followed"] < 30
    assert found[-1]["steps_followed"] == 1000 and found[-1]["difference"] < 0.07
    assert all(row["accuracy"] > 0.9 and row["linear_accuracy"] > 0.88 for row in found)


def test_the_record_is_faithful_when_wide() -> None:
    faithful_when_wide(kept("linearisation"))


@pytest.mark.slow
def test_full_size_is_faithful_when_wide() -> None:
    faithful_when_wide(list(recipe.linearisation()))
