"""Chains: which models are one, and that a pass of all samples gives what samples one by one do."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent import trees
from fedtangent.tangents.capture.factors import factors, kept_inputs, pulled_back
from fedtangent.tangents.capture.verified_uses import uses
from tests.tangents.networks import inputs, weights

N = 5


def net(*parts: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(*parts).double()


class By(nn.Module):
    """Two linear maps and a forward of one's own."""

    def __init__(self, way: Callable[["By", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.a, self.b, self.way = nn.Linear(7, 6), nn.Linear(6, 3), way
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: net(nn.Linear(7, 3)),
    "one hidden layer": lambda: net(nn.Flatten(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)),
    "two, and in place": lambda: net(
        nn.Linear(7, 6), nn.ELU(), nn.Linear(6, 4, bias=False), nn.SiLU(inplace=True), nn.Linear(4, 3)
    ),
    "two functions": lambda: net(nn.Linear(7, 6), nn.Sigmoid(), nn.Softplus(2.0), nn.Dropout(0.0), nn.Linear(6, 3)),
    "weights by keyword": lambda: By(lambda m, x: F.linear(torch.tanh(m.a(x)), bias=m.b.bias, weight=m.b.weight)),
    "own forward": lambda: By(lambda m, x: m.b(torch.tanh(m.a(x.reshape(x.size(0), -1))))),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "a function after the last": lambda: By(lambda m, x: 2 * m.b(torch.tanh(m.a(x)))),
    "a sum around a layer": lambda: By(lambda m, x: m.b(torch.tanh(m.a(x)) + x[:, :6])),
    "one that reads values": lambda: By(lambda m, x: m.b(torch.tanh(m.a(x)) if float(x.sum()) < 1e9 else m.a(x))),
    "scaled samples": lambda: By(lambda m, x: m.b(torch.tanh(m.a(0.5 * x)))),
    "turned samples": lambda: By(lambda m, x: m.b(torch.tanh(m.a(x.reshape(-1, 7, 1).flip(1).flatten(1))))),
    "a normalised layer": lambda: net(nn.Linear(7, 6), nn.LayerNorm(6), nn.Linear(6, 3)),
    "one map twice": lambda: By(lambda m, x: m.b(F.linear(torch.tanh(m.a(x)), m.a.weight[:, :6]))),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_pass_of_all_samples_gives_what_samples_one_by_one_do(name: str) -> None:
    model, x = CHAINS[name](), inputs(N)
    w = weights(model)
    found = uses(model, w, x)
    assert found.chain is not None
    single, alpha = replace(found, chain=None), torch.randn(N, 3, dtype=torch.float64)
    pairs = [
        (factors(model, w, x, found), factors(model, w, x, single)),
        (pulled_back(model, w, x, found, alpha), pulled_back(model, w, x, single, alpha)),
        (kept_inputs(model, w, x, found, [*found.by_name]), kept_inputs(model, w, x, single, [*found.by_name])),
    ]
    assert torch.allclose(found.chain.run(w, x)[0], model(x))
    for at_once, one_by_one in pairs:
        for a, b in zip(trees.leaves(at_once), trees.leaves(one_by_one), strict=True):
            assert a.shape == b.shape
            assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_model_is_none(name: str) -> None:
    model = OTHERS[name]()
    assert uses(model, weights(model), inputs(N)).chain is None


@pytest.mark.parametrize("trained", [["2.weight", "2.bias"], ["0.weight", "2.weight", "2.bias"]])
def test_frozen_maps_and_biases_are_none(trained: list[str]) -> None:
    model = net(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))
    w = {name: weights(model)[name] for name in trained}
    assert uses(model, w, inputs(N)).chain is None


def test_a_given_result_takes_the_place_of_a_map_and_probes_are_added() -> None:
    model, x = CHAINS["one hidden layer"](), inputs(N)
    w, z = weights(model), torch.randn(N, 6, dtype=torch.float64)
    found = uses(model, w, x).chain
    assert found is not None
    first, last = (link.key for link in found.links)
    f, kept = found.run(w, x, {last: torch.full((N, 3), 2.0, dtype=torch.float64)}, {first: z})
    assert torch.allclose(f, torch.tanh(z) @ w["3.weight"].T + w["3.bias"] + 2)
    assert torch.equal(kept[last], torch.tanh(z))
