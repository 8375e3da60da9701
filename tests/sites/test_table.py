"""A federation whose sites have tables: what the columns mean is agreed on beforehand, or nothing is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedtangent.datasets.table import table
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.share import joined, profile
from fedtangent.shard import Partition, at
from fedtangent.sites.session import own_data
from tests.datasets.test_table import rows_of, saved
from tests.experiments import tiny
from tests.sites import processes

pytest.importorskip("pyarrow", reason="needs fedtangent[table]")

NAMES = ("berlin", "paris")
# Ulm is a town that only one of them has; neither has "Rom".
FEATURES = {"number": {"missing": 0.25}, "town": ["Bonn", "Köln", 'a "b", c', "Rom", "Ulm"], "code": "number"}
COLUMNS = {"features": FEATURES, "classes": ["8", "9", "10", "11"]}
WORDS = {"rounds": 2, "dtype": "float64", "hidden": (4,), "batch": 7}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The options of every site's rows."""
    rows = rows_of(71)
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS))
    parts = [row for row in rows if row["town"] != "Ulm"][:31], rows[40:]
    return {
        name: {
            "data_dir": saved(tmp_path / f"{name}'s rows.csv", part),
            "label": "kind",
            "columns": tmp_path / "columns.json",
        }
        for name, part in zip(NAMES, parts, strict=True)
    }


def test_the_record_is_that_of_one_process(given: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder = processes.kits(tmp_path, True, NAMES)
    words = ["fedavg", "--rounds", 2, "--dtype", "float64", "--hidden", 4, "--batch", 7, "--out", tmp_path / "run"]
    found = {"server": processes.Process(["server", folder / "server", *words], tmp_path / "server.log")}
    for name in NAMES:
        data = [word for key, value in given[name].items() for word in (f"--{key.replace('_', '-')}", value)]
        typed = ["site", folder / name, "--dataset", "table", *data]
        found[name] = processes.Process(typed, tmp_path / f"{name}.log")
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    own = [table(**given[name]) for name in NAMES]
    whole, first = own[0], (len(own[0].y_train), len(own[0].y_test))
    for one in own[1:]:
        pairs = {
            part: (getattr(whole, part), getattr(one, part)) for part in ("x_train", "y_train", "x_test", "y_test")
        }
        whole = whole._replace(**{part: a.new_tensor([*a.tolist(), *b.tolist()]) for part, (a, b) in pairs.items()})
    index, test_index = ([list(range(cut)), list(range(cut, count))] for cut, count in zip(
        first, (len(whole.y_train), len(whole.y_test)), strict=True))  # fmt: skip
    asked = experiment(
        "fedavg", **WORDS, dataset=whole, partition=Partition(index, None, test_index), engine="sequential"
    )
    expected, got = tiny.timeless(run(asked).rounds), processes.rounds(tmp_path / "run")
    for one, other in zip(got, expected, strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-9)
        assert one == other
    assert at(whole.x_train, 0).shape == (8,)


def test_a_site_without_columns_is_refused(given: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"^`columns` must be given at a site, so that categories .* got none\. Agree"):
        own_data(
            {"dataset": "table", "dataset_options": {"label": "kind"}, "data_dir": str(given["paris"]["data_dir"])}
        )
    options = {name: value for name, value in given["paris"].items() if name != "data_dir"}
    with pytest.raises(
        ValueError, match=r"^`scale` must be left out at a site, which knows its own rows alone; got it"
    ):
        own_data({"dataset": "table", "dataset_options": {**options, "scale": True}})


def test_sites_with_other_columns_are_refused(given: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps(COLUMNS | {"classes": ["8", "9", "11", "10"]}))
    own = {name: table(**options) for name, options in given.items()}
    assert joined({name: profile(data, b"key") for name, data in own.items()})["classes"] == 4
    own["paris"] = table(**(given["paris"] | {"columns": tmp_path / "other.json"}))
    with pytest.raises(
        ValueError, match=r"^`schema` must be the same at every site; got \w+ at berlin and \w+ at paris"
    ):
        joined({name: profile(data, b"key") for name, data in own.items()})
