"""flwr-datasets' own partitioners: the same rows as when they are called directly, and arguments that are wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import cli
from fedtangent.partitions.flwr import flwr
from fedtangent.shard import Partition

datasets = pytest.importorskip("datasets", reason="needs fedtangent[flwr]")
theirs = pytest.importorskip("flwr_datasets.partitioner", reason="needs fedtangent[flwr]")

X, Y, SITE = torch.randn(97, 3), torch.arange(97) ** 2 % 5, torch.arange(97) % 4 + 3


def dealt(name: str, arguments: Any = "", nodes: int | None = None, y: torch.Tensor = Y, site: Any = SITE) -> Partition:
    return flwr(X, y, nodes, np.random.default_rng(1), site, partitioner=name, arguments=arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "nodes"),
    [
        ("DirichletPartitioner", "alpha=0.3, min_partition_size=2, seed=7", 5),
        ("IidPartitioner", "", 6),
        ("LinearPartitioner", "", 4),
        ("NaturalIdPartitioner", "", None),
        (
            "PathologicalPartitioner",
            "num_classes_per_partition=2, class_assignment_mode='first-deterministic', seed=7",
            5,
        ),
        ("ShardPartitioner", "num_shards_per_partition=2, seed=7", 5),
        ("SizePartitioner", "partition_sizes=[3, 4, 90]", 3),
        ("InnerDirichletPartitioner", "partition_sizes=[20, 30], alpha=0.5, seed=7", None),
    ],
)
@pytest.mark.filterwarnings("ignore:Specifying null_placement", "ignore:The sum of the partition_sizes")
def test_the_rows_are_those_of_the_partitioner_itself(name: str, arguments: str, nodes: int | None) -> None:
    given = dict(num_partitions=nodes, **eval(f"dict({arguments})"))
    if "Size" in name or "Inner" in name or "Natural" in name:
        given.pop("num_partitions")
    if not {"alpha", "num_classes_per_partition", "num_shards_per_partition"}.isdisjoint(given):
        given["partition_by"] = "label"
    if "Natural" in name:
        given["partition_by"] = "who"
    own = getattr(theirs, name)(**given)
    own.dataset = datasets.Dataset.from_dict({"at": list(range(97)), "label": Y.tolist(), "who": SITE.tolist()})
    expected = [own.load_partition(node)["at"][:] for node in range(own.num_partitions)]
    assert [rows.tolist() for rows in dealt(name, arguments, nodes).index] == [list(rows) for rows in expected]


def test_targets_are_cut_by_size() -> None:
    y = torch.randn(97, 1)
    found = dealt("ContinuousPartitioner", {"strictness": 1.0}, 3, y)
    means = [float(y[rows].mean()) for rows in found.index]
    assert means == sorted(means) and means[2] - means[0] > 1


WRONG = [
    ("Dirichlet", "", 4, r"^`partitioner` must be one of ContinuousPartitioner, Dir.*; got 'Dirichlet'. Choose one"),
    ("VerticalEvenPartitioner", "", 4, r"^`partitioner` must be one of "),  # which deals out columns
    ("IidPartitioner", "", None, r"^`nodes` must be given for IidPartitioner, which makes as many as it is told"),
    ("IidPartitioner", "beta=1", 4, r"^`arguments` must be those of IidPartitioner, num_partitions; got 'beta'"),
    ("IidPartitioner", "3", 4, r"^`arguments` must be plain values by name; got '3'. Write them as in \"alpha=0"),
    ("IidPartitioner", "a=exit()", 4, r"^`arguments` must be plain values by name"),
    ("IidPartitioner", "a=", 4, r"^`arguments` must be plain values by name"),
    (
        "DirichletPartitioner",
        "",
        4,
        r"^`partitioner` must be able to deal out these rows; got from Dirichlet.*TypeError",
    ),
    ("DirichletPartitioner", "alpha=-1", 4, r"^`partitioner` must be able to deal out these rows; got .*Value"),
    (
        "SizePartitioner",
        "partition_sizes=[5, 92]",
        3,
        r"^`nodes` must be the number that SizePartitioner makes, 2; got 3",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "nodes", "message"), WRONG)
def test_what_is_wrong_is_told_in_a_sentence(name: str, arguments: str, nodes: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dealt(name, arguments, nodes)


def test_natural_ids_need_sites() -> None:
    with pytest.raises(ValueError, match=r"^`partitioner` must be able to deal out these rows; got from NaturalId"):
        dealt("NaturalIdPartitioner", site=None)


def test_without_flwr_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flwr_datasets", "flwr_datasets.partitioner"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(
        ValueError, match=r"^`flwr_datasets` must be installed for the partition flwr; got none. Use pip"
    ):
        dealt("IidPartitioner", nodes=2)


def test_from_the_command_line(tmp_path: Path) -> None:
    words = [
        "run",
        "fedavg",
        "--partition",
        "flwr",
        "--partitioner",
        "DirichletPartitioner",
        "--rounds",
        "1",
        "--nodes",
        "4",
    ]
    assert cli.main([*words, "--arguments", "alpha=0.5", "--out", str(tmp_path / "run")]) == 0
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert told["experiment"]["partition_options"] == {"partitioner": "DirichletPartitioner", "arguments": "alpha=0.5"}
    assert len(told["rows"]) == 4 and sum(told["rows"]) == 1437
