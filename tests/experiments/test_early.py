"""Rows kept back, and runs that end by them: the model is the best round's, after a kill and on ranks too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import catalog, cli
from fedtangent.experiments import early, model_file
from fedtangent.experiments import run as run_
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.parser import useless
from tests import tiny_federation as federation
from tests.experiments.tiny import ROWS, saved, timeless, tiny
from tests.often import often

# At this rate the loss on the rows kept back is the least in an early round, and rises.
GIVEN: dict[str, Any] = {"validation": 0.3, "lr": 2.5, "participation": 1.0, "batch": 3, "epochs": 3, "rounds": 9}


def test_rows_are_kept_back_once_and_trained_on_by_nobody() -> None:
    built, whole = setup(tiny("fedavg", **GIVEN)), setup(tiny("fedavg", rounds=9))
    assert built.held is not None
    assert [len(held.real) for held in built.held] == [round(0.3 * rows) for rows in ROWS]
    for own, held, both in zip(built.data, built.held, whole.data, strict=True):
        rows = torch.cat([own.x, held.x])
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, both.x.tolist()))
    again = setup(tiny("fedavg", **GIVEN))
    assert again.held is not None
    assert all(torch.equal(one.x, other.x) for one, other in zip(built.held, again.held, strict=True))
    assert built.fingerprint == again.fingerprint != whole.fingerprint


@pytest.mark.parametrize("method", ["fedavg", "dfedavg", "ntkfl", "fedkfac"])
def test_the_loss_is_that_of_the_aggregated_model(method: str) -> None:
    given = {"guard": False} if method == "fedkfac" else {}
    built = setup(tiny(method, validation=0.3, **given))
    found = run(built)
    assert built.held is not None
    x, y = (torch.cat([getattr(held, name) for held in built.held]) for name in ("x", "y"))
    with torch.no_grad():
        f = found.model(x)
    assert found.rounds[-1][early.LOSS] == pytest.approx(float(torch.nn.functional.cross_entropy(f, y)), rel=1e-5)
    assert found.rounds[-1][early.ACCURACY] == pytest.approx(float((f.argmax(1) == y).double().mean()))


def test_a_regression_has_a_loss_alone() -> None:
    from tests.experiments.tiny import data

    found = run(tiny("fedavg", dataset=data(0), validation=0.3)).rounds[0]
    assert early.LOSS in found and early.ACCURACY not in found


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_a_run_ends_by_the_literal_rule_with_the_best_rounds_model(engine: str, tmp_path: Path) -> None:
    whole = run(tiny("fedavg", **GIVEN, engine=engine))
    losses = [entry[early.LOSS] for entry in whole.rounds]
    best, waited, last = np.inf, 0, 0
    for k, loss in enumerate(losses, 1):
        best, waited, last = (loss, 0, k) if loss < best else (best, waited + 1, last)
        if waited == 2:
            break
    assert 1 <= last < k < 9, losses
    found = run(tiny("fedavg", **GIVEN, early_stop=2, engine=engine), tmp_path / "run")
    assert timeless(found.rounds) == timeless(whole.rounds)[:k]
    short = run(tiny("fedavg", **(GIVEN | {"rounds": last}), engine=engine))
    federation.assert_same(found.weights, short.weights)
    from fedtangent.experiments import model_file

    there = model_file.load(tmp_path / "run").state_dict()
    federation.assert_same(there, short.model.state_dict())


def test_a_run_that_was_stopped_in_between_goes_on_to_the_same(tmp_path: Path) -> None:
    expected = run(tiny("fedavg", **GIVEN, early_stop=2))
    ended = len(expected.rounds)
    for cut in range(1, ended + 1):
        out = tmp_path / f"run {cut}"
        seen: list[int] = []

        def stop(entry: dict[str, Any], seen: list[int] = seen, cut: int = cut) -> None:
            seen.append(entry["round"])
            if len(seen) == cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tiny("fedavg", **GIVEN, early_stop=2), out, on_round=stop)
        found = run(tiny("fedavg", **GIVEN, early_stop=2), out, resume=True)
        assert timeless(found.rounds) == timeless(expected.rounds)
        federation.assert_same(found.weights, expected.weights)
        longer = run(tiny("fedavg", **(GIVEN | {"rounds": 20}), early_stop=2), out, resume=True)
        assert len(longer.rounds) == ended  # it has ended, and more rounds do not change that


STEPS = {
    "lr_schedule": "step",
    "lr_every": 2,
    "lr_gamma": 0.5,
    "lr_warm_up": 1,
    "clip": 1.0,
    "local_weight_decay": 0.01,
}


@pytest.mark.few(2)
@pytest.mark.parametrize("method", often(catalog.names("methods"), ["fedavg", "dfedkfac", "fedpart", "tct"]))
def test_every_method_goes_on_to_the_same(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best round, 2, is neither the first nor the last, 4, so that its model comes from the folder."""
    losses = {1: 0.9, 2: 0.4, 3: 0.5, 4: 0.4, 5: 0.1}
    monkeypatch.setattr(run_, "validated", lambda built, fleet, weights: {early.LOSS: losses[fleet.round]})
    given: dict[str, Any] = {"validation": 0.3, "early_stop": 2, "rounds": 5, "evaluate_nodes_every": 0}
    given |= {} if "clip" in useless(method) else STEPS
    own = {"tct": [{"first_rounds": 1}, {"first_rounds": 2}], "fedkfac": [{"guard": False}]}
    for number, one in enumerate(own.get(method, [{}])):
        goes_on(tiny(method, **given, **one), tmp_path / str(number))


def goes_on(asked: Experiment, folder: Path) -> None:
    """A run that is stopped before its best round, after it or at its end, and resumed, is the one that was not."""
    expected = run(asked, folder / "whole")
    assert len(expected.rounds) == 4
    for cut in (1, 3, 4):
        out = folder / f"run {cut}"

        def stop(entry: dict[str, Any], cut: int = cut) -> None:
            if entry["round"] == cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(asked, out, on_round=stop)
        found = run(asked, out, resume=True)
        assert timeless(found.rounds) == timeless(expected.rounds)
        federation.assert_same(found.weights, expected.weights)
        federation.assert_same(*(model_file.load(one).state_dict() for one in (out, folder / "whole")))


@pytest.mark.usefixtures("forked_ranks")
def test_ranks_end_alike(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["run", "fedavg", "--dataset", "npz", "--data-dir", saved(tmp_path / "t.npz"), "--nodes", "4", "--lr", "4"]
    words += ["--rounds", "9", "--validation", "0.4", "--early-stop", "1", "--partition", "iid"]
    for ranks in ("1", "2"):
        out = [*words, "--engine", "sequential", "--ranks", ranks, "--out", str(tmp_path / ranks)]
        assert cli.main(out) == 0
        assert cli.main([*out, "--resume"]) == 0
    one, two = (
        [json.loads(line) for line in (tmp_path / ranks / "rounds.jsonl").read_text().splitlines()]
        for ranks in ("1", "2")
    )
    assert timeless(one) == timeless(two) and len(one) < 9
    best = 1 + int(np.argmin([entry[early.LOSS] for entry in one]))
    told = f"fedavg, seed 0: ended early, after round {len(one)}; its model is that of round {best}."
    assert capfd.readouterr().out.count(told) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 1.0}, r"^`validation` must be from 0 to below 1; got 1.0"),
        ({"validation": -0.1}, r"^`validation` must be from 0 to below 1; got -0.1"),
        ({"validation": 0.001}, r"^`validation` must leave a client a row to keep back; got 0.001 of at most 9 rows"),
        ({"validation": "a tenth"}, r"^`validation` must be a number; got 'a tenth'"),
        ({"early_stop": 2.5, "validation": 0.3}, r"^`early_stop` must be an integer; got 2.5"),
        ({"early_stop": 3}, r"^`early_stop` must have rows to go by; got 3 without validation. Add --validation 0.1"),
        ({"early_stop": 0, "validation": 0.3}, r"^`early_stop` must be at least 1; got 0"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        setup(tiny("fedavg", **settings))


def test_losses_that_are_not_finite_are_no_best() -> None:
    rounds = [{early.LOSS: loss} for loss in (None, 0.7, 0.5, 0.5, None)]
    assert early.best(rounds) == 3 and early.best(rounds[:1]) == 1
    assert early.ends(rounds, 2) and not early.ends(rounds, 3) and not early.ends(rounds, None)
