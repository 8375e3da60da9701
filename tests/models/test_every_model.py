"""What every model owes: first weights from its generator alone, and a forward pass that vmap and tangents can take."""

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent import tangents
from fedtangent.catalog import load, names
from fedtangent.training.losses import cross_entropy
from fedtangent.training.task import Task, Weights

MODELS = names("models")
OUTPUTS = 3
SHAPES = {"transformer": (7,)}  # all others take small images
SMALL = {"transformer": {"ids": 11, "width": 12, "heads": 3, "layers": 2, "feedforward": 5}}
WIDE = ("fedavg_cnn", "resnet18")  # where an explicit Jacobian would take long


def built(name: str, seed: int = 0) -> nn.Module:
    inputs, options = SHAPES.get(name, (2, 20, 18)), SMALL.get(name, {})
    model: nn.Module = load("models", name)(inputs, OUTPUTS, np.random.default_rng(seed), **options)
    return model


def rows(name: str, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if name == "transformer":
        ids = torch.randint(1, 11, (count, 7), generator=generator)
        return torch.where(torch.arange(7) < torch.tensor([7, 3, 5, 1])[:count, None], ids, 0).double()
    return torch.randn(count, 2, 20, 18, generator=generator, dtype=torch.float64)


def test_there_are_models_for_every_kind_of_data() -> None:
    assert {"linear", "mlp", "lenet", "fedavg_cnn", "resnet8", "resnet18", "transformer"} <= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_its_parameters_are_shape_outputs_and_generator_then_options(name: str) -> None:
    parameters = list(inspect.signature(load("models", name)).parameters.values())
    assert [parameter.name for parameter in parameters[:3]] == ["inputs", "outputs", "rng"]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters[3:])


@pytest.mark.parametrize("name", MODELS)
def test_first_weights_come_from_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        first, again, other = (built(name, seed).state_dict() for seed in (7, 7, 8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(part, again[key]) and part.dtype == torch.float32 for key, part in first.items())
    weights = [key for key, part in first.items() if part.dim() > 1]
    assert weights and not any(torch.equal(first[key], other[key]) for key in weights)
    assert all(first[key].std() > 0 for key in weights)
    assert not any(part.any() for key, part in first.items() if key.endswith("bias"))
    scales = [part for key, part in first.items() if key.endswith("weight") and part.dim() == 1]
    assert all(torch.equal(part, torch.ones_like(part)) for part in scales)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", MODELS)
def test_many_nodes_at_once_are_each_on_its_own(name: str) -> None:
    """Gradients of stacked weights by vmap, as the vectorised engine takes them, equal those one by one."""
    task = Task(built(name)).to("cpu", torch.float64)
    w_k = [Task(built(name, seed)).to("cpu", torch.float64).w_0 for seed in (1, 2)]
    x, y = rows(name), torch.tensor([0, 2, 1, 2])

    def loss(w: Weights, x: Tensor) -> Tensor:
        return cross_entropy.per_sample(task.predict(w, x), y).mean()

    gradient = torch.func.grad(loss)
    stacked = {key: torch.stack([w[key] for w in w_k]) for key in task.w_0}
    found = torch.func.vmap(gradient)(stacked, torch.stack([x, x.flip(0)]))
    for k, given in enumerate((x, x.flip(0))):
        for key, part in gradient(w_k[k], given).items():
            torch.testing.assert_close(found[key][k], part, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_no_row_looks_at_another(name: str) -> None:
    model, x = built(name).double(), rows(name)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WIDE])
def test_its_kernel_by_factors_is_that_of_its_jacobian(name: str) -> None:
    model, x = built(name).double(), rows(name, 3)
    w = {key: part.detach() for key, part in model.named_parameters()}
    j = torch.func.jacrev(lambda w: torch.func.functional_call(model, w, (x,)))(w)
    literal = sum(torch.einsum("ncp,mdp->nmcd", part.flatten(2), part.flatten(2)) for part in j.values())
    assert isinstance(literal, Tensor)
    torch.testing.assert_close(tangents.kernel(model, x), literal, rtol=1e-9, atol=1e-9 * literal.abs().max().item())
