"""The settings of local steps: for every method that takes such, refused by all others, recorded, and typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedtangent import catalog, cli
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.parser import useless
from tests import tiny_federation as federation
from tests.experiments.tiny import tiny
from tests.often import METHODS, often

STEPPING = [name for name in catalog.names("methods") if "clip" not in useless(name)]
EACH: list[dict[str, Any]] = [
    {"lr_schedule": "step", "lr_every": 1, "lr_gamma": 0.3},
    {"lr_warm_up": 1},
    {"clip": 0.05},
    {"local_weight_decay": 0.2},
    {"amp": "bfloat16"},
]


@pytest.mark.few(2)
@pytest.mark.parametrize("method", often(STEPPING, [*METHODS, "scaffold"]))
def test_each_changes_what_every_such_method_learns(method: str) -> None:
    assert {"fedavg", "scaffold", "fedpart", "dfedavg", "moon", "local"} <= {*STEPPING}
    rounds = {"fedpart": {"rounds": 3}, "tct": {"first_rounds": 2, "rounds": 3}}.get(method, {})
    plain = run(tiny(method, **rounds)).weights
    for settings in EACH[method == "fedfisher" :]:  # which steps in round 1 alone
        found = run(tiny(method, **rounds, **settings)).weights
        far = max(float((found[name] - w).abs().max()) for name, w in plain.items())
        assert 1e-5 < far < 10, (settings, far)


@pytest.mark.parametrize("method", sorted({*catalog.names("methods")} - {*STEPPING}))
def test_a_method_without_such_steps_refuses_each(method: str) -> None:
    for settings in EACH:
        name = next(iter(settings))
        with pytest.raises(
            ValueError, match=rf"^`{name}` must be left out for {method}, which takes no steps on batches"
        ):
            setup(tiny(method, **settings))


def test_what_is_usual_is_not_on_the_record() -> None:
    assert not {"lr_schedule", "clip", "amp", "lr_rounds"} & set(setup(tiny("fedavg")).description)
    told = setup(tiny("fedavg", lr_schedule="cosine", clip=2.0)).description
    assert {name: told[name] for name in ("lr_schedule", "lr_rounds", "lr_least", "clip")} == {
        "lr_schedule": "cosine", "lr_rounds": 2, "lr_least": 0.0, "clip": 2.0}  # fmt: skip
    assert "lr_every" not in told


def test_a_run_that_is_extended_keeps_the_length_of_its_cosine(tmp_path: Path) -> None:
    run(tiny("fedavg", lr_schedule="cosine"), tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"^`out` must not hold another experiment; got .*, whose lr_rounds is 2 and not 3"
    ):
        run(tiny("fedavg", lr_schedule="cosine", rounds=3), tmp_path / "run", resume=True)
    found = run(tiny("fedavg", lr_schedule="cosine", lr_rounds=2, rounds=3), tmp_path / "run", resume=True)
    federation.assert_close(found.weights, run(tiny("fedavg", lr_schedule="cosine", lr_rounds=2, rounds=3)).weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_schedule": "linear"}, r"^`lr_schedule` must be one of constant, cosine, step; got 'linear'"),
        ({"lr_warm_up": 2}, r"^`lr_warm_up` must be from 0 to below the rounds, 2; got 2"),
        ({"lr_warm_up": 0.5}, r"^`lr_warm_up` must be an integer; got 0.5"),
        (
            {"lr_gamma": 0.5},
            r"^`lr_gamma` must be left out with the schedule constant; got 0.5. Drop it, or give --lr-sch",
        ),
        ({"lr_schedule": "step", "lr_least": 0.5}, r"^`lr_least` must be left out with the schedule step; got 0.5"),
        ({"lr_schedule": "step", "lr_gamma": 0}, r"^`lr_gamma` must be from 0 to 1; got 0"),
        ({"lr_schedule": "step", "lr_every": 0}, r"^`lr_every` must be at least 1; got 0"),
        ({"lr_schedule": "cosine", "lr_least": 2}, r"^`lr_least` must be from 0 to 1; got 2"),
        ({"lr_schedule": "cosine", "lr_rounds": 0}, r"^`lr_rounds` must be at least 1; got 0"),
        (
            {"lr_schedule": "cosine", "lr_rounds": 1, "lr_warm_up": 1},
            r"^`lr_rounds` must be above `lr_warm_up`, 1; got 1",
        ),
        ({"clip": 0.0}, r"^`clip` must be positive and finite; got 0.0"),
        ({"local_weight_decay": None}, r"^`local_weight_decay` must be a number; got None"),
        ({"clip": "1"}, r"^`clip` must be a number; got '1'"),
        ({"local_weight_decay": -0.1}, r"^`local_weight_decay` must not be negative, and finite; got -0.1"),
        ({"amp": "half"}, r"^`amp` must be one of bfloat16, float16; got 'half'"),
        ({"amp": "float16"}, r"^`amp` must be bfloat16, or left out, on a CPU; got float16"),
        (
            {"amp": "bfloat16", "dtype": "float64"},
            r"^`dtype` must be float32 with amp, which casts from it; got float64",
        ),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        setup(tiny("fedavg", **settings))


def test_any_number_of_rounds_takes_no_time() -> None:
    assert setup(tiny("fedavg", lr_schedule="cosine", rounds=2**62)).task.steps.rates is not None


def test_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "run",
        "fedavg",
        "--rounds",
        "2",
        "--nodes",
        "3",
        "--lr-schedule",
        "step",
        "--lr-every",
        "1",
        "--clip",
        "1",
    ]
    assert cli.main([*words, "--local-weight-decay", "1e-4", "--out", str(tmp_path / "run")]) == 0
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())["experiment"]
    assert (told["lr_schedule"], told["lr_every"], told["lr_gamma"], told["clip"]) == ("step", 1, 0.1, 1.0)
    assert cli.main([*words, "--config", str(tmp_path / "run" / "manifest.json")]) == 0
    capsys.readouterr()
    assert cli.main(["run", "fedavg", "--weight-decay", "0.1"]) == 2
    assert "Did you mean 'local_weight_decay'?" in capsys.readouterr().err


def test_help_offers_them_where_they_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for method, there in (("fedavg", True), ("fedpart", True), ("ntkfl", False), ("afl", False)):
        with pytest.raises(SystemExit):
            cli.main(["run", method, "--help"])
        assert ("--lr-schedule" in capsys.readouterr().out) == there, method
