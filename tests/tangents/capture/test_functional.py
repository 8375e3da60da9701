"""What cannot be vmapped is done one by one; what does not fit is not tried again; nothing is fused, or left behind."""

import copy
import warnings
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fedtangent import tangents
from fedtangent.tangents import jacobian, kernel
from fedtangent.tangents.capture.functional import each, plain, plain_forward
from tests.tangents.random_models import by_autograd
from tests.tangents.unusual import by_rows, flat, like, samples


def test_a_function_that_looks_at_its_data_is_done_one_by_one() -> None:
    x = torch.tensor([1.0, -2.0, 3.5])
    assert each(lambda x: 2 * x if x.item() > 0 else -x, x).tolist() == [2.0, 2.0, 7.0]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_too_little_memory_is_told_at_once(error: RuntimeError) -> None:
    calls = []

    def fails(x: Tensor) -> Tensor:
        calls.append(x)
        raise error

    with pytest.raises(RuntimeError, match="memory"):
        each(fails, torch.ones(3))
    assert len(calls) == 1


@pytest.mark.parametrize("said", ["is deprecated. Please", "is not supported in Python 3.14+ and may break. Please"])
def test_torch_does_not_warn_users_of_what_it_scripts_itself(said: str) -> None:
    """Its words, of which the second are those in Python 3.14, where it loads derivatives in forward mode."""
    with plain_forward():
        warnings.warn(f"`torch.jit.script` {said} switch to `torch.compile`.", FutureWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="of somebody else"):
            warnings.warn("of somebody else", UserWarning, stacklevel=1)


class Keeps(nn.Module):
    """Keeps what a pass brings, has a buffer that follows it, and a recurrent layer, which keeps its weights itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.cell, self.b = nn.Linear(4, 5), nn.RNNCell(5, 3), nn.Linear(3, 2)
        self.recurrent = nn.RNN(3, 3, batch_first=True)
        self.maps: list[Tensor] = []
        self.last: Tensor | None = None
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(torch.tanh(self.a(x)))
        self.last, self.mean, self.fresh = h, h.mean(0), h
        self.maps.append(h)
        return self.b(self.recurrent(h[:, None])[0][:, 0])  # type: ignore[no-any-return]


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
USES: dict[str, Callable[[nn.Module], object]] = {
    "kernel": lambda m: tangents.kernel(m, X),
    "cross kernel": lambda m: tangents.kernel(m, X, X[:2]),
    "plan": lambda m: tangents.plan(m, X),
    "dense": lambda m: tangents.jacobian(m, X).dense(),
    "times": lambda m: tangents.jacobian(m, X).times(torch.ones(6, 2).double()),
    "linearize": lambda m: tangents.linearize(m)(dict(m.named_parameters()), X),
    "sketch": lambda m: tangents.sketch(m, X, size=3),
    "spectrum": lambda m: tangents.spectrum(tangents.jacobian(m, X), 2),
}


@pytest.mark.parametrize("name", USES)
def test_a_module_holds_afterwards_what_it_held_before(name: str) -> None:
    model = Keeps().double()
    parts = [(part, dict(vars(part))) for part in model.modules()]
    USES[name](model)
    for part, before in parts:
        assert vars(part).keys() == before.keys()
        assert all(vars(part)[key] is value for key, value in before.items())
    assert (model.maps, model.last) == ([], None)
    assert torch.equal(model.mean, torch.zeros(3).double())
    assert all(own is p for own, p in zip(model.recurrent._flat_weights, model.recurrent.parameters(), strict=True))
    again = deepcopy(model)
    assert torch.equal(again(X), model(X))


def net(below: nn.Module, above: int, then: Callable[[Tensor], Tensor]) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.head = below, nn.Linear(above, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(then(self.below(x)))

    return Net()


def last(found: tuple[Tensor, Tensor]) -> Tensor:
    return found[0][:, -1]


IDS = torch.randint(0, 7, (5, 4), generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (net(nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True), 12, last), SEQUENCES),
        (net(nn.GRU(4, 6, batch_first=True), 6, last), SEQUENCES),
        (net(nn.RNN(4, 6, batch_first=True, nonlinearity="relu"), 6, last), SEQUENCES),
        (net(nn.Embedding(7, 6, sparse=True), 6, lambda z: z.mean(1)), IDS),
        (net(nn.Embedding(7, 6, padding_idx=2, sparse=True), 6, lambda z: z.mean(1)), IDS),
        (net(nn.Embedding(7, 6, padding_idx=-3), 6, lambda z: z.tanh().sum(1)), IDS),
        (net(nn.EmbeddingBag(7, 6, mode="sum", sparse=True, padding_idx=2), 6, torch.tanh), IDS),
    ],
)
def test_layers_that_torch_fuses_in_single_precision(model: nn.Module, x: Tensor) -> None:
    """Where torch has a rule of its own for speed, in the precision in which it has it."""
    double = copy.deepcopy(model).double()
    for part in double.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            part.sparse = False
    literal = by_rows(double, x.double() if x.is_floating_point() else x)
    j = jacobian(model, x)
    v = like(j.w, 3)
    assert_near(j.dense(), literal)
    assert_near(j.jvp(v), literal @ flat(v).double())
    assert_near(flat(j.vjp(torch.ones(5, 3))), literal.sum((0, 1)))
    assert_near(kernel(model, x), torch.einsum("ncp,mdp->nmcd", literal, literal))


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    assert float((found - expected).norm()) < 1e-5 * float(expected.norm())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(5).eval(), nn.InstanceNorm2d(5, affine=True)])
def test_a_normalisation_takes_a_derivative_in_any_order(norm: nn.Module) -> None:
    """One sample's, channels last with a batch axis that came from unsqueeze: PyTorch reads it as another."""
    norm.double()
    x, d = torch.randn(2, 1, 5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = d[0].permute(1, 2, 0).contiguous().permute(2, 0, 1).unsqueeze(0)
    assert turned.stride() == (5, 1, 15, 5)
    with plain():
        of_bias, of_input = torch.autograd.grad(norm(x.requires_grad_()), [norm.bias, x], turned)
        same = torch.autograd.grad(norm(x), x, d)[0]
    torch.testing.assert_close(of_bias, d.sum((0, 2, 3)))
    torch.testing.assert_close(of_input, same)


def test_prelu_mapped_over_samples_and_as_many_outputs() -> None:
    """PyTorch's own rule mixes two mapped axes of one length."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    model[1].weight.requires_grad_(False).uniform_(-1, 1)
    x = torch.randn(2, 3, dtype=torch.float64)
    j = by_autograd(model, x)
    torch.testing.assert_close(kernel(model, x), torch.einsum("ncp,mdp->nmcd", j, j))


def test_plain_leaves_everything_as_it_was() -> None:
    flags = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled())
    lstm, seen = nn.LSTM(4, 3), []
    lstm.register_forward_hook(lambda *_: seen.append(torch._C._get_mkldnn_enabled()))
    with plain():
        lstm(torch.ones(2, 1, 4))
    assert seen == [True]  # switched off for the call alone
    assert flags == (
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.mha.get_fastpath_enabled(),
    )


def test_compiled_models_and_parts() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3)).double(), samples()
    expected, literal = kernel(model, x), by_rows(model, x)
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    compiled(x)
    assert list(jacobian(compiled, x).w) == [name for name, _ in compiled.named_parameters()]
    part = nn.Sequential(torch.compile(copy.deepcopy(model[:3]), backend="eager"), model[3])
    within = copy.deepcopy(model)
    within.compile(backend="eager")
    for one in (compiled, part, within):
        assert torch.equal(kernel(one, x), expected)
        j = jacobian(one, x)
        assert torch.allclose(j.jvp(like(j.w, 1)), literal @ flat(like(j.w, 1)))
    assert torch.equal(compiled(x), model(x))
