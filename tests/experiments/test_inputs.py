"""Inputs that are a dict or a tuple, and models that return more than their outputs: as with one tensor, to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedtangent
from fedtangent import cli
from fedtangent.augmentations.images import images
from fedtangent.experiments.dry_run import dry_run
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.shard import Dataset
from fedtangent.training.task import Augmentation
from tests.experiments.tiny import data, network, partition, saved, settings, timeless, tiny
from tests.often import often

LOCAL: dict[str, dict[str, Any]] = {
    "central": {}, "dfedavg": {}, "fedavg": {}, "feddyn": {}, "fednova": {"batch": 4}, "fedopt": {},
    "fedprox": {"batch": 4}, "fedpart": {"rounds": 4}, "local": {}, "moon": {}, "pooled": {}, "scaffold": {},
}  # fmt: skip


class Mixed(nn.Module):
    """The tiny network of numbers and of ids, masked; beside it what nobody asks for."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.net, self.form = network(), form

    def forward(self, numbers: Tensor, ids: Tensor, mask: Tensor) -> Any:
        assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)
        f = self.net(torch.cat([numbers, torch.where(mask, ids.to(numbers.dtype), 0)], 1))
        return {"loss": None, "logits": f} if self.form == "dict" else (f, f + 1)


class Whole(nn.Module):
    """The same of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(torch.cat([x[:, :2], torch.where(x[:, 4:] > 0, x[:, 2:4], 0)], 1))
        return found


def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x[:, :2], (10 * x[:, 2:]).to(torch.int16), x[:, 1:3] > 0


def mixed(form: str) -> Dataset:
    found = data()
    train, test = parts(found.x_train), parts(found.x_test)
    if form == "tuple":
        return found._replace(x_train=train, x_test=test)
    names = ("numbers", "ids", "mask")
    return found._replace(x_train=dict(zip(names, train, strict=True)), x_test=dict(zip(names, test, strict=True)))


def whole() -> Dataset:
    found = data()
    joined = [torch.cat([part.float() for part in parts(x)], 1) for x in (found.x_train, found.x_test)]
    return found._replace(x_train=joined[0], x_test=joined[1])


def of(form: str, method: str = "fedavg", **change: Any) -> dict[str, Any]:
    asked = {"outputs": "logits" if form == "dict" else 0} | change
    return settings(method, model=Mixed(form), dataset=mixed(form), **asked)


@pytest.mark.few(4)
@pytest.mark.parametrize("form", often(["dict", "tuple"], ["dict"]))
@pytest.mark.parametrize("method", LOCAL)
def test_every_method_outside_the_tangent_space(method: str, form: str) -> None:
    change = LOCAL[method]
    found = fedtangent.run(**of(form, method, **change))
    expected = fedtangent.run(**settings(method, model=Whole(), dataset=whole(), **change))
    told, other = timeless(found.rounds), timeless(expected.rounds)
    if method in ("central", "pooled"):  # they send rows, which here are shorter
        told, other = (
            [{k: v for k, v in e.items() if not k.endswith("bytes")} for e in some] for some in (told, other)
        )
    assert told == other
    assert all(torch.equal(found.weights[name], w) for name, w in expected.weights.items())


TANGENT: dict[str, dict[str, Any]] = {
    "ntkfl": {}, "ntkdfl": {}, "fedkfac": {"guard": False}, "dfedkfac": {}, "sumntk": {"columns": 1},
}  # fmt: skip


@pytest.mark.few(3)
@pytest.mark.parametrize("form", often(["dict", "tuple"], ["tuple"]))
@pytest.mark.parametrize("method", TANGENT)
def test_every_method_in_the_tangent_space(method: str, form: str) -> None:
    """To rounding: a product of several tensors' rows is another call."""
    change = {"dtype": "float64", "rounds": 2, **TANGENT[method]}
    found = fedtangent.run(**of(form, method, **change))
    expected = fedtangent.run(**settings(method, model=Whole(), dataset=whole(), **change))
    for told, other in zip(found.rounds, expected.rounds, strict=True):
        if (
            form == "dict"
        ):  # the tuple's second part is made of the outputs, which so are no longer the last layer's own
            assert told["sent_bytes"] == other["sent_bytes"]
        assert told["loss"] == pytest.approx(other["loss"], rel=1e-8)
    for name, w in expected.weights.items():
        torch.testing.assert_close(found.weights[name], w, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize("part", ["dirichlet", "iid", "by_class"])
def test_engines_and_partitions(engine: str, part: str) -> None:
    found, expected = (
        fedtangent.run(**{**asked, "engine": engine, "partition": part, "nodes": 4})
        for asked in (of("dict"), settings("fedavg", model=Whole(), dataset=whole()))
    )
    assert timeless(found.rounds) == timeless(expected.rounds)


def test_a_run_goes_on_where_it_was_stopped_and_its_model_is_there(tmp_path: Any) -> None:
    class Stop(Exception):
        """Stands for whatever ends a run."""

    def stop(entry: dict[str, Any]) -> None:
        raise Stop

    asked = of("dict", rounds=3)
    with pytest.raises(Stop):
        fedtangent.run(**asked, out=tmp_path / "out", on_round=stop)
    found, expected = fedtangent.run(**asked, out=tmp_path / "out", resume=True), fedtangent.run(**asked)
    assert timeless(found.rounds) == timeless(expected.rounds)
    assert found.manifest["inputs"] == {"numbers": [2], "ids": [2], "mask": [2]}
    assert found.manifest["experiment"]["outputs"] == "logits"
    model = fedtangent.load(tmp_path / "out", Mixed("dict"))
    x = setup(tiny(**{"method": "fedavg", **{k: v for k, v in asked.items() if k != "method"}})).x_test
    assert torch.equal(model(**x)["logits"], found.model(**x)["logits"])


def test_a_dry_run_and_another_data_set(tmp_path: Any) -> None:
    built = setup(fedtangent.experiment(**of("dict")))
    assert dry_run(built).total_bytes == run(built).rounds[-1]["sent_bytes"]
    changed = mixed("dict")
    changed.x_train["ids"][0, 0] += 1
    assert setup(fedtangent.experiment(**{**of("dict"), "dataset": changed})).fingerprint != built.fingerprint


def test_an_augmentation_is_given_all_inputs() -> None:
    change = Augmentation(
        lambda rng, rows: torch.from_numpy(rng.normal(size=(rows, 1))).float(),
        lambda x, by: {**x, "numbers": x["numbers"] + by},
    )
    found, plain = (fedtangent.run(**of("dict", augment=augment)) for augment in (change, None))
    assert found.rounds[-1]["loss"] != plain.rounds[-1]["loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": None}, r"^`model` must return a tensor; got dict of loss, logits\. Say .* outputs='logits'\.$"),
        (
            {"outputs": "logit"},
            r"^`outputs` must name a part of what .* dict of loss, logits; got 'logit'\. Name another\.$",
        ),
        ({"outputs": "loss"}, r"^`outputs` must pick a tensor; got NoneType for 'loss'\. Pick another part\.$"),
        (
            {"model": "mlp"},
            r"^`model` must be one of your own for inputs that are several tensors; got 'mlp'\. Give a mod",
        ),
        ({"project": 3}, r"^`project` must be left out for inputs that are several tensors; got 3\. Drop it\.$"),
        ({"model": Whole()}, r"^`model` must take inputs of shape .*ids: \(rows, 2\).*; got TypeError: .*numbers"),
        ({"augment": images()}, r"^`augment` must take inputs of shape .*ids: \(rows, 2\).*; got .*Leave it out"),
        ({"partition": "feature_shift", "nodes": 3}, r"^`x` must be floats to take noise; got torch.int64\."),
    ],
)
def test_what_several_inputs_cannot_have(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        setup(fedtangent.experiment(**{**of("dict"), **change}))


def test_the_outputs_are_named_on_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.py"
    file.write_text(
        "from torch import nn\n\nclass Two(nn.Linear):\n    def forward(self, x):\n        f = super().forward(x)\n"
        "        return f, f * 2\n\ndef two(inputs, outputs, rng):\n    return Two(*inputs, outputs)\n"
    )
    words = ["run", "fedavg", "--dataset", "npz", "--data-dir", saved(tmp_path / "mine.npz"), "--partition", "iid"]
    words += ["--nodes", "3", "--rounds", "1", "--model", str(file)]
    assert cli.main(words) == 2
    assert "`model` must return a tensor; got tuple. Say which part" in capsys.readouterr().err
    assert cli.main([*words, "--outputs", "0"]) == 0


def test_a_partition_of_ones_own_is_given_row_numbers() -> None:
    def halves(x: Tensor, y: Tensor, nodes: int, rng: Any) -> Any:
        assert torch.equal(x, torch.arange(len(y)))
        return partition()

    assert setup(fedtangent.experiment(**{**of("tuple"), "partition": halves})).nodes == (0, 1, 2, 3, 4)
