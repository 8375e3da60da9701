"""Dropout and torch's batch norm in whole runs: trained in train mode, measured in eval mode, whatever the engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_small

import fedtangent
from fedtangent import catalog, cli
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import setup
from fedtangent.training.batch_norm import BatchNorm
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.experiments import tiny
from tests.experiments.test_augment import ON_BATCHES
from tests.experiments.test_recalibrate import AVERAGING
from tests.training import literal_dropout

TANGENT = ["ntkfl", "ntkdfl", "fedkfac", "dfedkfac", "sumntk"]
ENGINES = ("sequential", "vectorized")
P, Q = 0.3, 0.6


def dropping() -> nn.Sequential:
    """Dropout of inputs and of features."""
    first, *rest = tiny.network()
    return nn.Sequential(nn.Dropout(P), first, nn.Dropout1d(Q), *rest)


def normed(norm: Any = nn.BatchNorm1d) -> nn.Sequential:
    first, *rest = tiny.network()
    return nn.Sequential(first, norm(6), *rest)


def found(method: str, model: nn.Module, out: Path | None = None, resume: bool = False, **change: Any) -> Result:
    rounds = {"rounds": 4} if method == "fedpart" else {}
    settings = tiny.settings(method, **{"model": model, "dtype": "float64", **rounds, **change})
    return run(experiment(**settings), out, resume=resume)


@pytest.mark.few(4)
@pytest.mark.parametrize("method", ON_BATCHES)
def test_every_method_on_batches_takes_dropout_in_both_engines(method: str) -> None:
    torch.manual_seed(1)
    one = found(method, dropping(), engine="sequential")
    torch.manual_seed(2)
    many = found(method, dropping(), engine="vectorized")
    federation.assert_close(one.weights, many.weights, 1e-9)
    without = found(method, dropping().eval())
    assert not torch.allclose(one.weights["1.weight"], without.weights["1.weight"], rtol=1e-3)
    assert one.rounds[0]["loss"] != without.rounds[0]["loss"]
    assert one.rounds[-1]["sent_bytes"] == without.rounds[-1]["sent_bytes"]


def trained(w: dict[str, Tensor], k: int, node: int, rows: Any, epochs: int, batch: int, optimizer: str) -> nn.Module:
    """A client's round with explicit masks, in plain PyTorch."""
    x, y = tiny.data().x_train.double(), tiny.data().y_train
    model, rng = dropping().double(), federation.philox("batches", k, node, seed=0)
    model.load_state_dict(w)
    by = torch.optim.SGD(model.parameters(), 0.3) if optimizer == "sgd" else torch.optim.Adam(model.parameters(), 0.01)
    batches = [
        rows[order] for _ in range(epochs) for order in torch.from_numpy(rng.permutation(len(rows))).split(batch)
    ]
    keys = literal_dropout.keys(rng, len(batches))
    for own, key in zip(batches, keys, strict=True):
        h = model[1](literal_dropout.dropped(x[own], P, key, 0))
        # of Dropout1d, which takes (channels, length) for one sample: a row is a channel
        h = h * literal_dropout.dropped(torch.ones(1, len(own), 1).double(), Q, key, 1)[0]
        by.zero_grad()
        F.cross_entropy(model[4](model[3](h)), y[own]).backward()
        by.step()
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("engine", ENGINES)
def test_rounds_by_hand_with_explicit_masks(engine: str, optimizer: str) -> None:
    lr = 0.3 if optimizer == "sgd" else 0.01
    given: dict[str, Any] = {"epochs": 2, "batch": 4, "lr": lr, "optimizer": optimizer, "participation": 1.0}
    result = found("fedavg", dropping(), rounds=2, engine=engine, **given)
    w = dropping().double().state_dict()
    for k in (1, 2):
        total = {name: torch.zeros_like(p) for name, p in w.items()}
        for node, rows in enumerate(tiny.partition().index):
            model = trained(w, k, node, torch.from_numpy(rows), 2, 4, optimizer)
            for name, p in model.named_parameters():
                total[name] += p.detach() * len(rows) / sum(tiny.ROWS)
        w = total
    federation.assert_close(result.weights, w, 1e-9)
    test = tiny.data()
    f = torch.func.functional_call(dropping().double().eval(), w, (test.x_test.double(),))
    assert result.rounds[1]["loss"] == pytest.approx(float(F.cross_entropy(f, test.y_test)), rel=1e-9)


@pytest.mark.parametrize("method", ["fedavg", "fedpart", "dfedavg"])
def test_a_run_that_was_stopped_goes_on_to_the_same_record(method: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stopping(entry: dict[str, Any]) -> None:
        if entry["round"] == 2:
            raise Stop

    settings = tiny.settings(method, model=dropping(), rounds=4)
    whole = run(experiment(**settings))
    with pytest.raises(Stop):
        run(experiment(**settings), tmp_path / "run", on_round=stopping)
    torch.manual_seed(8)
    resumed = run(experiment(**settings), tmp_path / "run", resume=True)
    assert tiny.timeless(resumed.rounds) == tiny.timeless(whole.rounds)
    federation.assert_same(resumed.weights, whole.weights)


def test_fedpart_with_one_group_is_its_host() -> None:
    names = list(dict(dropping().named_parameters()))
    host = {"host": "fedavg", "participation": 0.7, "batch": 4, "warm_up": 0, "rounds_per_group": 1}
    part = found("fedpart", dropping(), groups=[names], rounds=2, **host)
    federation.assert_same(part.weights, found("fedavg", dropping(), rounds=2).weights)


class Usual(nn.Module):
    """Chance that no module of torch's shows, and batch norm's function in a module of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = tiny.network()[0], tiny.network()[2]

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if self.training:
            h = h * h.new_empty(len(h), 1).bernoulli_(0.8) / 0.8 + 0.1 * torch.randn_like(h)
        found: Tensor = self.head(F.dropout(torch.tanh(h), P, self.training))
        return found


def test_functions_draw_from_the_key_too() -> None:
    results = []
    for seed, engine in ((1, "sequential"), (2, "vectorized")):
        torch.manual_seed(seed)
        results.append(found("fedavg", Usual(), engine=engine))
    federation.assert_close(results[0].weights, results[1].weights, 1e-9)
    assert not torch.allclose(results[0].weights["body.weight"], found("fedavg", Usual().eval()).weights["body.weight"])


def test_the_users_model_and_torchs_generator_are_left_alone() -> None:
    model = nn.Sequential(*dropping(), nn.Linear(3, 3).eval(), nn.BatchNorm1d(3))
    before = {name: part.clone() for name, part in model.state_dict().items()}
    state = torch.get_rng_state()
    result = found("fedavg", model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model] == [True] * 5 + [False, True]
    federation.assert_same(dict(model.state_dict()), before)
    assert not any(part.training for part in result.model.modules())


@pytest.mark.parametrize("method", TANGENT)
@pytest.mark.parametrize(("model", "where"), [(dropping(), " at '0'"), (Usual(), "")])
def test_tangent_methods_say_that_they_cannot(method: str, model: nn.Module, where: str) -> None:
    words = rf"^`model` must draw nothing for {method}, which trains in the tangent space of one function; got "
    with pytest.raises(ValueError, match=rf"{words}dropout in train mode{where}\. Call model.eval\(\)\.$"):
        setup(experiment(**tiny.settings(method, model=model)))
    setup(experiment(**tiny.settings(method, model=dropping().eval())))


@pytest.mark.parametrize("method", TANGENT)
def test_a_tangent_method_that_is_called_by_itself_says_so_too(method: str) -> None:
    first, *rest = federation.network()
    task = Task(nn.Sequential(first, nn.Dropout(P), *rest))
    with pytest.raises(Exception, match=r"`model` must be deterministic; got dropout in train mode at '1'"):
        federation.run(catalog.load("methods", method)(task), rounds=1)


@pytest.mark.few(6)
@pytest.mark.parametrize("method", AVERAGING)
@pytest.mark.parametrize("engine", ENGINES)
def test_torchs_batch_norm_is_ours(method: str, engine: str) -> None:
    theirs, ours = (found(method, normed(norm), engine=engine) for norm in (nn.BatchNorm1d, BatchNorm))
    names = {"1.mean": "1.running_mean", "1.var": "1.running_var"}
    expected = {names.get(name, name): part for name, part in ours.weights.items()}
    batches = theirs.weights.pop("1.num_batches_tracked")
    federation.assert_close(theirs.weights, expected)
    for entry, other in zip(tiny.timeless(theirs.rounds), tiny.timeless(ours.rounds), strict=True):
        assert entry == other | {"loss": pytest.approx(other["loss"], rel=1e-12)}
    assert batches.dtype == torch.int64 and batches == (
        5 if method in ("fednova", "fedprox") else 3
    )  # one a client of few rows
    layer = theirs.model[1]
    assert isinstance(layer, nn.BatchNorm1d) and torch.equal(layer.running_var, theirs.weights["1.running_var"])


def test_a_round_of_torchs_own_batch_norm_by_hand() -> None:
    """In batches of two rows and more, and an affine layer less; momentum is left out of account."""
    model = normed(lambda width: nn.BatchNorm1d(width, affine=False, momentum=None))
    result = found("fedavg", model, rounds=1, participation=1.0, batch=3, lr=0.3)
    x, y, total = tiny.data().x_train.double(), tiny.data().y_train, {}
    for node, rows in enumerate(tiny.partition().index):
        own = normed(lambda width: nn.BatchNorm1d(width, affine=False)).double()
        order = federation.philox("batches", 1, node, seed=0).permutation(len(rows))
        for batch in torch.from_numpy(rows[order]).split(3):
            z = own[0](x[batch])
            z = own[1](z) if len(z) > 1 else 0 * z  # torch makes an error of a single value; here it is its own mean
            own.zero_grad()
            F.cross_entropy(own[3](own[2](z)), y[batch]).backward()
            for p in own.parameters():
                p.data -= 0.3 * p.grad
        for name, p in own.named_parameters():
            total[name] = total.get(name, 0) + p.detach() * len(rows) / sum(tiny.ROWS)
    z = x @ total["0.weight"].T + total["0.bias"]
    total |= {"1.running_mean": z.mean(0), "1.running_var": z.var(0, correction=0)}
    total["1.num_batches_tracked"] = torch.tensor(5)
    federation.assert_close(result.weights, total, 1e-9)
    f = result.model(tiny.data().x_test.double()).detach()
    assert result.rounds[0]["loss"] == pytest.approx(float(F.cross_entropy(f, tiny.data().y_test)), rel=1e-9)


def test_synchronised_batch_norm_is_as_good() -> None:
    one, other = (found("fedavg", normed(norm)) for norm in (nn.BatchNorm1d, nn.SyncBatchNorm))
    federation.assert_same(one.weights, other.weights)


def test_statistics_are_those_of_the_model_without_dropout() -> None:
    result = found("fedavg", nn.Sequential(nn.Dropout(P), *normed()), rounds=1, participation=1.0)
    z = tiny.data().x_train.double() @ result.weights["1.weight"].T + result.weights["1.bias"]
    federation.assert_close(result.weights["2.running_mean"], z.mean(0), 1e-9)
    federation.assert_close(result.weights["2.running_var"], z.var(0, correction=0), 1e-9)


def test_a_frozen_batch_norm_stays_as_it_is() -> None:
    layer = nn.BatchNorm1d(6).eval()
    layer.running_mean += 0.7
    layer.running_var *= 3
    frozen = normed(lambda _: layer)
    result = found("fedavg", nn.Sequential(*frozen, nn.Dropout(1e-9)))
    scale = nn.Linear(6, 6)
    scale.weight.data, scale.bias.data = torch.eye(6) * (3 + 1e-5) ** -0.5, torch.full((6,), -0.7 * (3 + 1e-5) ** -0.5)
    assert "1.running_mean" not in result.weights
    assert torch.equal(result.model[1].running_mean, layer.running_mean.double())
    for method in ("dfedavg", "ntkfl"):  # which bear no other
        found(method, frozen)
    without = nn.Sequential(frozen[0], scale.requires_grad_(False), Affine(), *frozen[2:])
    w = found("fedavg", without).weights
    federation.assert_close(result.weights["0.weight"], w["0.weight"], 1e-6)


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


@pytest.mark.parametrize("method", ["dfedavg", "local", "central", "pooled", *TANGENT])
def test_methods_that_cannot_bear_torchs_batch_norm_say_so(method: str) -> None:
    words = rf"^`model` must have no batch norm for {method}, .*; got it at '1'\. Use GroupNorm, .* model.eval\(\)\.$"
    with pytest.raises(ValueError, match=words):
        setup(experiment(**tiny.settings(method, model=normed())))


def images() -> fedtangent.Dataset:
    x = torch.rand(14, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return fedtangent.Dataset("pictures", x, torch.arange(14) % 3, x, torch.arange(14) % 3, 3)


def test_a_network_of_torchvision_in_train_mode(tmp_path: Path) -> None:
    """Batch norm, dropout, and hard-swish in place: as it is."""
    torch.manual_seed(0)
    given: dict[str, Any] = {"dataset": images(), "partition": "iid", "nodes": 2, "batch": 4, "lr": 0.01, "rounds": 1}
    model = mobilenet_v3_small(num_classes=3)
    result = fedtangent.run("fedavg", model=model, out=tmp_path / "run", **given)
    assert all(part.isfinite().all() for part in result.weights.values())
    assert result.weights.keys() == model.state_dict().keys()
    loaded = fedtangent.load(tmp_path / "run", mobilenet_v3_small(num_classes=3))
    assert torch.equal(loaded(images().x_test), result.model(images().x_test))


class Auxiliary(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        f = super().forward(x)
        return (f, f) if self.training else f


class Broken(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            raise ZeroDivisionError("no pass in train mode")
        return super().forward(x)


def test_outputs_of_another_kind_in_train_mode_are_one_clear_sentence() -> None:
    words = (
        r"^`model` must give the outputs of eval mode, \(4, 3\), in train mode too; got another kind of result\. Call"
    )
    with pytest.raises(ValueError, match=words):
        setup(experiment(**tiny.settings("fedavg", model=Auxiliary(*tiny.network()))))
    found("fedavg", Auxiliary(*tiny.network()).eval(), rounds=1)
    words = r"in train mode too; got ZeroDivisionError: no pass in train mode\. Call model.eval\(\)"
    with pytest.raises(ValueError, match=words):
        setup(experiment(**tiny.settings("fedavg", model=Broken(*tiny.network()))))


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = tiny.saved(tmp_path / "data.npz"), tmp_path / "mine.py"
    model.write_text(
        "from torch import nn\n\n\n"
        "def mine(inputs, outputs, rng, *, p: float = 0.4):\n"
        "    return nn.Sequential(nn.Linear(*inputs, 5), nn.BatchNorm1d(5), nn.Dropout(p), nn.Linear(5, outputs))\n"
    )
    words = ["--dataset", "npz", "--data-dir", data, "--model", str(model), "--partition", "iid", "--nodes", "3"]
    assert cli.main(["run", "fedavg", *words, "--p", "0.2", "--rounds", "1"]) == 0
    assert cli.main(["run", "fedavg", *words, "--dry-run"]) == 0
    assert cli.main(["run", "ntkfl", *words, "--rounds", "1"]) == 2
    assert "`model` must have no batch norm for ntkfl" in capsys.readouterr().err


def test_the_transformers_dropout() -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 30, (22, 6))).float()
    data = fedtangent.Dataset("ids", ids[:14], torch.arange(14) % 3, ids[14:], torch.arange(8) % 3, 3)
    given: dict[str, Any] = {"dataset": data, "model": "transformer", "ids": 30, "width": 8, "feedforward": 7}
    given |= {"partition": "iid", "nodes": 3, "batch": 4, "lr": 0.05, "rounds": 2, "dtype": "float64"}
    plain, *dropped = (
        fedtangent.run("fedavg", dropout=p, engine=engine, **given).weights
        for p, engine in ((0.0, None), (0.2, "sequential"), (0.2, "vectorized"))
    )
    federation.assert_close(*dropped, 1e-9)
    assert not torch.allclose(plain["classifier.weight"], dropped[0]["classifier.weight"], rtol=1e-3)
    with pytest.raises(ValueError, match=r"^`dropout` must be in \[0, 1\); got 1.0. Use 0.1, or 0 for none.$"):
        fedtangent.run("fedavg", dropout=1.0, **given)
    with pytest.raises(ValueError, match=r"^`model` must draw nothing for ntkfl, .* dropout in train mode at 'emb"):
        fedtangent.run("ntkfl", dropout=0.1, **{name: value for name, value in given.items() if name != "batch"})
