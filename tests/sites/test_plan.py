"""Plan: another process can propose what the package has, by name, and nothing that runs a file or reads one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.sites.plan import Plan, plan, settings

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
