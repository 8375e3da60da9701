"""What words stand for is built and checked: one sentence for everything that cannot be."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.federation import Graph, Wire
from fedtangent.shard import Dataset, Partition
from fedtangent.transports.memory import memory
from tests.experiments.tiny import ROWS, data, network, partition, saved, settings, tiny


def replaced(name: str, row: int, value: float) -> Dataset:
    """The data with one value replaced."""
    found = data()
    array = getattr(found, name).clone()
    array.view(-1)[row] = value
    return found._replace(**{name: array})


def no_dataset(data_dir: object = None) -> int:
    return 3


def rough_partition(x: torch.Tensor, y: torch.Tensor, nodes: int, rng: np.random.Generator) -> Partition:
    x.div_(255)
    rng.shuffle(y.numpy())
    return Partition(np.array_split(np.arange(len(y)), nodes))


def no_partition(x: object, y: object, nodes: int, rng: object) -> int:
    return 3


def no_model(inputs: object, outputs: int, rng: object) -> int:
    return 3


def no_method(task: object) -> int:
    return 3


def per_output(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (f - y).abs()


def test_a_partition_of_ones_own_may_write_on_what_it_is_given() -> None:
    given, kept = data(), data()
    built = setup(tiny(dataset=given, partition=rough_partition, nodes=3))
    assert torch.equal(given.x_train, kept.x_train) and torch.equal(given.y_train, kept.y_train)
    assert torch.equal(torch.cat([shard.y for shard in built.data]), kept.y_train)


def test_shards_hold_the_partitions_rows() -> None:
    built, whole = setup(tiny()), data()
    assert [len(part.x) for part in built.data] == list(ROWS)
    assert torch.equal(built.data[1].x, whole.x_train[7:10])
    assert torch.equal(built.data[1].y, whole.y_train[7:10])
    assert built.nodes == (0, 1, 2, 3, 4)


def test_rows_may_be_an_array_and_inputs_of_another_type() -> None:
    rows, x = np.arange(12).reshape(3, 4), data().x_train
    expected = setup(tiny(partition=Partition([*rows]))).fingerprint
    assert setup(tiny(partition=Partition(rows))).fingerprint == expected
    assert setup(tiny(partition=Partition([*rows], x.double()))).fingerprint == expected


def test_inputs_with_a_gradient_are_taken_without() -> None:
    asked = tiny(method="fedavg", dataset=data()._replace(x_train=data().x_train.requires_grad_()), rounds=1)
    assert not any(part.x.requires_grad for part in setup(asked).data)
    assert run(asked).rounds[0].keys() == run(tiny(method="fedavg", rounds=1)).rounds[0].keys()


def test_everything_is_in_the_asked_for_precision() -> None:
    built = setup(tiny(dtype="float64"))
    assert {built.data[0].x.dtype, built.x_test.dtype, *(w.dtype for w in built.task.w_0.values())} == {torch.float64}
    assert built.y_test.dtype == torch.int64


def test_a_users_model_gives_the_first_weights() -> None:
    model = network()
    w_0 = setup(tiny(model=model)).task.w_0
    assert all(torch.equal(w_0[name], p) for name, p in model.named_parameters())


def test_the_graph_is_drawn_every_round_unless_static() -> None:
    drawn = [setup(tiny(static=static)).graph(k) for static in (False, True) for k in (1, 2, 1)]
    edges = [graph.edges for graph in drawn if graph]
    assert edges[0] == edges[2] != edges[1]
    assert edges[3:] == [edges[0]] * 3
    assert setup(tiny(seed=1)).graph(1) != drawn[0]
    assert setup(tiny("fedavg")).graph(1) is None


def test_a_users_graph_is_every_rounds() -> None:
    graph = Graph([(0, 1), (1, 2), (2, 3), (3, 4)], 5)
    built = setup(tiny(topology=graph))
    assert built.graph(2) is graph
    assert built.description["topology"] == "Graph"


def test_the_description_says_everything_and_seeds_change_only_the_seed() -> None:
    one, other = (setup(tiny(seed=seed)).description for seed in (0, 1))
    assert {name for name in one if one[name] != other[name]} == {"seed"}
    assert one["options"] == {"epochs": 2, "batch": 4, "lr": 0.1, "momentum": 0.5, "aggregation": "plain"}
    assert (one["dataset"], one["model_options"]["hidden"], one["topology_options"]) == ("tiny", [6], {"degree": 2})
    assert setup(tiny("fedavg")).description["topology"] is None


def test_the_fingerprint_hangs_on_data_and_first_weights() -> None:
    asked: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"dataset": replaced("x_test", 0, 3.0)}, {"dataset": replaced("x_train", 0, 3.0)},
    ]  # fmt: skip
    prints = [setup(tiny(**change)).fingerprint for change in asked]
    assert len(set(prints)) == 4
    assert setup(tiny()).fingerprint == prints[0]


def test_memory_is_the_engines_budget() -> None:
    chunks = [len(setup(tiny(memory=budget)).fleet(1, Wire(memory())).waves) for budget in (0, 2**30)]
    assert chunks == [5, 1]


@pytest.mark.parametrize(
    ("method", "model", "engine"),
    [
        ("dfedavg", network(3), "vectorized"),
        ("ntkdfl", network(3), "sequential"),
        ("dfedavg", nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 4), nn.Flatten()), "sequential"),
    ],
)
def test_the_engine_is_the_faster_one_unless_named(method: str, model: nn.Module, engine: str) -> None:
    built = setup(tiny(method, model=model))
    assert built.engine.name == built.description["engine"] == engine
    assert setup(tiny(method, model=model, engine="vectorized")).engine.name == "vectorized"


def test_targets_are_a_regression_with_the_squared_loss() -> None:
    built = setup(tiny(dataset=data(0)))
    assert (built.classes, built.task.loss.name, built.y_test.shape[1]) == (0, "squared", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, r"^`device` must be cpu or cuda; got 'tpu'. Choose one of the two.$"),
        ({"device": "meta"}, r"^`device` must be cpu or cuda; got 'meta'"),
        (
            {"device": "cuda:99"},
            r"^`device` must be one that this machine has; got 'cuda:99' with \d CUDA devices. Use c",
        ),
        (
            {"engine": "vectorised"},
            r"^`engine` must be one of sequential, vectorized; got .*Did you mean 'vectorized'\?",
        ),
        (
            {"loss": "hinge"},
            r"^`loss` must be one of cross_entropy, squared; got 'hinge'. Choose one, or give a function",
        ),
        (
            {"loss": "cross_entropy", "dataset": data(0)},
            r"^`loss` must suit targets in a regression; got cross_entropy",
        ),
        (
            {"model": network(2)},
            r"^`model` must give outputs of shape \(rows, 3\), 4 rows here; got \(4, 2\). Fit its la",
        ),
        (
            {"model": nn.Linear(5, 3)},
            r"^`model` must take inputs of shape \(rows, 4\); got RuntimeError: .*first layer",
        ),
        (
            {"model": nn.Sequential(nn.Flatten(0), nn.Linear(16, 3))},
            r"^`model` must give outputs of shape \(rows, 3\), 4 rows here; got \(3,\)",
        ),
        (
            {"model": network(2), "dataset": data(0), "loss": nn.NLLLoss()},
            r"^`loss` must take outputs \(16, 2\) and labels",
        ),
        (
            {"partition": Partition([np.array([0, 43]), np.array([2])])},
            r"^`partition` must list rows from 0 to 29; got 0 ",
        ),
        (
            {"partition": Partition([np.array([1]), np.array([])])},
            r"^`partition` must give every node at least one row; ",
        ),
        (
            {"dataset": replaced("x_train", 5, np.nan)},
            r"^`x_train` must hold finite float32 numbers; got 1 that are NaN",
        ),
        ({"dataset": replaced("y_test", 5, 3)}, r"^`y_test` must hold labels from 0 to 2; got 3"),
        ({"partition": "iid", "nodes": 31}, r"^`nodes` must be from 1 to the number of training rows, 30; got 31"),
        ({"partition": "dirichlet", "alpha": 0.0}, r"^`alpha` must be positive and finite; got 0.0"),
        (
            {"model": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))},
            r"^`model` must have no batch norm for dfedavg, which has no server",
        ),
        (
            {"model": nn.Sequential(nn.InstanceNorm1d(4, track_running_stats=True), nn.Linear(4, 3, bias=False))},
            r"^`model` must not change in a forward pass; got r",
        ),
        (
            {"method": "fedavg", "topology": "ring"},
            r"^`topology` must be left out for fedavg, whose nodes have no neigh",
        ),
        ({"method": "fedavg", "static": True}, r"^`static` must be left out for fedavg, .*; got True. Drop it.$"),
        ({"method": "fedavg", "degree": 2}, r"^`degree` must be left out for fedavg, .*; got 2"),
        ({"method": "fedavg", "gossip_weights": "metropolis"}, r"^`gossip_weights` must be left out for fedavg"),
        ({"partition": Partition(None)}, r"^`partition` must list the rows of at least one node; got None"),
        ({"partition": Partition(iter([[0]]))}, r"^`partition` must list the rows of at least one node; got <list_it"),
        (
            {"partition": Partition([[0], [1]], torch.zeros(2, 4))},
            r"^`partition.x` must have the 30 rows and the shape of `x_train`, \(rows, 4\); got 2 of shape \(rows, 4\)",
        ),
        ({"partition": Partition([[0], [1]], torch.full((30, 4), torch.nan))}, r"^`partition.x` must hold finite"),
        ({"topology": Graph([(0, 1)], 2)}, r"^`topology` must have as many nodes as the experiment, 5; got 2. Change"),
    ],
)
def test_values_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setup(experiment(**settings(**change)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": no_dataset}, r"^`dataset` must be a Dataset or give one; got int. Return a Dataset.$"),
        ({"partition": no_partition}, r"^`partition` must be a Partition or give one; got int. Return a Partition.$"),
        (
            {"partition": Partition([np.array([0.5])])},
            r"^`partition` must list integers for every node; got float64 for n",
        ),
        (
            {"partition": Partition([[0], [1]], np.zeros((30, 4)))},
            r"^`partition.x` must be a tensor of real numbers; got n",
        ),
        ({"model": no_model}, r"^`model` must be a module or give one; got int. Return a torch.nn.Module.$"),
        ({"method": no_method}, r"^`method` must give a Method; got int. Return fedtangent.federation.Method"),
        ({"loss": 3}, r"^`loss` must be a name or a function; got int. Give one of these.$"),
        (
            {"partition": "dirichlet", "dataset": data(0)},
            r"^`y` must hold one integer label a row to be divided by class",
        ),
    ],
)
def test_parts_of_the_wrong_kind(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        setup(experiment(**settings(**change)))


def test_a_loss_gives_one_number_a_row() -> None:
    from fedtangent.training.losses import Loss

    loss = Loss("per_output", per_output, per_output, None)
    with pytest.raises(
        ValueError, match=r"^`loss` must give one number a row; got shape \(16, 2\). Reduce over the out"
    ):
        setup(tiny(dataset=data(0), loss=loss))


@pytest.mark.parametrize(("degree", "got"), [(3, "3 with 5 nodes"), (5, "5"), (0, "0")])
def test_a_degree_that_no_graph_has(degree: int, got: str) -> None:
    with pytest.raises(ValueError, match=rf"^`degree` must be .*; got {got}\. "):
        setup(tiny(degree=degree)).graph(1)


def test_data_without_their_file(tmp_path: Any) -> None:
    built = setup(experiment("local", dataset="npz", data_dir=saved(tmp_path / "mine.npz"), nodes=4, hidden=(5,)))
    assert (built.dataset, built.classes, len(built.data)) == ("mine", 3, 4)
    with pytest.raises(
        ValueError, match=r"^`data_dir` must be the path of a .npz file for this data set; got 'absent'"
    ):
        setup(experiment("local", dataset="npz", data_dir="absent"))


def test_a_host_and_its_options_are_described_and_built() -> None:
    built = setup(tiny("fedpart", rounds=3, host="fedprox", participation=1.0, **{"host.mu": 0.2}))
    described = built.description
    assert described["host"] == "fedprox"
    assert described["host_options"]["mu"] == 0.2 and described["host_options"]["batch"] == 4
    assert described["options"] == {
        "warm_up": 1, "warm_up_once": False, "rounds_per_group": 1, "order": "sequential", "groups": None
    }  # fmt: skip
    assert "host" not in setup(tiny("fedavg")).description
    assert built.task.example is not None and built.task.example.shape == (2, 4)


def test_a_host_that_bears_no_partial_updates() -> None:
    with pytest.raises(ValueError, match=r"^`host` must bear partial updates; got ntkfl, which does not. Use a method"):
        setup(experiment("fedpart", host="ntkfl", dataset=data(), partition=partition()))


def test_a_schedule_that_is_longer_than_the_run() -> None:
    message = r"^`rounds` must be at least 3, one cycle of fedpart's schedule; got 2. Run longer, or shorten the sched"
    with pytest.raises(ValueError, match=message):
        setup(tiny("fedpart", rounds=2))
    assert setup(tiny("fedpart", rounds=3)).method.schedule.cycle == 3


def test_a_model_of_ones_own_may_read_any_shape() -> None:
    """(rows, 5, 4, 3) may be five channels of 4 x 3."""
    x, y = torch.randn(9, 5, 4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    model = nn.Sequential(nn.Conv2d(5, 2, 2), nn.Flatten(), nn.Linear(12, 3))
    built = setup(tiny("fedavg", dataset=Dataset("d", x, y, x, y, 3), model=model, partition="iid", nodes=2))
    assert built.data[0].x.shape[1:] == (5, 4, 3)
    message = (
        r"^`model` must take inputs of shape \(rows, 5, 4, 3\); got .*\. Transpose the images with \(0, 3, 1, 2\)\.$"
    )
    with pytest.raises(ValueError, match=message):
        setup(tiny("fedavg", dataset=Dataset("d", x, y, x, y, 3), model=nn.Conv2d(3, 2, 2), partition="iid", nodes=2))
    with pytest.raises(
        ValueError, match=r"^`x_train` must hold images with their channels first.* got \(rows, 5, 4, 3\)"
    ):
        setup(experiment("fedavg", dataset=Dataset("d", x, y, x, y, 3), model="lenet", partition="iid", nodes=2))
