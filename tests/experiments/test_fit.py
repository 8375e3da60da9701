"""A model and its loss are tried before a run; what cannot be is one sentence, and nothing is broadcast."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fedtangent
from fedtangent import trees
from fedtangent.experiments.setup import setup
from fedtangent.shard import Dataset
from fedtangent.training import losses
from tests.experiments.tiny import data, network, tiny
from tests.experiments.tiny import settings as settings_of

METHODS = ("fedavg", "ntkfl")  # in local training, and in the tangent space


class Around(nn.Module):
    """The tiny network, and what is done to its outputs."""

    def __init__(self, fn: Any, outputs: int = 3) -> None:
        super().__init__()
        self.net, self.fn = network(outputs), fn

    def forward(self, x: Tensor) -> Any:
        return self.fn(self.net(x))


def targets(outputs: int) -> Dataset:
    found = data(0)
    return found._replace(
        **{name: getattr(found, name)[:, :1].expand(-1, outputs).clone() for name in ("y_train", "y_test")}
    )


def mixing_loss(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f, y, reduction="none") + f.mean()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("outputs", "wanted"), [(1, 3), (3, 1)])
@pytest.mark.parametrize("loss", [None, F.smooth_l1_loss, nn.MSELoss(reduction="none")])
def test_outputs_are_not_broadcast_to_targets(method: str, outputs: int, wanted: int, loss: Any) -> None:
    message = (
        rf"^`model` must give as many outputs as the targets have, {wanted}; got {outputs}\. Fit its last layer, or"
    )
    with pytest.raises(ValueError, match=message):
        setup(tiny(method, model=network(outputs), dataset=targets(wanted), loss=loss))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            F.dropout,
            r"^`model` must be deterministic; got outputs that change with the random seed in the forward of Arou",
        ),
        (
            lambda f: f - f.mean(0),
            r"^`model` must treat every row on its own; .* other rows in the forward of Around\.",
        ),
        (
            lambda f: f.squeeze(),
            r"^`model` must give a row the same outputs alone and in a batch, \(1, 3\) here; got shape",
        ),
        (
            lambda f: f.argmax(1, keepdim=True).expand(-1, 3),
            r"^`model` must give finite real numbers; got torch.int64\.",
        ),
        (lambda f: f.log(), r"^`model` must give finite real numbers; got NaN or infinity\. Look at its first weights"),
        (
            lambda f: {"logits": f},
            r"^`model` must return a tensor; got dict of logits\. Say .*, as with outputs='logits'\.$",
        ),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_models_that_cannot_be(method: str, fn: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        setup(tiny(method, model=Around(fn)))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 2.0])), r"^`loss` must be the mean of what it gives"),
        (nn.CrossEntropyLoss(ignore_index=1), r"^`loss` must be the mean of what it gives"),
        (
            losses.Loss("mixing", mixing_loss, lambda f, y: f, None),
            r"^`loss` must give every row a number of its own; got others in another batch\. Sum over no rows\.$",
        ),
        (
            lambda f, y: F.cross_entropy(f.detach(), y, reduction="none"),
            r"^`loss` must have a derivative by the outputs; got none\. Leave out detach, argmax and comparisons\.$",
        ),
        (lambda f, y: (f.argmax(-1) != y).float(), r"^`loss` must have a derivative by the outputs; got none\. "),
        (
            losses.custom(lambda f, y: f.pow(2).mean(), outputs=4),
            r"^`model` must give the 4 outputs .*; got 3\. Fit its la",
        ),
    ],
)
def test_losses_that_cannot_be(loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setup(tiny("fedavg", loss=loss))


def test_a_model_of_token_ids_is_told_how_to_get_them() -> None:
    model = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(8, 3))
    ids = data()._replace(x_train=data().x_train.abs().long(), x_test=data().x_test.abs().long())
    with pytest.raises(
        ValueError, match=r"^`model` must take .* as a tuple, \(x,\), or let it begin with x\.long\(\)\.$"
    ):
        setup(tiny("fedavg", model=model, dataset=ids))
    setup(tiny("fedavg", model=model, dataset=ids._replace(x_train=(ids.x_train,), x_test=(ids.x_test,))))


def test_one_number_a_row_is_one_output() -> None:
    found = data(0)
    flat = found._replace(y_train=found.y_train[:, 0], y_test=found.y_test[:, 0])
    model = network(1)
    wide = fedtangent.run(**settings_of("fedavg", model=model, dataset=flat))
    narrow = fedtangent.run(**settings_of("fedavg", model=nn.Sequential(model, nn.Flatten(0)), dataset=flat))
    assert [e["loss"] for e in narrow.rounds] == [e["loss"] for e in wide.rounds]
    assert torch.equal(narrow.model(flat.x_test), wide.model(flat.x_test)[:, 0])


def test_more_outputs_than_classes_are_fine() -> None:
    assert 0 <= fedtangent.run(**settings_of("fedavg", model=network(5))).rounds[-1]["accuracy"] <= 1


def test_a_loss_of_a_mean_and_a_variance() -> None:
    def gaussian(f: Tensor, y: Tensor) -> Tensor:
        return ((f[:, :1] - y) ** 2 / f[:, 1:].exp() + f[:, 1:]).mean() / 2

    settings = settings_of("fedavg", model=network(2), dataset=targets(1), loss=losses.custom(gaussian, outputs=2))
    first, second = (entry["loss"] for entry in fedtangent.run(**settings).rounds)
    assert second < first


def test_what_is_not_used_keeps_its_value() -> None:
    model = Around(lambda f: f)
    model.aux = nn.Linear(3, 2)
    found = fedtangent.run(**settings_of("fedavg", model=model))
    plain = fedtangent.run(**settings_of("fedavg", model=Around(lambda f: f)))
    torch.testing.assert_close(found.weights["aux.weight"], model.aux.weight.detach())  # of a mean of equal values
    assert all(torch.equal(found.weights[name], w) for name, w in plain.weights.items())


def test_the_experiment_decides_on_the_precision() -> None:
    half = network().to(torch.bfloat16)
    for dtype in ("float32", "float64"):
        found = fedtangent.run(**settings_of("fedavg", model=half, dtype=dtype))
        assert {w.dtype for w in found.weights.values()} == {getattr(torch, dtype)}
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_autocast_inside_of_a_forward_pass() -> None:
    class Cast(Around):
        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    cast, plain = (fedtangent.run(**settings_of("fedavg", model=kind(lambda f: f))) for kind in (Cast, Around))
    assert cast.rounds[-1]["loss"] == pytest.approx(plain.rounds[-1]["loss"], rel=0.02)
    assert cast.rounds[-1]["loss"] != plain.rounds[-1]["loss"]


def test_a_compiled_model_is_what_it_was_made_of() -> None:
    model = network()
    compiled = fedtangent.run(**settings_of("fedavg", model=torch.compile(model)))
    plain = fedtangent.run(**settings_of("fedavg", model=model))
    assert trees.map(torch.equal, compiled.weights, plain.weights) == dict.fromkeys(plain.weights, True)
    assert compiled.manifest["experiment"]["model"] == "Sequential"


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")  # is deprecated; from Python 3.14 on, is not supported
def test_a_traced_model_is_no_module_of_python() -> None:
    with pytest.raises(
        TypeError, match=r"^`model` must be a module of Python code; got a TopLevelTracedModule\. Give the"
    ):
        setup(tiny("fedavg", model=torch.jit.trace(network(), data().x_train)))


@pytest.mark.parametrize("method", METHODS)
def test_inference_mode_has_no_derivatives(method: str) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"^`torch\.inference_mode` must be off where deriv"):
        setup(tiny(method))


@pytest.mark.parametrize("method", METHODS)
def test_hooks_on_gradients(method: str) -> None:
    model = network()
    handle = model[0].register_full_backward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^`model` must have no backward hooks; got one at '0'\. Remove it, or do in"):
        setup(tiny(method, model=model))
    handle.remove()
    model[0].weight.register_hook(lambda d: 2 * d)
    with pytest.raises(ValueError, match=r"^`model` must have no hooks on its parameters; got one on '0\.weight', whi"):
        setup(tiny(method, model=model))


def test_a_class_is_no_module() -> None:
    with pytest.raises(
        TypeError, match=r"^`model` must be a module, or take a row's shape, .*; got the class Linear, w"
    ):
        setup(tiny(model=nn.Linear))


class Remembering(Around):
    """Scales its outputs by a parameter that it looks up once."""

    def __init__(self) -> None:
        super().__init__(None)
        self.scale, self.cache = nn.Parameter(torch.ones(3)), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.cache.setdefault("scale", 2 * self.scale)
        return self.net(x) * self.cache["scale"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_a_model_keeps_of_a_parameter(method: str) -> None:
    model = Remembering()
    setup(tiny(method, model=model))
    assert not model.cache
    model(data().x_test)
    with pytest.raises(ValueError, match=r"^`model` must make what it needs .*; got 'cache' kept .*made of 'scale'\."):
        setup(tiny(method, model=model))


@pytest.mark.parametrize(("part", "row"), [("training", 10), ("test", 7)])
@pytest.mark.parametrize("token", [9, -1])
@pytest.mark.parametrize("several", [False, True])
def test_numbers_beyond_the_table_are_told_before_a_run(part: str, row: int, token: int, several: bool) -> None:
    given = data(0)
    x = {"training": given.x_train[:, :1] * 0, "test": given.x_test[:, :1] * 0}
    x[part][row] = token
    train, test = ((one.long(),) if several else one for one in x.values())

    class Words(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.long())

    model = Words(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(4, 3))
    message = rf"^`model` must take the largest and .*; got IndexError: .* for {part} rows \[0, {row}\]\. Give it more"
    with pytest.raises(ValueError, match=message):
        setup(tiny("fedavg", model=model, dataset=given._replace(x_train=train, x_test=test)))


class FirstBatch(Around):
    """Takes its shift from the first batch, and keeps its last layer within bounds, as Glow and EEGNet do."""

    def __init__(self, by_rows: bool) -> None:
        super().__init__(lambda f: f)
        self.shift, self.by_rows = nn.Parameter(torch.zeros(3)), by_rows
        self.register_buffer("begun", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        f = self.net(x)
        if self.by_rows and self.training and not self.begun:
            self.shift.data.copy_(-f.detach().mean(0))
            self.begun.fill_(1)
        self.shift.data.clamp_(min=-1)
        return f + self.shift  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_the_first_batch_sets(method: str) -> None:
    with pytest.raises(
        ValueError, match=r"^`model` must not set its parameters by the rows of a forward pass; got others in 'shift'"
    ):
        setup(tiny(method, model=FirstBatch(by_rows=True)))
    setup(tiny(method, model=FirstBatch(by_rows=False)))
