"""Every site its own node, from a data set's or an .npz file's own site numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedtangent import cli
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup
from fedtangent.partitions.natural import natural
from tests.experiments import tiny

SITE = torch.tensor([7, -2, 7, 40, -2, 7])
X = torch.zeros(6, 2)


@pytest.mark.parametrize("nodes", [3, None])
def test_nodes_are_the_sites_in_ascending_order(nodes: int | None) -> None:
    rng = np.random.default_rng(0)
    index = natural(X, X, nodes, rng, SITE).index
    assert [rows.tolist() for rows in index] == [[1, 4], [0, 2, 5], [3]]
    assert all(rows.dtype == np.int64 for rows in index)
    assert rng.random() == np.random.default_rng(0).random()


def test_one_sentence_names_what_is_wrong() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match=r"^`nodes` must be the number of the data set's sites, 3; got 4. Leave it out"
    ):
        natural(X, X, 4, rng, SITE)
    with pytest.raises(
        ValueError, match=r"^`dataset` must say which site each row comes from, in `site_train`, for th"
    ):
        natural(X, X, None, rng, None)


def test_an_experiment_takes_as_many_nodes_as_there_are_sites() -> None:
    data = tiny.data()
    site = torch.arange(len(data.x_train)) % 4
    built = setup(tiny.tiny("fedavg", dataset=data._replace(site_train=site), partition="natural"))
    assert [part.x.tolist() for part in built.data] == [data.x_train[site == k].tolist() for k in range(4)]
    assert (built.description["partition"], built.description["nodes"]) == ("natural", 4)
    with pytest.raises(ValueError, match=r"^`dataset` must say which site each row comes from"):
        setup(tiny.tiny("fedavg", partition="natural"))
    with pytest.raises(ValueError, match=r"^`nodes` must be the number of the data set's sites, 4; got 3"):
        setup(tiny.tiny("fedavg", dataset=data._replace(site_train=site), partition="natural", nodes=3))


def test_other_partitions_have_20_nodes_unless_told() -> None:
    assert experiment("fedavg", partition="iid").size == 20
    assert experiment("fedavg", partition=lambda x, y, nodes, rng: None).size == 20
    assert experiment("fedavg", partition="natural").size is None


def test_a_file_of_ones_own_from_the_command_line(tmp_path: Path) -> None:
    tiny.saved(tmp_path / "mine.npz")
    with np.load(tmp_path / "mine.npz") as stored:
        arrays = dict(stored)
    site = np.arange(len(arrays["x_train"])) % 3
    np.savez(tmp_path / "mine.npz", **arrays, site_train=site)
    words = ["run", "fedavg", "--dataset", "npz", "--data-dir", str(tmp_path / "mine.npz"), "--partition", "natural"]
    assert cli.main([*words, "--rounds", "1", "--model", "linear", "--out", str(tmp_path / "run")]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["rows"] == np.bincount(site).tolist()
