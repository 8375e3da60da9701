"""Layer mismatch: the traced weights are those of runs, the norms autograd's; the ratios worked out by hand."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import Setup, setup
from fedtangent.federation import Wire
from fedtangent.recipes import layer_mismatch as recipe
from fedtangent.training import solvers
from fedtangent.training.groups import layer_groups
from fedtangent.transports.memory import memory
from tests.experiments.tiny import data, network, partition

SMALL: dict[str, Any] = {
    "model": "mlp", "clients": 2, "rows": 21, "epochs": 1, "batch": 7, "warm_up": 1, "optimizers": ("adam", "sgd"),
}  # fmt: skip
STEPS, ROUNDS = 3, 5  # of a round; 1 + 2 groups twice
LOCAL = {"epochs": 2, "batch": 4}


def built() -> Setup:
    """Five clients of unequal size, in float64."""
    own = {"dataset": data(), "partition": partition(), "model": network(), "dtype": "float64", "seed": 7}
    return setup(experiment("fedavg", rounds=1, **own, **LOCAL))


def ended(optimizer: Any, partial: bool, turns: list[int], lr: float) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """All rows, and the last weights."""
    made = built()
    going = recipe.traced(made, layer_groups(made.task), turns, partial, optimizer, lr, solvers.shuffled(**LOCAL))
    rows = []
    while True:
        try:
            rows.append(next(going))
        except StopIteration as stop:
            return rows, stop.value


@pytest.mark.few(2)
@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 0.02), ("sgd", 0.3)])
@pytest.mark.parametrize("partial", [False, True])
def test_the_traced_weights_are_those_of_a_run(optimizer: str, lr: float, partial: bool) -> None:
    turns = recipe.schedule(2, 1, 2, 1)
    assert turns == [0, 1, 1, 2, 2]
    _, w = ended(optimizer, partial, turns, lr)
    own = {"dataset": data(), "partition": partition(), "model": network(), "dtype": "float64", "seed": 7}
    local = {**LOCAL, "lr": lr, "optimizer": optimizer}
    part = {"host": "fedavg", "warm_up": 1, **{f"host.{name}": value for name, value in local.items()}}
    name, chosen = ("fedpart", part) if partial else ("fedavg", local)
    expected = run(experiment(name, rounds=5, engine="sequential", evaluate_nodes_every=0, **chosen, **own)).weights
    assert w.keys() == expected.keys()
    for name, p in expected.items():
        torch.testing.assert_close(w[name], p, rtol=1e-9, atol=1e-12)


def test_kept_moments_are_those_of_one_long_run_when_there_is_one_client() -> None:
    """Nothing is averaged: two rounds of Adam that is kept are two epochs of Adam that starts once."""
    whole = {"dataset": data(), "nodes": 1, "partition": "iid", "model": network(), "dtype": "float64"}
    made = setup(experiment("fedavg", rounds=1, **whole))
    (shard,) = made.data
    draw = solvers.shuffled(1, 8)
    going = recipe.traced(made, layer_groups(made.task), [0, 0], False, "adam_kept", 0.02, draw)
    while True:
        try:
            next(going)
        except StopIteration as stop:
            w = stop.value
            break
    rounds = [draw(made.fleet(k, Wire(memory())).rng("batches", 0), shard) for k in (1, 2)]
    batches = solvers.Batches(torch.cat([one.rows for one in rounds]), torch.cat([one.real for one in rounds]))
    expected = solvers.adam(made.task, lr=0.02)(made.task.w_0, shard, batches)
    for name, p in expected.items():
        torch.testing.assert_close(w[name], p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("partial", [False, True])
def test_the_norms_are_those_of_gradients_and_steps(partial: bool) -> None:
    """The first two steps of the first client, by autograd; the group in turn is the last layer."""
    rows, _ = ended("sgd", partial, [2], 0.3)
    made, model = built(), network().double()
    draw = solvers.shuffled(**LOCAL)(made.fleet(1, Wire(memory())).rng("batches", 0), made.data[0])
    layers = [[model[0].weight, model[0].bias], [model[2].weight, model[2].bias]]
    for row, index in zip(rows[:2], draw.rows, strict=False):
        real = index[index > 0] - 1
        model.zero_grad()
        nn.functional.cross_entropy(model(made.data[0].x[real]), made.data[0].y[real]).backward()
        norms = [float(torch.cat([p.grad.flatten() for p in layer]).norm()) for layer in layers]
        assert [row["gradient_1"], row["gradient_2"]] == pytest.approx(norms, rel=1e-9)
        assert row["gradient_all"] == pytest.approx(math.hypot(*norms), rel=1e-9)
        moved = [0.0 if partial else 0.3 * norms[0], 0.3 * norms[1]]
        assert [row["step_1"], row["step_2"]] == pytest.approx(moved, rel=1e-9, abs=1e-15)
        assert row["step_all"] == pytest.approx(math.hypot(*moved), rel=1e-9)
        with torch.no_grad():
            for p in [p for layer in (layers[1:] if partial else layers) for p in layer]:
                p -= 0.3 * p.grad


def test_the_first_step_of_adam_anew_moves_every_number_by_its_rate() -> None:
    rows, _ = ended("adam", True, [0, 2], 0.02)
    first = next(row for row in rows if row["round"] == 2)
    size = 3 * 6 + 3
    assert first["step_2"] == pytest.approx(0.02 * math.sqrt(size), rel=1e-4)
    assert first["step_1"] == 0 and first["step_all"] == first["step_2"]


@cache
def measured() -> list[dict[str, Any]]:
    return list(recipe.layer_mismatch(**SMALL))


def test_rows_are_every_step_of_every_client() -> None:
    rows = measured()
    assert [(row["optimizer"], row["updates"], row["round"], row["client"], row["step"]) for row in rows] == [
        (optimizer, updates, k, client, step)
        for optimizer in ("adam", "sgd")
        for updates in ("full", "partial")
        for k in range(1, ROUNDS + 1)
        for client in (0, 1)
        for step in range(1, STEPS + 1)
    ]
    assert [row["group"] for row in rows[:: 2 * STEPS]] == [0, 1, 1, 2, 2] * 4
    full, partial = rows[:30], rows[30:60]
    warm = 2 * STEPS  # the same until an update is partial
    key = {"updates": "full"}
    assert full[:warm] == [row | key for row in partial[:warm]]
    assert full[warm:] != [row | key for row in partial[warm:]]


@pytest.mark.parametrize("there", [17, 30, 44, 120])
def test_it_goes_on_where_it_was_stopped(there: int) -> None:
    rows = measured()
    assert rows[:there] + list(recipe.layer_mismatch(rows[:there], **SMALL)) == rows


def made(client: int, updates: str, *courses: list[float]) -> list[dict[str, Any]]:
    """Rounds of two steps: round 1 of all, 2 and 3 of group 1, 4 of group 2; gradients 1 and 2, steps of group 1."""
    rows = []
    for k, (turn, course) in enumerate(zip((0, 1, 1, 2), courses, strict=True), 1):
        for step, value in enumerate(course, 1):
            own = {"gradient_1": value, "gradient_2": 10 * value * step, "step_1": value**2, "step_2": 1.0}
            both = {"gradient_all": value * k, "step_all": 1.0}
            key = {"optimizer": "sgd", "updates": updates, "client": client}
            rows.append(key | {"round": k, "group": turn, "step": step} | own | both)
    return rows


def test_the_ratios_by_hand() -> None:
    rows = [
        *made(0, "full", [9.0, 9.0], [1.0, 2.0], [6.0, 3.0], [6.0, 1.0]),
        *made(1, "full", [9.0, 9.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0]),
        *made(0, "partial", [9.0, 9.0], [1.0, 2.0], [2.0, 1.0], [4.0, 2.0]),
    ]
    summary = {(row["norm"], row["s"]): row for row in recipe.table(rows)}
    assert list(summary) == [(norm, s) for norm in ("gradient", "group's gradient", "group's step") for s in (1, 2)]
    # group 1 around the ends of rounds 2 and 3: 6 / 2 and 6 / 3; 2 / 1 and 3 / 1; s = 2: 9 / 3, 7 / 9; 3 / 2, 4 / 3
    group = summary["group's gradient", 1]
    assert (group["full"], group["dev full"]) == (pytest.approx(2.5), pytest.approx(0.0))
    assert group["partial"] == pytest.approx((1 + 4) / 2) and math.isnan(group["dev partial"])
    group = summary["group's gradient", 2]
    each = [(3 + 7 / 9) / 2, (3 / 2 + 4 / 3) / 2]
    assert group["full"] == pytest.approx(np.mean(each))
    assert group["dev full"] == pytest.approx(abs(each[0] - each[1]) / math.sqrt(2))
    # steps only where group 1 is trained on both sides: 36 / 4 and 4 / 1
    group = summary["group's step", 1]
    assert (group["full"], group["dev full"]) == (pytest.approx(6.5), pytest.approx(5 / math.sqrt(2)))
    # of all parameters: (18 / 4 + 24 / 9) / 2 and (6 / 2 + 12 / 3) / 2
    assert summary["gradient", 1]["full"] == pytest.approx(((4.5 + 24 / 9) / 2 + 3.5) / 2)
    assert summary["gradient", 1]["optimizer"] == "sgd"


def test_what_cannot_be_told_is_not_in_the_table() -> None:
    """One round a group: no group is trained on both sides of an averaging. A norm of zero before it has no ratio."""
    rows = list(recipe.layer_mismatch(**{**SMALL, "rounds_per_group": 1, "optimizers": ("sgd",)}))
    assert {row["norm"] for row in recipe.table(rows)} == {"gradient", "group's gradient"}
    dead = made(0, "full", [9.0, 9.0], [1.0, 0.0], [6.0, 3.0], [6.0, 1.0])
    first, second, *_ = recipe.table(dead)
    assert math.isnan(first["full"])
    assert second["full"] == pytest.approx((27 / 2 + 28 / 27) / 2)


def test_the_figure_shows_both_updates_and_marks_averagings() -> None:
    rows = measured()
    drawn = recipe.figure(rows)
    assert len(drawn.axes) == 6
    gradient, step, ratio = drawn.axes[3:]
    assert gradient.get_title() == "Gradient: SGD"
    by_hand = [
        np.mean([row["step_2" if k > 3 else "step_1" if k > 1 else "step_all"] for row in own])
        for k in range(1, ROUNDS + 1)
        for number in range(1, STEPS + 1)
        for own in [
            [
                row
                for row in rows
                if (row["optimizer"], row["updates"], row["round"], row["step"]) == ("sgd", "partial", k, number)
            ]
        ]
    ]
    full, partial, *marks = step.lines
    assert list(partial.get_ydata()) == pytest.approx(by_hand)
    assert len(full.get_ydata()) == STEPS * ROUNDS
    assert [line.get_xdata()[0] for line in marks] == [STEPS * k - 0.5 for k in range(1, ROUNDS)]  # type: ignore[index]
    assert len(ratio.containers) == 6
    alone = [row for row in rows if row["client"] == 0 and row["updates"] == "full" and row["optimizer"] == "sgd"]
    assert len(recipe.figure(alone).axes) == 3


POSITIVE = "^`rounds_per_group` and `cycles` must be positive and `warm_up` not negative; got "


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds_per_group": 0}, POSITIVE + "0, 1 and 1. Give such whole numbers.$"),
        ({"cycles": 0}, POSITIVE + "2, 0 and 1"),
        ({"warm_up": -1}, POSITIVE + "2, 1 and -1"),
        ({"optimizers": ("adan",)}, "^`adan` must be an optimizer here; got an unknown name. Did you mean 'adam'?"),
        ({"optimizers": ()}, "^`optimizers` must be at least one, `lr` and `sgd_lr` positive and finite; got 0, 0.001"),
        ({"lr": 0.0}, "positive and finite; got 2, 0.0 and 0.1"),
        ({"sgd_lr": math.inf}, "positive and finite; got 2, 0.001 and inf"),
        ({"epochs": 0}, "^`epochs` must be at least 1; got 0"),
        ({"batch": 0}, "^`batch` must be at least 1; got 0"),
        ({"clients": 0}, "^`nodes` must be at least 1; got 0"),
        ({"rows": 2000}, "^`size` must be from 1 to the number of training rows, 1437; got 2000"),
        ({"model": "lennet"}, "lennet"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(recipe.layer_mismatch(**SMALL | wrong))
