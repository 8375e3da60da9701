"""Every cut of a kernel gives the numbers of row by row autograd, and keeps it within the memory that is allowed."""

import math
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.models import resnet18
from fedtangent.tangents import Plan, kernel, plan
from fedtangent.tangents.numerics import kernel_parts
from fedtangent.tangents.numerics.budget import Budget, Cuts, Tile
from tests.measured import measured
from tests.often import often
from tests.tangents.networks import Example, everything, jacobian

EXAMPLES = everything()
KINDS = get_args(kernel_parts.Kind)
# of the examples those of which every run of the tests cuts every layer
CUT = ("layer norm between", "convolutions", "tokens", "attention", "recurrent", "derived weight")


class Tokens(nn.Module):
    """An attention layer and a wide block on tokens, on which words are looked up."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.words = nn.Embedding(17, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(6, 13), nn.Linear(13, 6), nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        z = self.words(x)
        z = z + self.attention(z, z, z)[0]
        return self.head((z + self.down(torch.tanh(self.up(z)))).mean(1))


def models(outputs: int = 5) -> dict[str, Example]:
    """Networks with more outputs than fit at once: of dense layers, of convolutions, of attention."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(7, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, outputs))
    convolutions = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.Conv2d(6, 9, 3, stride=2, groups=3),
        nn.Tanh(),
        nn.Conv2d(9, 8, 1),
        nn.Flatten(),
        nn.Linear(32, outputs),
    )
    found = {
        "dense": Example(dense, (7,)),
        "convolutions": Example(convolutions, (2, 6, 6)),
        "attention": Example(Tokens(outputs), (5,), 17),
    }
    for example in found.values():
        example.model.double().eval()
    return found


MODELS = models()


def literal(model: nn.Module, x: Tensor, y: Tensor, kind: str) -> Tensor:
    """The kernel by autograd, a row of J at a time."""
    return contracted(_jacobian(model, x), _jacobian(model, y), kind)


def contracted(j: Tensor, k: Tensor, kind: str) -> Tensor:
    """J J'^T of one kind."""
    full = torch.einsum("ncp,mdp->nmcd", j, k)
    own = full.diagonal(dim1=2, dim2=3)
    return {"full": full, "trace": own.mean(2), "diagonal": own}[kind]


def _jacobian(model: nn.Module, x: Tensor) -> Tensor:
    w, rows = list(model.parameters()), []
    for n in range(len(x)):
        f = model(x[n : n + 1])[0]
        pulled = [torch.autograd.grad(one, w, retain_graph=True, materialize_grads=True) for one in f]
        rows.append(torch.stack([torch.cat([part.flatten() for part in row]) for row in pulled]))
    return torch.stack(rows)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= 1e-10 * b.norm())


def least(model: nn.Module, x: Tensor, kind: str) -> int:
    """The memory that an error names."""
    with pytest.raises(ValueError, match=r"`memory_bytes` must be at least \d+ for this model.*; got 1\.") as error:
        plan(model, x, kind=kind, memory_bytes=1)  # type: ignore[arg-type]
    return int(str(error.value).split("at least ")[1].split()[0])


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", often(KINDS, ["full"]))
@pytest.mark.parametrize("name", MODELS)
def test_the_least_memory_works_and_a_byte_less_is_refused(name: str, kind: kernel_parts.Kind) -> None:
    model, x = MODELS[name].model, MODELS[name].samples(3)
    bytes_ = least(model, x, kind)
    its = plan(model, x, kind=kind, memory_bytes=bytes_)
    assert its.peak_bytes == bytes_
    assert close(kernel(model, x, kind=kind, memory_bytes=bytes_), literal(model, x, x, kind))
    with pytest.raises(ValueError, match=f"must be at least {bytes_} for this model, .*; got {bytes_ - 1}. Give more"):
        kernel(model, x, kind=kind, memory_bytes=bytes_ - 1)


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", often(KINDS, ["full"]))
@pytest.mark.parametrize("name", often(MODELS, ["dense", "attention"]))
def test_a_growing_budget(name: str, kind: kernel_parts.Kind) -> None:
    """From the least to enough: the cuts become fewer, the numbers stay."""
    model, x, y = MODELS[name].model, MODELS[name].samples(3), MODELS[name].samples(2, seed=1)
    own, cross = literal(model, x, x, kind), literal(model, x, y, kind)
    memory, seen = least(model, x, kind), set()
    while memory < 2**26:
        its = plan(model, x, kind=kind, memory_bytes=memory)
        assert its.peak_bytes <= memory
        assert close(kernel(model, x, kind=kind, memory_bytes=memory), own)
        assert close(kernel(model, x, y, kind=kind, memory_bytes=memory), cross)
        seen |= {*_cuts(its, 3)}
        memory *= 6
    assert not {*_cuts(its, 3)}
    assert {"outputs", "samples", "chunk"} <= seen


@pytest.mark.few(4)
@pytest.mark.parametrize("way", ["explicit", "factors"])
@pytest.mark.parametrize("name", often((name for name in EXAMPLES if name != "transformer, batch second"), CUT))
def test_every_cut_of_every_layer(name: str, way: kernel_parts.Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples of three and two outputs of three at once, half of the rows or positions: all of it cut unevenly."""
    example = EXAMPLES[name]
    x, y = example.samples(3), example.samples(2, seed=1)
    j, k = jacobian(example.model, x), jacobian(example.model, y)

    def forced(part: kernel_parts.Part, kind: kernel_parts.Kind, outputs: int) -> str:
        return way if way in part.operations(kind, outputs) else "explicit"

    def pieces(budget: Budget, cuts: Cuts) -> list[int]:
        return [math.ceil(load.pieces / 2) for load in budget.loads(cuts.outputs)]

    def tiles(budget: Budget, cuts: Cuts) -> list[Tile]:
        return [Tile(1, math.ceil(load.spots / 2)) for load in budget.loads(cuts.outputs)]

    monkeypatch.setattr(kernel_parts.Part, "way", forced)
    monkeypatch.setattr(Budget, "fitting", lambda *_: Cuts(2, 2, 1, 0, 0))
    monkeypatch.setattr(Budget, "pieces", pieces)
    monkeypatch.setattr(Budget, "tiles", tiles)
    for kind in get_args(kernel_parts.Kind):
        assert {"samples", "chunk"} <= {*_cuts(plan(example.model, x, kind=kind), 3)}
        assert close(kernel(example.model, x, kind=kind), contracted(j, j, kind))
    assert close(kernel(example.model, x, y, kind="trace"), contracted(j, k, "trace"))


def test_every_cut_is_told() -> None:
    model, x = MODELS["convolutions"].model, MODELS["convolutions"].samples(5)
    text = str(plan(model, x, memory_bytes=least(model, x, "full")))
    assert "1 samples in memory with 1 of the outputs, 1 at once through the model" in text
    assert "gradients of some rows at a time: 0.weight" in text


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", often([10, 47, 100, 1000], [10, 1000]))
def test_resnet18_of_any_number_of_outputs(outputs: int, kind: kernel_parts.Kind) -> None:
    model = resnet18.resnet18((3, 32, 32), outputs, np.random.default_rng(0))
    its = plan(model, torch.rand(2, 3, 32, 32), kind=kind)
    assert its.peak_bytes <= 2**30
    assert its.cuts.outputs == outputs or outputs == 1000


def _cuts(its: Plan, samples: int) -> Iterator[str]:
    """The cuts that a plan takes."""
    if its.cuts.outputs < its.outputs:
        yield "outputs"
    if its.block < samples:
        yield "samples"
    if its.chunk < samples:
        yield "chunk"
    for line in its.lines:
        if line.pieces < line.of:
            yield "rows"
        if line.way == "factors" and line.spots < line.part.positions:
            yield "positions"


SCRIPT = """
import ctypes, sys; sys.path.insert(0, "benchmarks")
import measure, torch
from torch import nn
from fedtangent.tangents import kernel, plan

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(96, 4, 160, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(96, 10)
    def forward(self, x):
        return self.head(self.encoder(x).mean(1))

dense = [nn.Linear(784, 400), nn.Tanh(), nn.Linear(400, 500), nn.Tanh(), nn.Linear(500, 300), nn.Tanh()]
convolutions = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(), nn.Flatten()]
model, x, samples = {
    "dense": (nn.Sequential(*dense, nn.Linear(300, 10)), torch.randn(600, 784), 600),
    "convolutions": (nn.Sequential(*convolutions, nn.Linear(1536, 10)), torch.randn(160, 3, 20, 20), 160),
    "attention": (Encoder().eval(), torch.randn(40, 48, 96), 40),
}[sys.argv[1]]
kind, budget = sys.argv[2], int(sys.argv[3]) * 2**20
kernel(model, x[:3], kind=kind)
its = plan(model, x, kind=kind, memory_bytes=budget)
assert its.peak_bytes <= budget and (its.block < samples) == (budget < 2**30), its
ctypes.CDLL(None).malloc_trim(0)  # what is free but still resident would be used again, and not seen to rise
rose = measure.peak(lambda: kernel(model, x, kind=kind, memory_bytes=budget)) * 2**30
print((rose - its.result_bytes) / its.peak_bytes)
"""


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", ["full", "trace"])
@pytest.mark.parametrize(
    ("name", "mib"),
    [
        ("dense", 24),
        ("convolutions", 50),
        ("attention", 90),
        ("dense", 1024),
        ("convolutions", 1024),
        ("attention", 1024),
    ],
)
def test_the_plan_keeps_its_word(name: str, mib: int, kind: str) -> None:
    """The peak of a process's memory is what the plan says within a factor of 1.5, cut or not."""
    assert 1 / 1.5 < measured(SCRIPT, name, kind, str(mib)) < 1.1
