"""Metrics between sites: what a plan may name, and where they are measured."""

import pytest

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup
from fedtangent.experiments.share import Share
from fedtangent.sites.plan import checked, settings
from tests.experiments import tiny


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
