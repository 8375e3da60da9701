"""What cannot be vmapped is done one by one; what does not fit is not tried again; a module stays as it was."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fedtangent import tangents
from fedtangent.tangents.functional import each


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
