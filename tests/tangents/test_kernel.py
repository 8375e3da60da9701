"""Kernels of every kind of layer equal J J^T by the definition, to 1e-10, whichever way they are contracted."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import jacobian as operator
from fedtangent.tangents import kernel, layer_kernels, own_kernel, plan
from fedtangent.tangents.numerics import kernel_parts
from tests.often import often
from tests.tangents.networks import INPUTS, OUTPUTS, Example, everything, inputs, jacobian, literal

EXAMPLES = everything()
KINDS = ["full", "trace", "diagonal"]
CUT = [
    "one output",
    "deep",
    "convolutions",
    "attention",
    "recurrent",
    "tokens",
    "derived weight",
    "tied to the embedding",
]


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


def close(a: Tensor, b: Tensor, within: float = 1e-10) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= within * b.norm())


def test_one_linear_map_by_hand() -> None:
    """f = (w1 . x, w2 . x): J of an output is x in its own rows, so K = x . x' on the diagonal of the outputs."""
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    found = kernel(nn.Linear(2, 2, bias=False), x)
    assert found[0, 1].tolist() == [[13.0, 0.0], [0.0, 13.0]]
    assert kernel(nn.Linear(2, 2), x, kind="trace").tolist() == [[6.0, 14.0], [14.0, 35.0]]


@pytest.mark.few(14)
@pytest.mark.parametrize("kind", often(KINDS, ["full", "trace"]))
def test_kernels(example: Example, kind: str) -> None:
    x1, x2 = example.samples(5), example.samples(3, seed=1)
    j1, j2 = jacobian(example.model, x1), jacobian(example.model, x2)
    assert close(kernel(example.model, x1, kind=kind), literal(kind, j1, j1))
    assert close(kernel(example.model, x1, x2, kind=kind), literal(kind, j1, j2))


@pytest.mark.few(14)
@pytest.mark.parametrize("kind", often(KINDS, ["full"]))
@pytest.mark.parametrize("way", ["explicit", "factors"])
def test_both_ways_give_the_same(example: Example, kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forced(part: kernel_parts.Part, kind: kernel_parts.Kind, outputs: int) -> str:
        return way if way in part.operations(kind, outputs) else "explicit"

    monkeypatch.setattr(kernel_parts.Part, "way", forced)
    x1, x2 = example.samples(5), example.samples(3, seed=1)
    j1, j2 = jacobian(example.model, x1), jacobian(example.model, x2)
    assert close(kernel(example.model, x1, kind=kind), literal(kind, j1, j1))
    assert close(kernel(example.model, x1, x2, kind=kind), literal(kind, j1, j2))


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", often(KINDS, ["full"]))
@pytest.mark.parametrize("example", often(EXAMPLES, CUT), indirect=True)
def test_any_memory_gives_the_same(example: Example, kind: str) -> None:
    """Down to nearly the least, with blocks and tiles that do not divide the samples."""
    x1, x2 = example.samples(3), example.samples(2, seed=1)
    with pytest.raises(ValueError, match=r"`memory_bytes` must be at least \d+ for this model.*; got 1\.") as error:
        kernel(example.model, x1, kind=kind, memory_bytes=1)
    least = int(str(error.value).split("at least ")[1].split()[0])
    whole, cross = kernel(example.model, x1, kind=kind), kernel(example.model, x1, x2, kind=kind)
    for memory in (2 * least, 9 * least):
        its = plan(example.model, x1, kind=kind, memory_bytes=memory)
        assert its.peak_bytes <= memory
        assert close(kernel(example.model, x1, kind=kind, memory_bytes=memory), whole)
        assert close(kernel(example.model, x1, x2, kind=kind, memory_bytes=memory), cross)
    assert plan(example.model, x1, kind=kind, memory_bytes=least).chunk < 3


@pytest.mark.parametrize("kind", often(KINDS, ["full"]))
def test_kernels_are_symmetric(example: Example, kind: str) -> None:
    found = kernel(example.model, example.samples(5), kind=kind)
    assert torch.equal(found, found.permute(1, 0, 3, 2) if kind == "full" else found.transpose(0, 1))


def test_float32_stays_float32() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, OUTPUTS))
    found = kernel(model, inputs().float())
    assert found.dtype == torch.float32
    assert close(found.double(), kernel(model.double(), inputs()), 1e-5)


def test_other_weights_and_constants() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.Tanh(), nn.Linear(6, OUTPUTS)).double()
    w = {name: part * 0.5 for name, part in model.named_parameters() if name.startswith("2")}
    other = nn.Sequential(model[0], nn.Tanh(), nn.Linear(6, OUTPUTS)).double()
    other[2].load_state_dict({name[2:]: part.detach() for name, part in w.items()})
    other[0].requires_grad_(False)
    assert torch.equal(kernel(model, inputs(), w=w), kernel(other, inputs()))


def test_nothing_changes_the_model_or_its_gradients() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Linear(6, OUTPUTS)).double().eval()
    before = {name: part.clone() for name, part in model.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    assert not kernel(model, inputs()).requires_grad
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert all(part.grad is None for part in model.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_parameters_that_are_not_used_are_columns_of_zeros() -> None:
    model = Idle().double()
    assert torch.equal(kernel(model, inputs()), kernel(model.used, inputs()))
    columns = torch.split(operator(model, inputs()).dense(), [21, 3, 21, 3], 2)
    dense = dict(zip(dict(model.named_parameters()), columns, strict=True))
    assert not dense["idle.weight"].any() and not dense["idle.bias"].any() and dense["used.weight"].any()
    assert "not used, columns of zeros: idle.bias, idle.weight" in str(plan(model, inputs()))


def test_a_bar_shows_the_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    kernel(nn.Linear(INPUTS, 2).double(), inputs(), kind="trace")
    assert not capsys.readouterr().err
    kernel(nn.Linear(INPUTS, 2).double(), inputs(), kind="trace", progress=True)
    assert "trace kernel" in capsys.readouterr().err


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(INPUTS, OUTPUTS), nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


BROKEN = nn.Linear(INPUTS, OUTPUTS)
torch.nn.init.constant_(BROKEN.weight, float("nan"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.BatchNorm1d(3)), "not mix the samples .* train mode at '1'. Call"),
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.Dropout()), "be deterministic; got dropout .* at '1'. Call"),
        (nn.TransformerEncoderLayer(INPUTS, 1), "be deterministic; got dropout in train mode"),
        (Centred(), "treat every sample on its own; got outputs that change"),
        (
            nn.Sequential(nn.Linear(INPUTS, 4), nn.Unflatten(1, (2, 2))),
            r"return outputs \(n, C\); got shape \(1, 2, 2\)",
        ),
        (nn.ReLU(), "have trainable parameters; got none"),
        (BROKEN, "finite gradients; got NaN"),
        (nn.Sequential(nn.Embedding(9, 3, max_norm=1.0), nn.Flatten()), "look up '0' without max_norm"),
    ],
)
def test_models_that_have_no_kernel(model: nn.Module, message: str) -> None:
    tokens = any(isinstance(part, nn.Embedding) for part in model.modules())
    x = torch.ones(2, 3, dtype=torch.long) if tokens else inputs()
    with pytest.raises(ValueError, match=f"`model` must .*{message}"):
        kernel(model.double(), x)


@pytest.mark.parametrize(
    ("x1", "x2", "message"),
    [
        (inputs(), torch.randn(2, 8), r"`x1` and `x2` must hold samples of one shape; got \(7,\) and \(8,\)"),
        (torch.ones(2, INPUTS, dtype=torch.long), None, "^`x1` must be torch.float64 for this model; got torch.int64"),
        (inputs()[0], None, r"`x1` must hold samples along its first axis; got shape \(7,\)"),
        (inputs()[:0], None, r"`x1` must hold samples along its first axis; got shape \(0, 7\)"),
        (inputs(), inputs() * float("inf"), "`x2` must be finite; got NaN or infinity"),
    ],
)
def test_samples_that_have_no_kernel(x1: Tensor, x2: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel(nn.Linear(INPUTS, OUTPUTS).double(), x1, x2)


def test_other_mistakes() -> None:
    model = nn.Linear(INPUTS, OUTPUTS).double()
    with pytest.raises(ValueError, match="`kind` must be 'full', 'trace' or 'diagonal'; got 'ntk'"):
        kernel(model, inputs(), kind="ntk")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`w` must hold trainable parameters of the model; got 'wrong'"):
        kernel(model, inputs(), w={"wrong": torch.ones(2)})


@pytest.mark.parametrize("kind", ["full", "trace", "diagonal"])
@pytest.mark.parametrize("memory", [2**20, 700])
def test_a_kernel_beyond_the_numbers_is_refused(kind: Any, memory: int, tmp_path: Path) -> None:
    model, x = nn.Linear(5, 3), torch.full((9, 5), 1e20)
    for call in (kernel, own_kernel, layer_kernels, partial(kernel, out=tmp_path / kind)):
        with pytest.raises(ValueError, match=r"^`model` must have a kernel within the range of torch\.float32"):
            call(model, x, kind=kind, memory_bytes=memory if call is not own_kernel else 2**20)
    found = kernel(model, x * 4e-2, kind=kind, memory_bytes=memory)  # each entry is there, and their sum is none
    assert found.isfinite().all()
    assert kernel(model.double(), x.double(), kind=kind).isfinite().all()
