"""The model that comes back from a run's folder is the whole one, or none; and nothing that a file names is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import fedtangent
from fedtangent.experiments import model_file, tensor_file
from fedtangent.experiments.run import run
from fedtangent.training.batch_norm import BatchNorm
from tests.experiments.tiny import data, network, saved, settings, tiny

X = data().x_test


def trained(model: Any, out: Path, method: str = "fedavg", **change: Any) -> fedtangent.Result:
    return run(tiny(method, model=model, rounds=1, lr=0.5, **change), out)


class Tied(nn.Module):
    """Two layers of one weight, a frozen layer, and buffers of every kind."""

    def __init__(self, fixed: float = 1.0) -> None:
        super().__init__()
        self.a, self.frozen, self.b, self.head = (nn.Linear(*size) for size in ((4, 4), (4, 4), (4, 4), (4, 3)))
        self.b.weight = self.a.weight
        self.frozen.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))  # without an axis
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("phase", torch.tensor([1 + 1j, 2, 3j, 4], dtype=torch.complex64))
        self.register_buffer("wide", torch.randn(3, 4))
        self.register_buffer("same", self.wide)
        self.register_buffer("none", None)
        self.register_buffer("fixed", torch.tensor(fixed), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.b(self.frozen(self.a(x) * self.mask))) * self.phase.abs() + self.wide[0]
        return self.head(h) * self.scale * self.fixed  # type: ignore[no-any-return]


class Keeps(nn.Module):
    """Keeps what a pass brings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.maps = nn.Linear(4, 6), nn.Linear(6, 3), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.maps.append(torch.tanh(self.a(x)))
        self.last = self.maps[-1]
        return self.b(self.last)  # type: ignore[no-any-return]


def built(kind: str) -> nn.Module:
    model: nn.Module
    if kind == "keeps":
        return Keeps()
    if kind == "tied":
        return Tied()
    first = nn.Linear(4, 6)
    if kind == "weight_norm":
        with pytest.warns(FutureWarning):
            weight_norm(first)
    elif kind == "weight_norm, parametrised":
        parametrizations.weight_norm(first)
    elif kind == "orthogonal":
        parametrizations.orthogonal(first)
    elif kind == "spectral_norm":
        spectral_norm(first)
    elif kind == "spectral_norm, parametrised":
        parametrizations.spectral_norm(first)
    elif kind == "pruned":
        prune.l1_unstructured(first, "weight", 0.5)  # type: ignore[no-untyped-call]
    elif kind == "hooked":
        first.register_forward_hook(lambda module, inputs, f: f * 2)
        first.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    elif kind == "batch norm":
        return nn.Sequential(first, BatchNorm(6), nn.Tanh(), nn.Linear(6, 3))
    elif kind == "torch's batch norm":
        model = nn.Sequential(first, nn.BatchNorm1d(6), nn.Linear(6, 3))
        model(torch.randn(9, 4))
        return model.eval()
    elif kind == "lazy":
        return nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(3))
    elif kind == "lazy batch norm":
        return nn.Sequential(first, nn.LazyBatchNorm1d(affine=False), nn.Linear(6, 3)).eval()
    return nn.Sequential(first, nn.Tanh(), nn.Linear(6, 3)).eval()


KINDS = [
    "plain", "tied", "keeps", "weight_norm", "weight_norm, parametrised", "orthogonal", "spectral_norm",
    "spectral_norm, parametrised", "pruned", "hooked", "batch norm", "torch's batch norm", "lazy", "lazy batch norm",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap with a norm of weights
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_comes_back_whole_and_the_users_own_stays_as_it_was(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, again, plain = (built(kind) for _ in range(3))  # of other first weights, frozen ones and buffers
    before = {name: value.clone() for name, value in model.state_dict().items() if "lazy" not in kind}
    attributes = {name: value for name, value in vars(model).items() if name[0] != "_"}
    result = trained(model, tmp_path / "run")
    assert {name: value for name, value in vars(model).items() if name[0] != "_"} == attributes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if "lazy" not in kind)
    assert getattr(model, "maps", []) == []

    found = result.model(X)
    right = float((found.argmax(-1) == data().y_test).double().mean())
    assert right == pytest.approx(result.rounds[-1]["accuracy"])
    assert not torch.equal(found, built("plain")(X))
    loaded = fedtangent.load(tmp_path / "run", again)
    assert loaded is again and not loaded.training
    assert torch.equal(loaded(X), found)
    if "lazy" not in kind:
        plain.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"), strict=True)
        assert torch.equal(plain.eval()(X), found)
    result.model.load_state_dict(loaded.state_dict())
    assert torch.equal(result.model(X), found)


def test_ties_are_written_under_every_name_and_loaded_as_ties(tmp_path: Path) -> None:
    trained(Tied(), tmp_path / "run")
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    assert tensors.keys() == Tied().state_dict().keys()
    assert torch.equal(tensors["a.weight"], tensors["b.weight"])
    model = fedtangent.load(tmp_path / "run", Tied())
    assert model.a.weight is model.b.weight
    untied = Tied()
    untied.b.weight = nn.Parameter(torch.zeros(4, 4))
    assert torch.equal(fedtangent.load(tmp_path / "run", untied)(X), model(X))


def test_a_lazy_model_is_drawn_by_the_seed_and_by_nothing_else() -> None:
    weights = []
    for torchs, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(torchs)
        lazy = built("lazy")
        state = torch.get_rng_state()
        weights.append(run(tiny("fedavg", model=lazy, rounds=1, seed=seed)).weights["0.weight"])
        assert isinstance(lazy[0], nn.LazyLinear)  # type: ignore[index]
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_lazy_model_that_does_not_take_the_inputs_is_one_sentence() -> None:
    model = nn.Sequential(nn.LazyConv2d(3, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(
        ValueError, match=r"^`model` must take inputs of shape \(rows, 4\); got RuntimeError: .* Fit its l"
    ):
        run(tiny("fedavg", model=model))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda m: m.append(nn.Linear(3, 3)), r"'3.weight', which the run has not"),
        (lambda m: m.pop(-1), r"none named '2.bias'"),
        (lambda m: m.insert(0, nn.Tanh()), r"none named '0.bias'"),
        (lambda m: m.register_buffer("extra", torch.zeros(1)), r"'extra', which the run has not"),
        (
            lambda m: setattr(m, "0", nn.Linear(4, 5)),
            r"'0.bias' of shape \(5,\) and torch.float32, and not \(6,\) and t",
        ),
        (
            lambda m: setattr(m[2], "bias", nn.Parameter(torch.zeros(3, dtype=torch.complex64))),
            r"'2.bias' of shape \(3,\) and torch.complex64, and not \(3,\) and torch.float32",
        ),
    ],
)
def test_the_first_tensor_that_differs_is_named(change: Any, got: str, tmp_path: Path) -> None:
    trained(network(), tmp_path / "run")
    model = network()
    change(model)
    message = rf"^`model` must have the tensors of the run in .*run; got {got}.*\. Pass a module like the run's.$"
    with pytest.raises(ValueError, match=message):
        fedtangent.load(tmp_path / "run", model)


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Sigmoid()),
    ],
)
def test_another_network_of_the_same_tensors_is_refused(other: Any, tmp_path: Path) -> None:
    trained(network(), tmp_path / "run")
    message = (
        r"^`model` must compute what that of the run in .* does; got the same tensors and other outputs. Pass a modul"
    )
    with pytest.raises(ValueError, match=message):
        fedtangent.load(tmp_path / "run", other())
    trained(Tied(), tmp_path / "tied")
    with pytest.raises(ValueError, match=message):
        fedtangent.load(tmp_path / "tied", Tied(fixed=2.0))


def test_a_buffer_that_is_expanded(tmp_path: Path) -> None:
    def wide(value: float) -> nn.Sequential:
        model = network()
        model[2].register_buffer("wide", torch.tensor([[value]]).expand(3, 4))
        return model

    trained(wide(1.0), tmp_path / "run")
    assert torch.equal(fedtangent.load(tmp_path / "run", wide(2.0))[2].wide, torch.ones(3, 4))


def test_a_module_that_ties_what_the_run_did_not(tmp_path: Path) -> None:
    def pair() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))

    trained(pair(), tmp_path / "run")
    tied = pair()
    tied[1].weight = tied[0].weight
    with pytest.raises(
        ValueError, match=r"^`model` must tie no other tensors than the run in .*; got another value at '0."
    ):
        fedtangent.load(tmp_path / "run", tied)


def test_a_model_of_ones_own_is_given_to_load(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net(inputs, outputs, rng, *, width: int = 3):\n"
        "    return nn.Sequential(nn.Linear(inputs[0], width), nn.Tanh(), nn.Linear(width, outputs))\n"
    )
    path = str(tmp_path / "net.py")
    asked = {name: value for name, value in settings("fedavg").items() if name != "hidden"}
    mine = fedtangent.run(**asked, model=path, width=5, out=tmp_path / "run")
    message = (
        r"^`model` must be given for .*, whose run had a model of its own; got none. Pass a module of the same shape"
    )
    with pytest.raises(ValueError, match=message):
        fedtangent.load(tmp_path / "run")
    (tmp_path / "net.py").rename(tmp_path / "moved.py")
    with pytest.raises(ValueError, match=r"must name a file that exists"):
        fedtangent.load(tmp_path / "run", path)
    (tmp_path / "moved.py").rename(tmp_path / "net.py")

    def build(inputs: Any, outputs: int, rng: Any, *, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs[0], width), nn.Tanh(), nn.Linear(width, outputs))

    for model in (path, tmp_path / "net.py", build, build((4,), 3, None, width=5)):
        assert torch.equal(fedtangent.load(tmp_path / "run", model)(X), mine.model(X))
    with pytest.raises(TypeError, match=r"^`model` must be a module or give one; got int. Return a torch.nn.Module.$"):
        fedtangent.load(tmp_path / "run", lambda inputs, outputs, rng, *, width: 3)


@pytest.mark.parametrize("model", ["mlp", "linear", "lenet", "resnet8"])
def test_a_named_model_comes_back_by_itself(model: str, tmp_path: Path) -> None:
    images = data() if model in ("mlp", "linear") else small_images()
    change = {"norm": "batch"} if model == "resnet8" else {}
    asked = {"dataset": images, "partition": "iid", "nodes": 2, "rounds": 1, "model": model, "epochs": 1, "batch": 5}
    result = fedtangent.run("fedavg", **asked, **change, out=tmp_path / "run")
    assert torch.equal(fedtangent.load(tmp_path / "run")(images.x_test), result.model(images.x_test))


def small_images() -> fedtangent.Dataset:
    x = torch.randn(10, 1, 12, 11, generator=torch.Generator().manual_seed(2))
    return fedtangent.Dataset("images", x[:6], torch.arange(6) % 3, x[6:], torch.arange(4) % 3, 3)


def test_what_builds_no_model_like_the_runs_is_to_blame(tmp_path: Path) -> None:
    result = trained(network(), tmp_path / "a")
    message = r"^`model` must build the model of the run in .*; got ZeroDivisionError: .* Pass a module like the run's"
    with pytest.raises(ValueError, match=message):
        fedtangent.load(tmp_path / "a", lambda *_: 1 / 0)  # type: ignore[arg-type, return-value]
    same = fedtangent.load(tmp_path / "a", torch.compile(network(), backend="eager"))  # type: ignore[arg-type]
    assert torch.equal(same(X), result.model(X))


def test_a_model_without_numbers_is_refused(tmp_path: Path) -> None:
    trained(network(), tmp_path / "a")
    message = r"^`model` must hold numbers; got '.*' on the device meta\. Build it on the CPU, or load its weights\.$"
    with pytest.raises(ValueError, match=message):
        trained(network().to("meta"), tmp_path / "b")
    with pytest.raises(ValueError, match=message):
        fedtangent.load(tmp_path / "a", network().to("meta"))


def test_a_named_model_comes_back_in_its_precision(tmp_path: Path) -> None:
    asked = settings(dtype="float64", hidden=(5, 3), activation="gelu", partition="iid", nodes=5)
    asked |= {"dataset": "npz", "data_dir": saved(tmp_path / "d.npz")}
    result = fedtangent.run(**asked, out=tmp_path / "run")
    loaded = fedtangent.load(tmp_path / "run")
    assert torch.equal(loaded(X.double()), result.model(X.double()))
    assert torch.equal(fedtangent.load(tmp_path / "run", loaded.float())(X.double()), result.model(X.double()))


class Bags(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.long())  # type: ignore[no-any-return]


def test_ids_are_inputs_too(tmp_path: Path) -> None:
    ids = torch.arange(40).reshape(10, 4) % 7
    texts = fedtangent.Dataset("ids", ids[:6], torch.arange(6) % 3, ids[6:], torch.arange(4) % 3, 3)
    model = Bags(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 3))
    result = fedtangent.run(
        "fedavg", dataset=texts, partition="iid", nodes=2, rounds=1, model=model, out=tmp_path / "run"
    )
    again = Bags(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 3))
    assert torch.equal(fedtangent.load(tmp_path / "run", again)(ids), result.model(ids))
    other = Bags(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 3), nn.Tanh())
    with pytest.raises(ValueError, match="must compute what that of the run"):
        fedtangent.load(tmp_path / "run", other)


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-20], None])
def test_no_whole_model(spoil: Any, tmp_path: Path) -> None:
    run(tiny(), tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    if spoil is None:
        path.unlink()
    else:
        path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"^`folder` must hold a .*model.safetensors; got .*\. Give the folder that a run"
    ):
        fedtangent.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "../evil.py"}, r"that says what it is; got model '../evil.py' in "),
        ({"model": "evil.py"}, r"that says what it is; got model 'evil.py' in "),
        ({"model": "_draw"}, r"that says what it is; got model '_draw' in "),
        ({"model": "os"}, r"that says what it is; got model 'os' in "),
        ({"model": ["mlp"]}, r"that says what it is; got model \"\['mlp'\]\" in "),
        ({"dtype": "load"}, r"that says what it is; got dtype 'load' in "),
        ({"dtype": "int8"}, r"that says what it is; got dtype 'int8' in "),
        ({"inputs": [4.5]}, r"that says what it is; got inputs '\[4.5\]' in "),
        ({"outputs": -3}, r"that says what it is; got outputs '-3' in "),
        ({"probe": ["x"]}, r"that says what it is; got probe "),
        ({"probe": []}, r"that says what it is; got probe "),
        ({"options": {"hidden": {"a": 3}}}, r"that says what it is; got options "),
        (
            {"options": {"hidden": [6], "x": 3}},
            r"whose model can be built; got ValueError: `x` must be an option of model",
        ),
        ({"options": {"hidden": [10**9]}}, r"whose model can be built; got ValueError: hidden \(1000000000,\) in "),
        ({"options": {"hidden": [6] * 2000}}, r"whose model can be built; got ValueError: hidden \(6, 6"),
        (
            {"options": {"hidden": [1000, 1000]}},
            r"whose model can be built; got ValueError: a model larger than its file",
        ),
        ({"inputs": [10**9]}, r"whose model can be built; got ValueError: a model larger than its file"),
        ({"options": {"hidden": "six"}}, r"whose model can be built; got TypeError: "),
    ],
)
def test_a_file_names_nothing_that_is_run_or_larger_than_itself(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny("fedavg"), tmp_path / "run")
    (tmp_path / "evil.py").write_text("open('RAN', 'w')\ndef evil(inputs, outputs, rng):\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run" / "model.safetensors"
    header, tensors = tensor_file.read(path, "out", "")
    tensor_file.save(path, {**header, **change}, tensors)
    with pytest.raises(ValueError, match=rf"^`folder` must hold a model.safetensors {message}"):
        fedtangent.load(tmp_path / "run")
    assert not (tmp_path / "RAN").exists()


def test_a_file_of_the_last_version_is_refused_by_its_name(tmp_path: Path) -> None:
    how = {"model": "evil.py", "file": False, "options": {}, "inputs": [3], "outputs": 2, "dtype": "float32"}
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "model.safetensors", {"fedtangent": json.dumps(how)})
    with pytest.raises(
        ValueError, match=r"^`folder` must hold a model.safetensors that fedtangent .* got one of '0.1.0' in"
    ):
        fedtangent.load(tmp_path)


class Stateful(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda m: m.append(Stateful(3, 3)),
            r"nothing but tensors in its state_dict to be recorded; got dict at '3._ex",
        ),
        (
            lambda m: m.register_buffer("odd", torch.eye(3).to_sparse()),
            r"dense tensors to be recorded, complex ones as complex64; got torch.float32, torch.sparse_coo at 'odd'.",
        ),
    ],
)
def test_what_the_file_cannot_hold_is_refused_before_a_round(spoil: Any, message: str, tmp_path: Path) -> None:
    model = network()
    spoil(model)
    with pytest.raises(TypeError, match=rf"^`model` must hold {message}"):
        trained(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_complex_parameters(tmp_path: Path) -> None:
    model = network()
    model.phase = nn.Parameter(torch.tensor([1j]))
    with pytest.raises(
        ValueError, match=r"^`model` must train real parameters; got torch.complex64 at 'phase'. Hold torch"
    ):
        trained(model, tmp_path / "run")
    model.phase.requires_grad_(False)
    trained(model, tmp_path / "run")
    assert load_file(tmp_path / "run" / "model.safetensors")["phase"] == 1j
    with pytest.raises(
        TypeError, match=r"complex ones as complex64; got torch.complex128, torch.strided at 'phase'. C"
    ):
        trained(model, tmp_path / "double", dtype="float64")


def test_a_model_whose_layers_are_held_by_a_function_is_refused() -> None:
    model = network()
    model[0].register_forward_hook(lambda module, inputs, f: f + model[2](f).sum())
    message = (
        r"^`model` must reach its layers as its attributes; got '2.weight' used by a hook or a function that holds th"
    )
    with pytest.raises(ValueError, match=message):
        run(tiny("fedavg", model=model))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: nn.Sequential(spectral_norm(nn.Linear(4, 30)), nn.Linear(30, 3)), "0.weight_u"),
        (
            lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 30)), nn.Linear(30, 3)),
            "0.parametrizations.weight.0._u",
        ),
    ],
)
def test_a_model_that_a_pass_changes_is_refused(build: Any, name: str) -> None:
    """A spectral norm in train mode."""
    message = rf"^`model` must not change in a forward pass; got other numbers in its buffer '{name}'. Call model.eval"
    for method in ("fedavg", "ntkfl"):
        with pytest.raises(ValueError, match=message):
            run(tiny(method, model=build()))


def test_a_sparse_buffer_is_run_with() -> None:
    class Graph(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((self.adjacency @ x.T).T)  # type: ignore[no-any-return]

    model = Graph(*network())
    model.register_buffer("adjacency", torch.eye(4).to_sparse())
    dense = Graph(*network())
    dense.register_buffer("adjacency", torch.eye(4))
    found, expected = (run(tiny("fedavg", model=m, engine="sequential")).rounds[-1] for m in (model, dense))
    assert found["loss"] == pytest.approx(expected["loss"])


def test_a_file_is_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    for name in ("one", "other"):
        trained(network(), tmp_path / name)
    one, other = ((tmp_path / name / model_file.NAME).read_bytes() for name in ("one", "other"))
    assert one == other
