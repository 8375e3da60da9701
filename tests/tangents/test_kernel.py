"""Kernels and products from factors equal those of the explicit Jacobian, to 1e-10, on every kind of layer."""

import pytest
import torch
from torch import nn

from fedtangent.tangents.factors import Dense, Gated, Last, factors
from fedtangent.tangents.kernel import full, operator, pullback, pushforward, trace
from tests.tangents.networks import INPUTS, flat, inputs, jacobian, networks, weights

MODELS = networks()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return MODELS[request.param]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= 1e-10 * b.norm())


def test_the_outputs_come_along(model: nn.Module) -> None:
    assert torch.equal(factors(model, weights(model), inputs())[0], model(inputs()).detach())


def test_full_kernel(model: nn.Module) -> None:
    w, x1, x2 = weights(model), inputs(), inputs(8, seed=1)
    first, second = factors(model, w, x1)[1], factors(model, w, x2)[1]
    j1, j2 = jacobian(model, x1), jacobian(model, x2)
    assert close(full(first, w), torch.einsum("ncp,mdp->ncmd", j1, j1))
    assert close(full(first, w, second), torch.einsum("ncp,mdp->ncmd", j1, j2))


def test_trace_kernel(model: nn.Module) -> None:
    w, x1, x2 = weights(model), inputs(), inputs(8, seed=1)
    first, second = factors(model, w, x1)[1], factors(model, w, x2)[1]
    j1, j2 = jacobian(model, x1), jacobian(model, x2)
    assert close(trace(first, w), torch.einsum("ncp,mcp->nm", j1, j1) / j1.shape[1])
    assert close(trace(first, w, second), torch.einsum("ncp,mcp->nm", j1, j2) / j1.shape[1])


@pytest.mark.parametrize("samples", [5, 40])  # few samples choose Gram matrices, many the inputs
def test_products(model: nn.Module, samples: int) -> None:
    w, x = weights(model), inputs(samples)
    f, its = factors(model, w, x)
    j = jacobian(model, x)
    alpha = torch.randn(2, *f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = torch.einsum("tnc,ncp->tp", alpha, j)
    assert close(flat(pullback(its, w, alpha)), v)
    assert close(pushforward(its, w, pullback(its, w, alpha)), torch.einsum("tp,ncp->tnc", v, j))
    assert close(operator("full", its, w).times(alpha[0]), torch.einsum("p,ncp->nc", v[0], j))
    kernel = torch.einsum("ncp,mcp->nm", j, j) / f.shape[1]
    assert close(operator("trace", its, w).times(alpha[0]), kernel @ alpha[0])


def test_everything_maps_over_nodes(model: nn.Module) -> None:
    """Under vmap, with weights and inputs of two nodes, each gets what it gets alone."""
    first, x = weights(model), torch.stack([inputs(), inputs(seed=2)])
    both = {name: torch.stack([part, part * 0.7 + 0.1]) for name, part in first.items()}

    def product(w: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, its = factors(model, w, x)
        return trace(its, w), operator("full", its, w).times(f)

    mapped = torch.func.vmap(product)(both, x)
    for node in range(2):
        alone = product({name: part[node] for name, part in both.items()}, x[node])
        assert all(close(many[node], one) for many, one in zip(mapped, alone, strict=True))


def test_the_shortest_form_is_found() -> None:
    kinds = {name: [type(f) for f in factors(m, weights(m), inputs())[1].values()] for name, m in MODELS.items()}
    assert kinds["one layer"] == [Last]
    assert kinds["gated"] == [Gated, Last]
    assert kinds["deep"] == [Dense, Gated, Last]
    assert kinds["layer norm between"] == [Dense, Last]
    assert kinds["softmax at the end"] == [Dense, Dense]
    assert kinds["own module"] == [Dense, Dense]


def test_one_hidden_layer_costs_no_float_more_than_its_inputs_and_gates() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    its = factors(model, weights(model), inputs())[1]
    assert sum(leaf.numel() for factor in its.values() for leaf in factor) == 5 * (INPUTS + 6 + 6)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, INPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(INPUTS, 3), nn.Linear(INPUTS, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.BatchNorm1d(3)), "not mix the samples .* train mode at '1'"),
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.Dropout()), "be deterministic; got dropout .* at '1'"),
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.LayerNorm(3)), "in Linear layers; got '1.bias'"),
        (Tied(), "use every layer once; got 'layer.' twice"),
        (Idle(), "use every layer; got 'idle.' unused"),
        (
            nn.Sequential(nn.Unflatten(1, (1, INPUTS)), nn.Linear(INPUTS, 3)),
            "apply '1.' to .rows, features.; got 3 axes",
        ),
        (nn.Sequential(nn.Linear(INPUTS, 4), nn.Unflatten(1, (2, 2))), "return .rows, outputs.; got 3 axes"),
    ],
)
def test_models_that_factors_do_not_cover(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"`model` must .*{message}"):
        factors(model.double(), weights(model), inputs())


def test_frozen_parameters_take_no_part() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double().eval()
    w = {name: p for name, p in weights(model).items() if not name.startswith("1.")}
    assert list(factors(model, w, inputs())[1]) == ["0.", "2."]


def test_kernel_names() -> None:
    model = MODELS["gated"]
    with pytest.raises(ValueError, match="`kernel` must be 'trace' or 'full'; got 'ntk'"):
        operator("ntk", factors(model, weights(model), inputs())[1], weights(model))  # type: ignore[arg-type]
