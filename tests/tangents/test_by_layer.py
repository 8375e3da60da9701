"""Kernels by layer equal J_g J_g^T with the columns of each group, in one pass or in several."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import kernel, layer_kernels
from tests.tangents.networks import INPUTS, OUTPUTS, Example, everything, inputs, jacobian, literal, weights

EXAMPLES = everything()
KINDS = ["full", "trace", "diagonal"]


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


def by_name(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    w = weights(model)
    return dict(zip(w, jacobian(model, x).split([part.numel() for part in w.values()], 2), strict=True))


@pytest.mark.few(8)
def test_every_layer_of_every_model(example: Example) -> None:
    x1, x2 = example.samples(4), example.samples(3, seed=1)
    j1, j2 = by_name(example.model, x1), by_name(example.model, x2)
    for kind, other, its in (("full", None, j1), ("trace", x2, j2)):
        found = layer_kernels(example.model, x1, other, kind=kind)  # type: ignore[arg-type]
        assert list(found) == list(dict.fromkeys(name.rpartition(".")[0] or name for name in j1))
        whole = kernel(example.model, x1, other, kind=kind)  # type: ignore[arg-type]
        assert (sum(found.values()) - whole).norm() <= 1e-10 * whole.norm()
        for group, k in found.items():
            names = [name for name in j1 if (name.rpartition(".")[0] or name) == group]
            rows, columns = (torch.cat([j[name] for name in names], 2) for j in (j1, its))
            assert k.shape == whole.shape
            assert (k - literal(kind, rows, columns)).norm() <= 1e-10 * whole.norm()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(INPUTS, 6), nn.Tanh(), nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, OUTPUTS)
    ).double()


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_with_little_memory(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), inputs(9)
    groups = {"ends": ["3", "0.weight", "0.bias"], "middle": ["2"]}
    alone = importlib.import_module("fedtangent.tangents.by_layer")
    monkeypatch.setattr(alone, "kernel", lambda *_, **__: pytest.fail("a pass of its own"))
    with pytest.raises(ValueError, match="`memory_bytes` must be at least") as error:
        layer_kernels(model, x, kind=kind, groups=groups, memory_bytes=1)
    least = int(str(error.value).split("at least ")[1].split()[0])
    j = by_name(model, x)
    for memory in (least, 3 * least, 2**30):
        found = layer_kernels(model, x, kind=kind, groups=groups, memory_bytes=memory)
        for group, numbers in (("ends", "03"), ("middle", "2")):
            its = torch.cat([part for name, part in j.items() if name[0] in numbers], 2)
            k = literal(kind, its, its)
            assert (found[group] - k).norm() <= 1e-10 * k.norm()
            assert torch.equal(
                found[group], found[group].transpose(0, 1).mT if kind == "full" else found[group].mT
            ) or (kind == "diagonal" and torch.equal(found[group], found[group].transpose(0, 1)))


def test_groups_that_cut_through_a_layer_and_parameters_of_none() -> None:
    model, x = network(), inputs(5)
    j = by_name(model, x)
    found = layer_kernels(model, x, groups={"weights": ["0.weight", "3.weight"], "bias": ["3.bias"]})
    its = torch.cat([j["0.weight"], j["3.weight"]], 2)
    for k, part in ((found["weights"], its), (found["bias"], j["3.bias"])):
        right = literal("full", part, part)
        assert (k - right).norm() <= 1e-10 * right.norm()
    one = layer_kernels(model, x, groups={"head": ["3"]})
    right = literal("full", *[torch.cat([j["3.weight"], j["3.bias"]], 2)] * 2)
    assert list(one) == ["head"] and (one["head"] - right).norm() <= 1e-10 * right.norm()


class Experts(nn.Module):
    """Rows are sent to one of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(INPUTS, OUTPUTS).double(), nn.Linear(INPUTS, OUTPUTS).double()

    def forward(self, x: Tensor) -> Tensor:
        f = x.new_zeros(len(x), OUTPUTS)
        for layer, rows in ((self.left, x[:, 0] < 0), (self.right, x[:, 0] >= 0)):
            if rows.any():
                f = f.index_put((rows.nonzero()[:, 0],), layer(x[rows]))
        return f


def test_one_sample_of_many_goes_another_way() -> None:
    x = inputs(60)
    x[:, 0] = -x[:, 0].abs()
    x[11, 0] *= -1
    found = layer_kernels(Experts(), x, kind="trace")
    left = x[:, 0] < 0
    gram = x @ x.T + 1
    for name, rows in (("left", left), ("right", ~left)):
        assert torch.allclose(found[name], gram * rows[:, None] * rows[None], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({"a": ["0"], "b": ["0.bias"]}, ValueError, "`groups` must not overlap; got '0.bias' in 'a' and 'b'. "),
        ({"a": ["1"]}, ValueError, "`groups` must name trainable parameters, or modules that hold them; got '1' in"),
        ({"a": []}, ValueError, "`groups` must each hold parameters; got nothing in 'a'. "),
        ({}, ValueError, "`groups` must each hold parameters; got nothing in 'none'. "),
        ({"a": "0"}, TypeError, "`groups` must be a dict of lists of names; got dict. "),
        ({"a": None}, TypeError, "`groups` must be a dict of lists of names; got dict. "),
        ({"a": [0]}, ValueError, "`groups` must name trainable parameters, or modules that hold them; got 0 in 'a'. "),
        (["0"], TypeError, "`groups` must be a dict of lists of names; got list. "),
    ],
)
def test_groups_that_are_none(groups: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as found:
        layer_kernels(network(), inputs(), groups=groups)
    assert message in str(found.value)
