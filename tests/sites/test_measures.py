"""Metrics between sites: each is computed where the rows are, to the record of one process."""

from pathlib import Path

import pytest

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup
from fedtangent.experiments.share import Share
from fedtangent.sites.plan import checked, settings
from tests.experiments import tiny
from tests.sites import processes
from tests.sites.test_federation import SERVED, expected, words


@pytest.mark.parametrize("method", ["fedavg", "dfedavg"])
def test_the_record_is_that_of_one_process(method: str, tmp_path: Path) -> None:
    served, change = method in SERVED, {"metric": "f1,auc", "evaluate_on": "own"}
    processes.files(tmp_path)
    processes.kits(tmp_path, served)
    found = processes.run(tmp_path, [*words(method, **change), "--out", tmp_path / "run"], served)
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    rounds = processes.rounds(tmp_path / "run")
    assert rounds == expected(method, **change)
    assert all(len(entry["measures"]["auc"]["own"]["nodes"]) == 5 for entry in rounds)


def test_a_plan_names_metrics_of_the_package_alone() -> None:
    assert settings(experiment("fedavg", metric="f1,auc"))["metric"] == "f1,auc"
    for given in ("f1,./mine.py", ["f1", "./mine.py"]):
        with pytest.raises(
            SettingError, match=r"^`metric` must be one of auc, f1 in a plan, which all sites have; got"
        ):
            checked({"metric": given})


def test_test_rows_stay_at_their_site() -> None:
    share = Share(0, (7, 3), (4, 2), ("a", "b"))
    with pytest.raises(SettingError, match=r"^`evaluate_on` must be own between sites, whose test rows stay there;"):
        setup(tiny.tiny("fedavg", evaluate_on="all"), share=share)
