"""Products from factors equal those with the explicit Jacobian, to 1e-10, on every kind of layer."""

import pytest
import torch
from torch import nn

from fedtangent import trees
from fedtangent.tangents.capture.factors import Dense, Gated, Last, factors
from fedtangent.tangents.capture.kernel_operator import (
    Factored,
    Full,
    Trace,
    block,
    kernel_of_factors,
    pullback,
    pushforward,
)
from fedtangent.tangents.capture.verified_uses import known_uses, uses
from tests.tangents.networks import INPUTS, Example, everything, flat, inputs, jacobian, networks, weights

MODELS = networks()
EXAMPLES = everything()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= 1e-10 * b.norm())


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


@pytest.mark.few(8)
def test_the_outputs_come_along(example: Example) -> None:
    model, x = example.model, example.samples(5)
    w = weights(model)
    assert close(factors(model, w, x, uses(model, w, x))[0], model(x).detach())


@pytest.mark.few(8)
def test_blocks(example: Example) -> None:
    model, x = example.model, example.samples(5)
    w = weights(model)
    found = uses(model, w, x)
    its, j = factors(model, w, x, found)[1], jacobian(model, x)
    assert close(block("full", found, its, w), torch.einsum("ncp,mdp->ncmd", j, j))
    assert close(block("trace", found, its, w), torch.einsum("ncp,mcp->nm", j, j) / j.shape[1])


@pytest.mark.few(8)
def test_a_trace_kernel_of_many_rows_is_mirrored(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedtangent.tangents.capture.kernel_operator._LEAST", 2)
    model, x = example.model, example.samples(9)
    w = weights(model)
    found = uses(model, w, x)
    its, j = factors(model, w, x, found)[1], jacobian(model, x)
    kernel = block("trace", found, its, w)
    assert close(kernel, torch.einsum("ncp,mcp->nm", j, j) / j.shape[1])
    assert bool((kernel - kernel.T).abs().max() <= 1e-14 * kernel.abs().max())


@pytest.mark.few(14)
@pytest.mark.parametrize("samples", [5, 40])  # few samples choose Gram matrices, many the inputs
def test_products(example: Example, samples: int) -> None:
    model, x = example.model, example.samples(samples)
    w = weights(model)
    found = uses(model, w, x)
    f, its = factors(model, w, x, found)
    j = jacobian(model, x)
    alpha = torch.randn(2, *f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = torch.einsum("tnc,ncp->tp", alpha, j)
    assert close(flat(pullback(found, its, w, alpha)), v)
    assert close(pushforward(found, its, w, pullback(found, its, w, alpha)), torch.einsum("tp,ncp->tnc", v, j))
    assert close(kernel_of_factors("full", found, its, w).times(alpha[0]), torch.einsum("p,ncp->nc", v[0], j))
    kernel = torch.einsum("ncp,mcp->nm", j, j) / f.shape[1]
    assert close(kernel_of_factors("trace", found, its, w).times(alpha[0]), kernel @ alpha[0])


@pytest.mark.few(6)
@pytest.mark.parametrize("name", [*MODELS, "convolutions", "convolutions of sequences", "transformer"])
def test_everything_maps_over_nodes(name: str) -> None:
    """Under vmap, with weights and inputs of two nodes, each gets what it gets alone."""
    model, x = EXAMPLES[name].model, torch.stack([EXAMPLES[name].samples(5), EXAMPLES[name].samples(5, seed=2)])
    first = weights(model)
    both = {name: torch.stack([part, part * 0.7 + 0.1]) for name, part in first.items()}

    def product(w: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = known_uses(model, w, x)
        f, its = factors(model, w, x, found)
        return block("trace", found, its, w), kernel_of_factors("full", found, its, w).times(f)

    mapped = torch.func.vmap(product)(both, x)
    for node in range(2):
        alone = product({name: part[node] for name, part in both.items()}, x[node])
        assert all(close(many[node], one) for many, one in zip(mapped, alone, strict=True))


def form(model: nn.Module) -> list[type]:
    w = weights(model)
    return [type(f) for f in factors(model, w, inputs(), uses(model, w, inputs()))[1].values()]


def test_the_shortest_form_is_found() -> None:
    assert form(MODELS["one layer"]) == [Last]
    assert form(MODELS["gated"]) == [Gated, Last]
    assert form(MODELS["deep"]) == [Dense, Gated, Last]
    assert form(MODELS["layer norm between"]) == [Dense, Last]
    assert form(MODELS["softmax at the end"]) == [Dense, Dense]
    assert form(MODELS["own module"]) == [Dense, Dense]
    assert form(MODELS["skip"]) == [Dense, Dense]


def test_one_hidden_layer_costs_no_float_more_than_its_inputs_and_gates() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    w = weights(model)
    its = factors(model, w, inputs(), uses(model, w, inputs()))[1]
    assert trees.payload_bytes(its) == 8 * 5 * (INPUTS + 6 + 6)


def test_frozen_parameters_take_no_part() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double().eval()
    w = {name: p for name, p in weights(model).items() if not name.startswith("1.")}
    assert list(uses(model, w, inputs()).by_name) == ["0.", "2."]


def test_dense_layers_keep_the_full_kernel_in_factors() -> None:
    for name, kind in [("gated", Factored), ("tied", Full), ("scales", Full)]:
        w, x = weights(MODELS[name]), inputs()
        found = uses(MODELS[name], w, x)
        its = factors(MODELS[name], w, x, found)[1]
        assert isinstance(kernel_of_factors("full", found, its, w), kind)
        assert isinstance(kernel_of_factors("trace", found, its, w), Trace)


def test_kernel_names() -> None:
    model, x = MODELS["gated"], inputs()
    w = weights(model)
    found = uses(model, w, x)
    with pytest.raises(ValueError, match="`kernel` must be 'trace' or 'full'; got 'ntk'"):
        kernel_of_factors("ntk", found, factors(model, w, x, found)[1], w)  # type: ignore[arg-type]
