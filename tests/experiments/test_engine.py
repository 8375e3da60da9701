"""An engine that cannot run a model is not taken, and where it is named, refused; decided before the run."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedtangent
from fedtangent import cli
from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.experiments.setup import setup
from fedtangent.federation import Each, Fleet, Method
from fedtangent.federation.engine import NodeError
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.shard import Dataset, Partition
from fedtangent.training.task import Task
from tests.experiments.tiny import network, saved, settings, timeless, tiny

FAULT = r"cannot run this model on many nodes at once: "


class Series(nn.Module):
    """A recurrent network along the inputs."""

    def __init__(self, kind: Any = nn.GRU) -> None:
        super().__init__()
        self.read, self.head = kind(1, 5, batch_first=True), nn.Linear(5, 3)
        rng = np.random.default_rng(5)
        for p in self.parameters():
            p.data = torch.from_numpy(rng.normal(size=p.shape, scale=0.5).astype(np.float32))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.read(x[..., None])[0][:, -1])
        return found


class Around(nn.Module):
    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.net, self.fn = network(), fn

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fn(self.net(x))
        return found


def written(f: Tensor) -> Tensor:
    out = torch.zeros_like(f[:, :1]).expand(-1, 3).clone() * 0
    empty = torch.zeros(len(f), 3)
    empty[:, 0] = f[:, 0]
    return out + empty + f


def branching(f: Tensor) -> Tensor:
    return f if float(f.detach().abs().sum()) >= 0 else -f


MODELS = [Series(nn.GRU), Series(nn.RNN), Series(nn.LSTM), Around(written), Around(branching)]


@pytest.mark.parametrize("model", MODELS, ids=["gru", "rnn", "lstm", "setitem", "item"])
def test_a_model_that_vmap_cannot_take_goes_node_by_node(model: nn.Module) -> None:
    found, named = (fedtangent.run(**settings("fedavg", model=model, **kw)) for kw in ({}, {"engine": "sequential"}))
    assert timeless(found.rounds) == timeless(named.rounds)
    assert found.manifest["experiment"] == named.manifest["experiment"]
    assert found.manifest["engine_reason"].startswith("vectorized cannot run this model on many nodes at once: ")
    assert "engine_reason" not in named.manifest


@pytest.mark.parametrize(("method", "model"), [("fedavg", MODELS[0]), ("ntkfl", MODELS[0]), ("dfedavg", MODELS[4])])
def test_an_engine_that_is_named_and_cannot_run_the_model(method: str, model: nn.Module) -> None:
    message = (
        r"^`engine` must be able to run the model on many nodes at once; got vectorized: RuntimeError: .* Use sequ"
    )
    with pytest.raises(ValueError, match=message):
        setup(tiny(method, model=model, engine="vectorized"))
    assert setup(tiny(method, model=model)).engine.name == "sequential"


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_an_engine_that_is_named_may_be_slow() -> None:
    assert setup(tiny("fedavg", model=Series(nn.LSTM), engine="vectorized")).engine.name == "vectorized"


class Sum(torch.autograd.Function):
    """x, whose derivative under vmap is wrong."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return 2 * x, in_dims[0]


def test_other_gradients_than_node_by_node() -> None:
    model = Around(Sum.apply)
    built = setup(tiny("fedavg", model=model))
    assert built.engine.name == "sequential"
    assert built.engine_reason is not None and built.engine_reason.endswith("others there than node by node")
    with pytest.raises(
        ValueError, match=r"got vectorized: its gradients are others there than node by node\. Use sequ"
    ):
        setup(tiny("fedavg", model=model, engine="vectorized"))


class Old(torch.autograd.Function):
    """A function as they were written before torch.func."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


def checkpointed(f: Tensor) -> Tensor:
    found: Tensor = torch.utils.checkpoint.checkpoint(torch.tanh, f, use_reentrant=False)  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize("fn", [Old.apply, checkpointed])
def test_a_model_without_gradients_by_torch_func(fn: Any) -> None:
    message = (
        r"^`model` must have gradients by torch.func in training; got RuntimeError: .*\. Leave out what has none\.$"
    )
    with pytest.raises(ValueError, match=message):
        setup(tiny("fedavg", model=Around(fn)))


def test_what_no_node_fails_at_alone_names_the_other_engine() -> None:
    def together(task: Task) -> Method:
        inner = dfedavg(task, epochs=1)

        def round(fleet: Fleet, state: Any, data_k: Each[Any], k: int) -> tuple[Any, dict[str, Any]]:
            if k == 2:  # once the weights differ: a function of equal ones is called once for all
                fleet.map(lambda w: float(next(iter(w.values())).sum()), state.w_k).settle()
            return inner.round(fleet, state, data_k, k)

        return inner._replace(name="together", round=round)

    with pytest.raises(NodeError, match=r"\)\. None of them fails alone: use the engine sequential$"):
        fedtangent.run(**settings(together, topology="ring", rounds=2, engine="vectorized"))


@pytest.mark.parametrize("method", ["ntkdfl", "dfedkfac"])
def test_in_the_tangent_space_the_size_of_the_products_chooses(method: str) -> None:
    def chosen(nodes: int, rows: int, features: int, **more: Any) -> str:
        x, y = torch.rand(nodes * rows, features), torch.arange(nodes * rows) % 2
        data = Dataset("many", x, y, x[:9], y[:9], 2)
        part = Partition(list(np.arange(nodes * rows).reshape(nodes, rows)))
        given = {"dataset": data, "partition": part, "model": "linear", "topology": "ring", **more}
        return setup(Experiment(method=method, **given)).engine.name

    assert chosen(40, 2, 3) == "vectorized"
    assert chosen(40, 2, 3, engine="sequential") == "sequential"
    assert chosen(8, 2, 3) == "sequential"  # too few
    large = (40, 200, 3) if method == "ntkdfl" else (40, 2, 800)  # kernels of 600 x 600, factors of 800 x 800
    assert chosen(*large) == "sequential"


def test_a_chunk_is_as_large_as_its_kernels_not_as_its_nodes_own_rows() -> None:
    counts = [1, 1, 150, 1, 1, 1]
    x, y = torch.rand(sum(counts), 3), torch.arange(sum(counts)) % 2
    part = Partition(np.split(np.arange(len(x)), np.cumsum(counts)[:-1]))
    data = Dataset("one large", x, y, x[:9], y[:9], 2)
    built = setup(Experiment(method="ntkdfl", dataset=data, partition=part, model="linear", topology="ring"))
    needs = built.fleet(1, built.wire()).node_bytes
    assert needs[1] == needs[2] == needs[3] > 2 * needs[0] == 2 * needs[5]
    assert needs[0] == 3 * 2**14  # what the objects of three small nodes' tensors take


@pytest.mark.parametrize("nodes", [100, 400])
def test_a_wave_holds_no_more_nodes_where_there_are_more(nodes: int) -> None:
    x, y = torch.rand(nodes, 3), torch.arange(nodes) % 2
    data, part = Dataset("many", x, y, x[:9], y[:9], 2), Partition(list(np.arange(nodes).reshape(nodes, 1)))
    given = {"partition": part, "model": "linear", "topology": "ring", "memory": 2**21}
    built = setup(Experiment(method="dfedkfac", dataset=data, engine="vectorized", **given))  # type: ignore[arg-type]
    assert max(len(wave.nodes) for wave in built.fleet(1, built.wire()).waves) == 2**21 // (3 * 2**14)


def test_the_command_says_why(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "series.py"
    file.write_text(
        "from tests.experiments.test_engine import Series\n\ndef series(inputs, outputs, rng):\n    return Series()\n"
    )
    words = ["run", "fedavg", "--dataset", "npz", "--data-dir", saved(tmp_path / "mine.npz"), "--partition", "iid"]
    assert cli.main([*words, "--nodes", "3", "--model", str(file), "--dry-run"]) == 0
    assert "\nEngine sequential, since vectorized cannot run this model" in capsys.readouterr().out


def test_an_engine_is_known_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match=r"^`engine` must be one of sequential, vectorized; got 'fast'\."):
        experiment("fedavg", engine="fast")
    with pytest.raises(TypeError, match=r"^`engine` must be a name; got int\. Give one\.$"):
        experiment("fedavg", engine=3)
