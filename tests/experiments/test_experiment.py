"""An experiment in words: flat settings find their part, and what cannot be is refused before anything is loaded."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtangent.catalog import load, names
from fedtangent.experiments.experiment import Experiment, choices, experiment, factory
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.fedavg import fedavg
from fedtangent.shard import Partition
from tests.experiments.tiny import data, network, partition, settings, tiny


def two(task: Any, *, lr: float = 0.1, alpha: float = 3.0) -> Any:
    """Shares the name of an option with the Dirichlet partition."""


def test_a_flat_setting_finds_its_part() -> None:
    found = experiment("dfedavg", lr=0.2, alpha=0.5, degree=3, hidden=(7,), seed=4, nodes=8)
    assert found.options == {"lr": 0.2}
    assert found.partition_options == {"alpha": 0.5}
    assert found.topology_options == {"degree": 3}
    assert found.model_options == {"hidden": (7,)}
    assert (found.seed, found.size) == (4, 8)
    assert found.resolved("method")["epochs"] == 20


def test_a_full_name_and_a_mapping_work_too() -> None:
    found = experiment(two, **{"method.alpha": 1.0, "partition.alpha": 2.0, "options": {"lr": 0.3}})
    assert found.options == {"lr": 0.3, "alpha": 1.0}
    assert found.partition_options == {"alpha": 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrr": 1}, r"^`lrr` must be a setting or an option of a chosen part; .*Did you mean 'lr'\?$"),
        ({"options": {"lrr": 1}}, r"^`lrr` must be an option of method dfedavg; .*Did you mean 'lr'\?$"),
        ({"rounds": 0}, r"^`rounds` must be at least 1; got 0. Give such a whole number.$"),
        ({"seed": -1}, r"^`seed` must be at least 0; got -1"),
        ({"seed": 2**63}, r"^`seed` must be below 2\*\*63; got 9223372036854775808"),
        ({"nodes": 0}, r"^`nodes` must be at least 1; got 0"),
        ({"memory": -5}, r"^`memory` must be at least 0; got -5"),
        ({"evaluate_nodes_every": -1}, r"^`evaluate_nodes_every` must be at least 0; got -1"),
        ({"dtype": "float16"}, r"^`dtype` must be one of float32, float64; got 'float16'. Choose one.$"),
        ({"gossip_weights": "max"}, r"^`gossip_weights` must be one of uniform, metropolis; got 'max'. Choose one.$"),
        ({"data_dir": "x"}, r"^`data_dir` must be left out when a Dataset is given; got 'x'. Drop it.$"),
        (
            {"model": network(), "model_options": {"hidden": (3,)}},
            r"^`model_options` must be left out when the model is",
        ),
        ({"method": "dfedavgg"}, r"^`method` must be one of afl, central, .*got 'dfedavgg'. Did you mean 'dfedavg'\?"),
        ({"dataset": "digit"}, r"^`dataset` must be one of agnews, .*got 'digit'. Did you mean 'digits'\?"),
        ({"topology": "rings"}, r"^`topology` must be one of clusters, .*got 'rings'. Did you mean 'ring'\?"),
    ],
)
def test_values_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**settings(**change))


@pytest.mark.parametrize(("name", "value"), [("rounds", 2.0), ("seed", True), ("nodes", "3")])
def test_counts_are_integers(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^`{name}` must be an integer; got {value!r}. Give a whole number.$"):
        tiny(**{name: value})


def test_counts_may_be_integers_of_numpy() -> None:
    found = tiny(rounds=np.int64(2), seed=np.uint8(3))
    assert (found.rounds, found.seed) == (2, 3)
    assert type(found.rounds) is type(found.seed) is int


def test_a_part_of_no_kind() -> None:
    with pytest.raises(TypeError, match=r"^`model` must be a name or an object of its kind; got int. Give a name.$"):
        experiment("dfedavg", model=3)
    with pytest.raises(
        TypeError, match=r"^`dataset` .* got tuple. .* by fedtangent.datasets.torch_dataset\(train, test\).$"
    ):
        experiment("dfedavg", dataset=([], []))
    with pytest.raises(
        TypeError, match=r"^`partition` .* got list. Give a name, or Partition\(\[rows of node 0, ...\]\).$"
    ):
        experiment("dfedavg", partition=[[0], [1]])


def test_a_folder_of_data_is_a_path() -> None:
    with pytest.raises(TypeError, match=r"^`data_dir` must be a path; got dict\. Name the folder or file\.$"):
        experiment("dfedavg", dataset="npz", data_dir={"x": [1]})


@pytest.mark.parametrize("name", ["static", "deterministic"])
def test_what_is_true_or_false(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^`{name}` must be true or false; got 'no'. Give one of both.$"):
        tiny(**{name: "no"})


def test_a_name_that_two_parts_have() -> None:
    with pytest.raises(ValueError, match=r"^`alpha` must say .* alone. Write method.alpha or partition.alpha.$"):
        experiment(two, alpha=1.0)


def test_a_given_partition_fixes_the_number_of_nodes() -> None:
    assert tiny().size == 5
    assert tiny(nodes=5).size == 5
    with pytest.raises(ValueError, match=r"^`nodes` must be the partition's, 5; got 6. Drop it.$"):
        _ = tiny(nodes=6).size


@pytest.mark.parametrize(
    ("method", "name"),
    [("dfedavg", "dfedavg"), (dfedavg, "dfedavg"), (partial(dfedavg, lr=1.0), "dfedavg"), (Path("a/mine.py"), "mine")],
)
def test_the_methods_name(method: Any, name: str, tmp_path: Path) -> None:
    if isinstance(method, Path):
        method = tmp_path / method.name
        method.write_text("def mine(task, *, lr=0.1): ...\n")
    assert Experiment(method=method).name == name


def test_an_index_file_is_a_partition_with_nothing_to_choose(tmp_path: Path) -> None:
    path = tmp_path / "split.npz"
    np.savez(path, indices=np.arange(8), offsets=np.array([0, 3, 8]))
    assert not any(name.startswith("partition.") for name in choices("dfedavg", partition=str(path)))
    read = factory("partition", str(path))
    assert read is not None
    found = read(data().x_train, data().y_train, 2, np.random.default_rng(0))
    assert [list(rows) for rows in found.index] == [[0, 1, 2], [3, 4, 5, 6, 7]]


def test_objects_have_no_factory() -> None:
    for part, value in (("dataset", data()), ("model", network()), ("partition", partition())):
        assert factory(part, value) is None
    assert isinstance(partition(), Partition)


@pytest.mark.parametrize("method", names("methods"))
def test_every_methods_options_are_free(method: str) -> None:
    """None of them is hidden by a setting of the experiment's own name, or by that of a default part."""
    known = choices(method)
    for key in (key for key in known if key.startswith("method.")):
        assert len(known[key.removeprefix("method.")]) == 1


@pytest.mark.parametrize("host", [name for name in names("methods") if name != "fedpart"])
def test_no_option_of_a_host_is_one_of_the_method_around_it(host: str) -> None:
    """Nor any other's, so that each is found by its bare name."""
    known = choices("fedpart", host=host)
    own = [key for key in known if key.startswith(("method.", "host."))]
    assert {key.partition(".")[0] for key in own} == {"method", "host"}
    for key in own:
        assert len(known[key.partition(".")[2]]) == 1


def test_a_host_is_a_part_with_options_of_its_own() -> None:
    found = experiment("fedpart", host="fedprox", warm_up=3, **{"host.mu": 0.2}, epochs=4)
    assert found.hosted == "fedprox"
    assert (found.options, found.host_options) == ({"warm_up": 3}, {"mu": 0.2, "epochs": 4})
    assert (found.resolved("host")["mu"], found.resolved("host")["batch"]) == (0.2, 10)
    assert "host" not in found.resolved("method")
    assert experiment("fedpart", lr=0.3).hosted == "fedavg"
    assert experiment("fedpart", lr=0.3).host_options == {"lr": 0.3}
    assert experiment("fedpart", host=fedavg, lr=0.3).resolved("host")["lr"] == 0.3
    assert experiment("fedavg").hosted is None
    assert not any(name.startswith("host") for name in choices("fedavg"))


def test_a_host_that_is_bound_already_is_no_part() -> None:
    bound = partial(load("methods", "fedpart"), host=fedavg)
    assert experiment(bound).hosted is None
    with pytest.raises(ValueError, match=r"^`host` must be left out for fedpart, which takes none; got 'fedprox'"):
        experiment(bound, host="fedprox")


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("dfedavg", {"host": "fedprox"}, r"^`host` must be left out for dfedavg, which takes none; got 'fedprox'"),
        ("dfedavg", {"host": fedavg}, r"^`host` must be left out for dfedavg, which takes none; got 'fedavg'"),
        ("dfedavg", {"host_options": {"mu": 1}}, r"^`host_options` must be left out for dfedavg, which takes no"),
        ("dfedavg", {"host.mu": 1}, r"^`host.mu` must be a setting or an option of a chosen part; got an unk"),
        ("fedpart", {"host": "fedprocs"}, r"^`host` must be one of .*; got 'fedprocs'. Did you mean 'fedprox'\?$"),
        ("fedpart", {"host": "fedprox", "host.nu": 1}, r"^`host.nu` must be a setting or .*Did you mean 'host.mu'"),
        ("fedpart", {"host": 3}, r"^`host` must be a name or an object of its kind; got int. Give a name.$"),
    ],
)  # fmt: skip
def test_hosts_that_cannot_be(method: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        experiment(method, **change)
