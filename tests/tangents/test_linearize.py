"""The first-order model against f_0 + J (w - w_0) with an explicit J, and trained as such."""

import copy
import math
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents.linearize import Linearized, linearize
from fedtangent.training import losses
from tests.tangents.networks import INPUTS, inputs, jacobian, networks, weights
from tests.tangents.test_sketch import Recurrent, Tokens

# by its name, since the package's attribute of that name is the function
module = import_module("fedtangent.tangents.linearize")
X = inputs()


def moved(w: dict[str, Tensor], by: float = 0.5, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: p + by * torch.randn(p.shape, dtype=p.dtype, generator=generator) for name, p in w.items()}


def flat(w: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in w.values()])


def by_hand(model: nn.Module, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """f(x; w_0) + J (w - w_0)."""
    return model(x).detach() + jacobian(model, x) @ (flat(w) - flat(weights(model)))


@pytest.mark.parametrize("name", networks())
def test_it_is_the_first_order_model(name: str) -> None:
    model = networks()[name]
    f_lin, w = linearize(model), moved(weights(model))
    assert torch.allclose(f_lin(w, X), by_hand(model, w, X), rtol=1e-12, atol=1e-12)
    assert torch.equal(f_lin(f_lin.w_0, X), model(X))
    one = next(iter(w))
    assert not linearize(model, {one: w[one]})({one: w[one]}, X).requires_grad


def test_attention() -> None:
    torch.manual_seed(4)
    model, words = Tokens().double(), torch.randint(11, (5, 6))
    w = moved(weights(model))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = by_hand(model, w, words)
    assert torch.allclose(linearize(model)(w, words), expected, rtol=1e-11, atol=1e-11)


def test_a_recurrent_layer() -> None:
    torch.manual_seed(6)
    model, x = Recurrent().double(), torch.randn(4, 5, INPUTS, dtype=torch.float64)
    rows = [torch.autograd.grad(f, list(model.parameters()), retain_graph=True) for f in model(x).flatten()]
    j = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).reshape(4, 3, -1)
    f_lin = linearize(model)
    w = moved(f_lin.w_0)
    expected = model(x).detach() + j @ (flat(w) - flat(f_lin.w_0))
    assert torch.allclose(f_lin(w, x), expected, rtol=1e-11, atol=1e-11)


def test_at_other_weights_and_some_of_them_frozen() -> None:
    model = networks()["deep"]
    w_0 = moved(weights(model), seed=7)
    at_w_0 = copy.deepcopy(model)
    at_w_0.load_state_dict(w_0)
    w = moved(w_0)
    assert torch.allclose(linearize(model, w_0)(w, X), by_hand(at_w_0, w, X), rtol=1e-12, atol=1e-12)
    some = "1.weight"
    rest_still = {name: w[name] if name == some else part for name, part in weights(model).items()}
    model.requires_grad_(False).get_parameter(some).requires_grad_(True)
    f_lin = linearize(model)
    assert list(f_lin.w_0) == [some]
    assert not f_lin(f_lin.w_0, X).requires_grad
    assert torch.allclose(f_lin({some: w[some]}, X), by_hand(model, rest_still, X), rtol=1e-12, atol=1e-12)


def test_it_can_be_trained() -> None:
    """Gradient descent on it by torch.func.grad, against the literal recursion w <- w - lr J^T dL/df."""
    model, y = networks()["deep"], torch.tensor([0, 2, 1, 0, 2])
    f_lin, j, f_0 = linearize(model), jacobian(model, X), model(X).detach()
    gradient = torch.func.grad(lambda w: losses.mean(losses.cross_entropy, f_lin(w, X), y))
    w, change = f_lin.w_0, torch.zeros(j.shape[2], dtype=torch.float64)
    for _ in range(20):
        step = gradient(w)
        w = {name: part - 0.7 * step[name] for name, part in w.items()}
        residual = losses.cross_entropy.residual(f_0 + j @ change, y) / len(X)
        change = change - 0.7 * torch.einsum("nc,ncp->p", residual, j)
    assert torch.allclose(flat(w) - flat(f_lin.w_0), change, rtol=1e-10, atol=1e-12)
    assert float(losses.mean(losses.cross_entropy, f_lin(w, X), y)) < 0.9 * float(
        losses.mean(losses.cross_entropy, f_0, y)
    )


def test_autograd_and_vmap_take_it() -> None:
    model = networks()["deep"]
    f_lin, j = linearize(model), jacobian(model, X)
    w = {name: part.clone().requires_grad_() for name, part in moved(f_lin.w_0).items()}
    f_lin(w, X).sum().backward()
    assert torch.allclose(torch.cat([part.grad.flatten() for part in w.values()]), j.sum((0, 1)), rtol=1e-11)
    several = [moved(f_lin.w_0, seed=seed) for seed in range(3)]
    stacked = {name: torch.stack([each[name] for each in several]) for name in f_lin.w_0}
    expected = torch.stack([f_lin(each, X) for each in several])
    assert torch.allclose(torch.func.vmap(f_lin, (0, None))(stacked, X), expected, rtol=1e-12, atol=1e-12)


def gap_by_hand(model: nn.Module, f_lin: Linearized, w: dict[str, Tensor], x: Tensor) -> tuple[float, float, float]:
    f, f_0, lin = torch.func.functional_call(model, w, (x,)), model(x).detach(), f_lin(w, x)
    off, far = ((f - lin) ** 2).mean().sqrt(), ((f - f_0) ** 2).mean().sqrt()
    return float(off), float(off / far), float((f.argmax(1) == lin.argmax(1)).double().mean())


@pytest.mark.parametrize("rows", [256, 2])
def test_the_gap(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    model, x = networks()["deep"], inputs(29)
    f_lin = linearize(model)
    w = moved(f_lin.w_0, by=0.8)
    gap = f_lin.gap(w, x)
    assert gap == pytest.approx(gap_by_hand(model, f_lin, w, x), rel=1e-12)
    assert gap.agreement is not None and 0.1 < gap.agreement < 1


def test_the_gap_falls_with_the_square_of_the_way() -> None:
    model = networks()["deep"]
    f_lin = linearize(model)
    near, nearer = (f_lin.gap(moved(f_lin.w_0, by=by), X) for by in (2e-4, 1e-4))
    assert near.absolute / nearer.absolute == pytest.approx(4, rel=0.01)
    assert near.relative / nearer.relative == pytest.approx(2, rel=0.01)
    assert nearer.agreement == 1


def test_a_gap_of_nothing() -> None:
    f_lin = linearize(networks()["deep"])
    assert f_lin.gap(f_lin.w_0, X) == (0, 0, 1)
    one = linearize(networks()["one output"])
    assert one.gap(moved(one.w_0), X).agreement is None
    linear = linearize(networks()["one layer"])
    assert linear.gap(moved(linear.w_0), X).relative < 1e-14


def test_a_gap_where_only_the_linearised_model_moves() -> None:
    """f = w^2 at w_0 = 1 and w = -1: f is where it was."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w**2

    gap = linearize(Square()).gap({"w": -torch.ones(1, dtype=torch.float64)}, torch.ones(1, 1, dtype=torch.float64))
    assert gap == (4, math.inf, None)


def test_later_training_of_the_model_does_not_change_it() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double().eval()
    f_lin = linearize(model)
    w = moved(f_lin.w_0)
    before, start = f_lin(w, X), flat(f_lin.w_0).clone()
    optimizer = torch.optim.SGD(model.train().parameters(), 0.5)
    model(X).square().mean().backward()
    optimizer.step()
    assert torch.equal(f_lin(w, X), before)
    assert torch.equal(flat(f_lin.w_0), start)
    assert f_lin.gap(weights(model), X).absolute > 0


def test_weights_of_others_are_an_error() -> None:
    model = networks()["one layer"]
    f_lin = linearize(model)
    for w, message in (
        (
            {"weight": f_lin.w_0["weight"]},
            r"^`w` must have the names and shapes of w_0; got 'bias' missing, for \(3,\)\. ",
        ),
        (f_lin.w_0 | {"new": X}, r"; got 'new' \(5, 7\), for nothing\. "),
        (f_lin.w_0 | {"bias": X[0]}, r"; got 'bias' \(7,\), for \(3,\)\. "),
    ):
        for use in (f_lin, f_lin.gap):
            with pytest.raises(ValueError, match=message):
                use(w, X)
    with pytest.raises(ValueError, match=r"^`w` must hold trainable parameters of the model; got 'new' "):
        linearize(model, {"new": X})


def test_a_wrong_model_is_an_error() -> None:
    drops: Any = nn.Sequential(nn.Linear(INPUTS, 3), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"^`model` must be deterministic; got dropout in train mode at '1'\. "):
        linearize(drops)
    with pytest.raises(ValueError, match=r"^`model` must have trainable parameters; got none\. "):
        linearize(nn.ReLU())
    deep = nn.Sequential(nn.Linear(INPUTS, 6), nn.Unflatten(1, (2, 3))).double()
    f_lin = linearize(deep)
    with pytest.raises(ValueError, match=r"^`model` must return outputs \(n, C\); got shape \(1, 2, 3\)\. Flatten"):
        f_lin.gap(f_lin.w_0, X)


def test_weights_and_inputs_of_another_type() -> None:
    f_lin, x = linearize(networks()["gated"].float()), inputs().float()
    w = {name: part + 0.1 for name, part in f_lin.w_0.items()}
    double = {name: part.double() for name, part in w.items()}
    assert torch.equal(f_lin(double, x), f_lin(w, x))
    assert f_lin.gap(double, x) == f_lin.gap(w, x)
    with pytest.raises(
        ValueError, match=r"^`x` must be torch\.float32, as in the first call; got torch\.float64\. Conv"
    ):
        f_lin(w, x.double())
    for other in (list(w.values()), None, {name: part.numpy() for name, part in w.items()}):
        with pytest.raises(
            TypeError, match=r"^`w` must be a dict of tensors, as w_0; got (list|NoneType|dict)\. Start"
        ):
            f_lin(other, x)  # type: ignore[arg-type]
