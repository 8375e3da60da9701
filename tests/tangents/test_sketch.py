"""The sketch against J R, with R read off a model whose Jacobian is the identity; its error against the formula."""

import copy
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents.sketch import sketch
from tests.often import often
from tests.tangents.networks import INPUTS, inputs, jacobian, networks, weights

# by its name, since the package's attribute of that name is the function
module = import_module("fedtangent.tangents.sketch")
KINDS = ("dense", "structured")
X = inputs()


def projection(model: nn.Module, size: int, kind: Any, seed: int = 0) -> Tensor:
    """R (P, size): the sketch of f = x w, with the parameters' names, on the rows of the identity."""
    bare = copy.deepcopy(model)
    bare.forward = lambda x: x @ torch.cat([p.reshape(-1) for p in bare.parameters()])[:, None]
    count = sum(p.numel() for p in bare.parameters())
    return sketch(bare, torch.eye(count, dtype=torch.float64), size, kind=kind, seed=seed)[:, 0]


class Tokens(nn.Module):
    """Attention, an embedding and a normalisation, with what neither is linear in, on whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.table(x)).mean(1))


class Recurrent(nn.Module):
    """A layer that vmap does not take, nor forward derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.out = nn.LSTM(INPUTS, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lower(x)[0][:, -1])


@pytest.mark.few(16)
@pytest.mark.parametrize("size", [3, 13])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", networks())
def test_it_is_the_jacobian_times_a_matrix(name: str, kind: Any, size: int) -> None:
    model = networks()[name]
    expected = jacobian(model, X) @ projection(model, size, kind, seed=5)
    found = sketch(model, X, size, kind=kind, seed=5)
    assert found.shape == (*jacobian(model, X).shape[:2], size)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12 * float(expected.norm()))


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_and_attention(kind: Any) -> None:
    torch.manual_seed(1)
    convolution = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    ).double()
    tokens = Tokens().double()
    images = torch.randn(5, 2, 5, 8, dtype=torch.float64)
    words = torch.randint(11, (5, 6))
    for model, x in ((convolution, images), (tokens, words)):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = jacobian(model, x) @ projection(model, 10, kind)
        assert torch.allclose(sketch(model, x, 10, kind=kind), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrent_layer(kind: Any) -> None:
    torch.manual_seed(6)
    model, x = Recurrent().double(), torch.randn(4, 5, INPUTS, dtype=torch.float64)
    rows = [torch.autograd.grad(f, list(model.parameters()), retain_graph=True) for f in model(x).flatten()]
    j = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).reshape(4, 3, -1)
    assert torch.allclose(sketch(model, x, 6, kind=kind), j @ projection(model, 6, kind), rtol=1e-11, atol=1e-11)


def test_the_dense_projection_holds_signs() -> None:
    r = projection(networks()["deep"], 7, "dense") * 7**0.5
    assert torch.allclose(r.abs(), torch.ones_like(r))
    assert float(r.mean().abs()) < 4 / r.numel() ** 0.5


def test_the_structured_projection_has_an_entry_a_quarter() -> None:
    r = projection(networks()["deep"], 10, "structured")
    for quarter in r.split([3, 3, 2, 2], 1):
        entries = quarter[quarter != 0]
        assert torch.equal((quarter != 0).sum(1), torch.ones(len(r), dtype=torch.int64))
        assert torch.allclose(entries.abs(), torch.tensor((quarter.shape[1] / 10) ** 0.5).double())
        # every column has its share
        assert int((quarter != 0).sum(0).min()) > len(r) / quarter.shape[1] / 2


def test_the_projection_never_changes() -> None:
    """What a seed means is a promise to whoever else has it: these numbers may not change."""
    model = nn.Linear(6, 1, bias=False).double()
    dense = projection(model, 5, "dense", seed=11).sign().int().tolist()
    assert "".join("-+"[sign > 0] for row in dense for sign in row) == "-+--+--++----++-+-+---++++-+-+"
    structured = projection(model, 8, "structured", seed=11)
    entries = ["".join("-0+"[entry + 1] for entry in row) for row in (structured * 2).int().tolist()]
    assert entries == ["0+0+0+-0", "0+0-+00-", "+00++0+0", "0+-00++0", "+0-00-+0", "0--0+0+0"]


@pytest.mark.parametrize("kind", often(KINDS, ["structured"]))
def test_the_kernel_is_kept_within_the_stated_error(kind: Any) -> None:
    """Over 300 seeds: no bias, and the variance of the formula, summed over the kernel's entries."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(INPUTS, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    size, seeds, x = 10, 300, inputs(4)
    j = jacobian(model, x).flatten(0, 1)
    kernel = j @ j.T
    each = torch.stack([sketch(model, x, size, kind=kind, seed=seed).flatten(0, 1) for seed in range(seeds)])
    errors = each @ each.mT - kernel
    variance = (torch.outer(kernel.diag(), kernel.diag()) + kernel**2 - 2 * (j**2) @ (j**2).T) / size
    assert float((errors.mean(0).abs() / (variance / seeds).sqrt()).max()) < 4.5
    assert float((errors**2).sum((1, 2)).mean()) == pytest.approx(float(variance.sum()), rel=0.1)
    # as do those of every entry, within what 300 draws can tell
    assert float(((errors**2).mean(0) / variance - 1).abs().max()) < 0.5
    bound = ((kernel.trace() ** 2 + kernel.norm() ** 2) / size).sqrt()
    assert float((errors**2).sum((1, 2)).mean().sqrt()) < float(bound)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_the_samples_are_parts_of_the_sketch(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks()["deep"]
    whole = sketch(model, X, 9, kind=kind)
    parts = torch.cat([sketch(model, X[:2], 9, kind=kind), sketch(model, X[2:], 9, kind=kind)])
    assert torch.allclose(parts, whole, rtol=1e-12, atol=1e-12)
    for block in (1, 2 * jacobian(model, X[:1]).numel(), 3 * jacobian(model, X[:1]).numel()):
        monkeypatch.setattr(module, "_BLOCK", block)
        assert torch.allclose(sketch(model, X, 9, kind=kind), whole, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(module, "_TOGETHER", 2)
    assert torch.allclose(sketch(model, X, 9, kind=kind), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_add_up(kind: Any) -> None:
    """R of a parameter depends on its name only, not on those beside it."""
    model = networks()["deep"]
    w = weights(model)
    parts = [sketch(model, X, 6, kind=kind, w={name: part}) for name, part in w.items()]
    assert torch.allclose(torch.stack(parts).sum(0), sketch(model, X, 6, kind=kind), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_is_all(kind: Any) -> None:
    model = networks()["gated"]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    first = sketch(model, X, 6, kind=kind, seed=3)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(sketch(model, X, 6, kind=kind, seed=3), first)
    others = [sketch(model, X, 6, kind=kind, seed=seed) for seed in (4, -3, 2**64 + 3, 2**200)]
    assert not any(torch.allclose(other, first) for other in others)


def test_a_smaller_dense_sketch_begins_a_larger_one() -> None:
    model = networks()["gated"]
    smaller, larger = (sketch(model, X, size) for size in (5, 11))
    assert torch.allclose(larger[..., :5] * 11**0.5, smaller * 5**0.5, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_at_other_weights_and_in_float32(kind: Any) -> None:
    model = networks()["gated"]
    w = {name: part + 0.3 for name, part in weights(model).items()}
    moved = copy.deepcopy(model)
    moved.load_state_dict(w)
    found = sketch(model, X, 6, kind=kind, w=w)
    assert torch.allclose(found, sketch(moved, X, 6, kind=kind), rtol=1e-12, atol=1e-12)
    single = sketch(moved.float(), X.float(), 6, kind=kind)
    assert single.dtype == torch.float32
    assert not single.requires_grad
    assert torch.allclose(single, found.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_matter(kind: Any) -> None:
    model = networks()["deep"]
    on_cpu = sketch(model, X, 9, kind=kind)
    on_gpu = sketch(model.cuda(), X.cuda(), 9, kind=kind)
    assert on_gpu.is_cuda
    assert torch.allclose(on_gpu.cpu(), on_cpu, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"^`size` must be at least 1; got 0\. "),
        ({"size": -4}, r"^`size` must be at least 1; got -4\. "),
        ({"size": 4, "kind": "sparse"}, r"^`kind` must be 'dense' or 'structured'; got 'sparse'\. "),
        ({"size": 4, "w": {"strange": X}}, r"^`w` must hold trainable parameters of the model; got 'strange' "),
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sketch(networks()["gated"], X, **options)
