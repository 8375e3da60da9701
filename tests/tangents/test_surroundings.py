"""What a call stands in, such as inference mode or another default device, changes no number without a word."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import jacobian, kernel, layer_kernels, linearize, plan, sketch
from tests.tangents.unusual import by_rows

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() + 0.1 for name, p in model.named_parameters()}


CALLS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "kernel": kernel,
    "plan": lambda model, x: plan(model, x).operations,
    "dense": lambda model, x: jacobian(model, x).dense(),
    "times": lambda model, x: jacobian(model, x).times(x[:, :3]),
    "sketch": lambda model, x: sketch(model, x, 7, seed=2),
    "structured sketch": lambda model, x: sketch(model, x, 7, kind="structured"),
    "linearised": lambda model, x: linearize(model)(weights(model), x),
    "layers": lambda model, x: sum(one.sum() for one in layer_kernels(model, x).values()),
}


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode_has_no_derivatives(name: str) -> None:
    call, model = CALLS[name], network()
    right = call(model, X)
    with torch.inference_mode():
        made_there, x = network(), X.clone()
        with pytest.raises(ValueError, match=r"^`torch\.inference_mode` must be off where derivatives are taken; got"):
            call(model, X)
    found = call(made_there, x)  # what was made in it has derivatives outside of it
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(right))


def test_products_in_inference_mode() -> None:
    j = jacobian(network(), X)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"^`torch\.inference_mode` must be off where"):
        j.times(torch.ones(5, 3))


@pytest.mark.parametrize("name", CALLS)
def test_another_default_device(name: str) -> None:
    call, model = CALLS[name], network()
    right = call(model, X)
    torch.set_default_device("meta")  # as "cuda" is where model and samples are on the CPU
    try:
        found = call(model, X)
    finally:
        torch.set_default_device(None)
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(right))


def test_transforms_around_a_kernel() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"^`x1` must be given outside of the transforms of torch\.func; got a tensor"):
        torch.func.vmap(lambda x: kernel(model, x))(torch.stack([X, X]))
    with pytest.raises(ValueError, match=r"^`model` must be given outside of the transforms of torch\.func; got a te"):
        torch.func.grad(lambda z: kernel(model, X).sum() * z)(torch.tensor(1.0))


def test_a_jacobian_stays_what_it_was_while_its_model_is_trained() -> None:
    model = nn.Sequential(network(), nn.BatchNorm1d(3)).eval()
    j, alpha = jacobian(model, X), X[:, :3]
    before = {name: part.clone() for name, part in j.w.items()}, j.dense(), j.times(alpha)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert all(torch.equal(j.w[name], part) for name, part in before[0].items())
    assert torch.equal(j.dense(), before[1])
    assert torch.equal(j.times(alpha), before[2])
    model.train()
    for call in (j.dense, lambda: j.vjp(alpha), lambda: j.jvp(j.w)):
        with pytest.raises(
            ValueError, match=r"^`model` must not mix the samples of a batch; got batch norm in train m"
        ):
            call()


def test_running_statistics_of_an_instance_norm_are_left_alone() -> None:
    torch.manual_seed(1)
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    model = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 2), norm, nn.Flatten()).double()
    x = X.double()
    literal = by_rows(copy.deepcopy(model), x)
    before = copy.deepcopy(model.state_dict())
    assert torch.allclose(kernel(model, x), torch.einsum("ncp,mdp->nmcd", literal, literal))
    assert torch.allclose(jacobian(model, x).dense(), literal)
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


def test_a_model_that_is_refused_keeps_its_buffers() -> None:
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^`model` must not change in a forward pass; got other numbers in its buff"):
        kernel(model, X)
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


@pytest.mark.parametrize("name", ["kernel", "dense", "linearised"])
def test_threads_share_a_model(name: str) -> None:
    """Its parameters are exchanged in place: another thread's would be taken, and stay there."""
    model, x = network().double(), X.double()
    before = dict(model.named_parameters())
    calls: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
        "kernel": lambda w: kernel(model, x, w=w),
        "dense": lambda w: jacobian(model, x, w=w).dense(),
        "linearised": lambda w: linearize(model, w)(before, x).detach(),
    }
    at = [{name: p.detach() * scale for name, p in before.items()} for scale in (0.5, 1.0, 2.0)]
    expected = [calls[name](w) for w in at]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(calls[name], at * 8))
    assert all(map(torch.equal, found, expected * 8))
    assert all(p is before[name] for name, p in model.named_parameters())
