"""Plan: another process can propose what the package has, by name, and nothing that runs a file or reads one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedtangent import cli
from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.parsers import WITHOUT
from fedtangent.sites.plan import Plan, check_quorum, plan, settings

ASKED = experiment("ntkdfl", times=(2, 9), lr=0.3, degree=2, rounds=4, dtype="float64", hidden=(6,), seed=3)
TOLD = Plan("0" * 32, None, False, 60.0, False, False, 1.0, (), -1, None, settings(ASKED))._asdict()


def test_a_plan_that_was_sent_is_the_experiment_that_was_asked_for() -> None:
    found = plan(json.loads(json.dumps(TOLD)))
    again = Experiment(**found.settings)
    assert settings(again) == settings(ASKED)
    assert again.resolved("method")["times"] == (2, 9)
    assert (again.rounds, again.dtype, again.seed) == (4, "float64", 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "/tmp/mine.py"}, "`method` must be one of"),
        ({"method": "./mine.py"}, "`method` must be one of"),
        ({"method": ["fedavg"]}, "`method` must be one of"),
        ({"model": "mine.py"}, "`model` must be one of"),
        ({"channel": "topk,./mine.py"}, "`channel` must be one of"),
        ({"topology": "mine.py"}, "`topology` must be one of"),
        ({"augment": "mine.py"}, "`augment` must be one of"),
        ({"host": "mine.py"}, "`host` must be one of"),
        ({"loss": "mine"}, "`loss` must be one of"),
        ({"dataset": "npz"}, "`plan` must hold settings that a federation has; got dataset."),
        ({"data_dir": "/etc"}, "`plan` must hold settings that a federation has; got data_dir."),
        ({"partition": "iid"}, "`plan` must hold settings that a federation has; got partition."),
        ({"attack": "nan"}, "`plan` must hold settings that a federation has; got attack. Drop them."),
        ({"rule": "mine.py"}, "`rule` must be one of"),
        ({"fault": "dropout"}, "`plan` must hold settings that a federation has; got fault. Drop them."),
        ({"nothing": 1}, "`plan` must hold settings that a federation has; got nothing."),
        ({"options": [[[[[[[[1]]]]]]]]}, "`options` must be plain in a plan; got list."),
    ],
)
def test_a_plan_that_names_something_else(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        plan({**TOLD, "settings": {**TOLD["settings"], **change}})
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    "change",
    [
        {"run": "../x"},
        {"record": "../../x"},
        {"run": 3},
        {"patience": 0},
        {"resume": "yes"},
        {"standardise": 2},
        {"quorum": 0},
        {"quorum": 1.1},
        {"present": [1]},
        {"over": "1"},
        {"profiles": []},
        {"secure_sums": None},
        {"more": 1},
    ],
)
def test_a_plan_of_another_form(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`plan` must be one of this version; got another"):
        plan({**TOLD, **change})
    with pytest.raises(ValueError, match="`plan` must be one of this version; got another"):
        plan(None)


def test_no_site_plays_a_liar() -> None:
    with pytest.raises(ValueError, match=r"^`attack` must be left out of a real federation, whose sites do not play"):
        settings(experiment("dfedavg", attack="nan"))


def test_what_a_simulation_alone_has_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in WITHOUT:
        word = f"--{name.replace('_', '-')}"
        for words in ([word, "1"], [f"{word}=1"]):
            assert cli.main(["server", "kits/none", "fedavg", *words]) == 2
            assert f"`{name}` must be left out of a real federation, wh" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^`class_weights` must be left out of a real federation, whose sites do not"):
        settings(experiment("fedavg", class_weights="balanced"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.6, 3, True, False), "`quorum` must keep at least 3 sites in a round under secure sums; got 0.6 of 3, wh"),
        ((0.4, 5, False, True), "`quorum` must keep at least 3 sites in a round under the method's guard; got 0.4 of"),
        ((1.0, 2, True, False), "`secure_sums` must have at least 3 sites in a sum; got 2. Add sites, or drop it."),
        ((1.0, 2, False, True), "`guard` must have at least 3 sites in a sum; got 2. Add sites, or drop it."),
    ],
)
def test_a_quorum_that_no_sum_can_have_is_refused(given: tuple[float, int, bool, bool], told: str) -> None:
    with pytest.raises(ValueError) as error:
        check_quorum(*given)
    assert str(error.value).startswith(told)


def test_a_quorum_that_sums_can_have() -> None:
    for fine in ((0.6, 5, True, True), (0.1, 40, True, True), (0.1, 5, False, False), (1.0, 3, True, True)):
        check_quorum(*fine)


def test_a_rule_and_masks_go_together_only_where_groups_are_masked() -> None:
    asked = settings(experiment("fedavg", rule="median"))
    plan({**TOLD, "settings": asked})
    with pytest.raises(ValueError, match=r"^`secure_sums` must be off under a rule, which sees the single messages"):
        plan({**TOLD, "settings": asked, "secure_sums": True})
    grouped = settings(experiment("fedavg", rule="median", groups=3))
    assert plan({**TOLD, "settings": grouped, "secure_sums": True}).settings["rule_options"]["groups"] == 3
    for groups in (2, "3", None):
        with pytest.raises(ValueError, match=r"^`secure_sums` must be off under a rule"):
            plan({**TOLD, "settings": {**asked, "rule_options": {"groups": groups}}, "secure_sums": True})
