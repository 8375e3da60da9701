"""J v and J^T alpha are those of backward passes, for models that other ways take otherwise, or not at all."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.multiply_adds import Counting
from fedtangent.tangents import evolve, jacobian, kernel, linearize, sketch
from fedtangent.tangents.capture.derivatives import FASTEST, Ways, known_ways, push, ways
from fedtangent.tangents.capture.functional import trainable
from fedtangent.tangents.capture.outputs import Picked
from fedtangent.tangents.sketch import projection
from tests.tangents import networks, unusual
from tests.tangents.unusual import MODELS, by_rows, flat, like, model, samples


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= 1e-10 * b.norm())


def at(net: nn.Module, w: dict[str, Tensor]) -> nn.Module:
    """The model with other weights."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(w[name])
    return net


@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_training(name: str) -> None:
    net, x = model(name), samples()
    w = {key: part + 0.3 * like(trainable(net), 7)[key] for key, part in trainable(net).items()}
    j = jacobian(net, x, w=w)
    literal = by_rows(at(net, w), x)
    v, alpha = like(w, 2), like({"f": j.f}, 3)["f"]
    assert close(flat(j.vjp(alpha)), torch.einsum("nc,ncp->p", alpha, literal))
    assert close(j.jvp(v), literal @ flat(v))
    assert close(j.times(alpha), torch.einsum("ncp,mdp,md->nc", literal, literal, alpha))
    assert close(j.f, at(net, w)(x.clone()).detach())
    assert close(j.dense(), literal)
    assert close(kernel(net, x, w=w), torch.einsum("ncp,mdp->nmcd", literal, literal))
    assert ways(Picked(net, None), w, x) == MODELS[name][1:]


def sorted_by_class(net: Any, x: Tensor) -> Tensor:
    """Of the last samples alone a part is taken without derivatives, which forward mode does not see."""

    def one(row: Tensor) -> Tensor:
        with torch.set_grad_enabled(bool(row[0] < 1)):
            hidden = net.lower(row[None])
        return torch.tanh(hidden + net.lower(row[None]))

    return torch.cat([one(row) for row in x])


def test_samples_that_are_sorted() -> None:
    torch.manual_seed(3)
    net, x = unusual.Between(sorted_by_class).double(), samples(6)
    x[:, 0] = torch.tensor([0, 0, 0, 0, 2, 2])
    literal, w = by_rows(net, x), trainable(net)
    assert close(jacobian(net, x).jvp(like(w, 2)), literal @ flat(like(w, 2)))
    f_lin = linearize(net)
    moved = {name: part + like(w, 2)[name] for name, part in w.items()}
    assert close(f_lin(moved, x) - f_lin(w, x), literal @ flat(like(w, 2)))


@pytest.mark.parametrize("name", MODELS)
def test_the_linearised_model_and_its_training(name: str) -> None:
    net, x = model(name), samples()
    f_lin = linearize(net)
    literal, alpha = by_rows(net, x), like({"f": torch.zeros(5, 3).double()}, 3)["f"]
    w = {key: part + like(f_lin.w_0, 5)[key] for key, part in f_lin.w_0.items()}
    d = flat(w) - flat(f_lin.w_0)
    assert close(f_lin(w, x), net(x.clone()).detach() + literal @ d)

    def loss(w: dict[str, Tensor]) -> Tensor:
        return (alpha * f_lin(w, x) ** 2).sum()

    slope = torch.einsum("nc,ncp->p", 2 * alpha * f_lin(w, x), literal)
    assert close(flat(torch.func.grad(loss)(w)), slope)
    own = {key: part.clone().requires_grad_() for key, part in w.items()}
    loss(own).backward()
    assert close(flat({key: part.grad for key, part in own.items()}), slope)
    v = like(w, 8)
    second = torch.func.jvp(torch.func.grad(loss), (w,), (v,))[1]
    assert close(flat(second), torch.einsum("nc,ncp->p", 2 * alpha * (literal @ flat(v)), literal))
    mapped = torch.func.vmap(lambda t: f_lin({key: t * part for key, part in w.items()}, x))(
        torch.tensor([1.0, 0.5]).double()
    )
    assert close(mapped[0], f_lin(w, x))


@pytest.mark.parametrize("name", ["checkpoint", "no_grad"])
def test_linearised_by_a_transform_at_once(name: str) -> None:
    """The first call, in which the way is found, lies inside of transforms."""
    net, x = model(name), samples()
    f_lin = linearize(net)
    w = {key: part + like(f_lin.w_0, 5)[key] for key, part in f_lin.w_0.items()}
    each = torch.func.vmap(torch.func.grad(lambda w, x: f_lin(w, x[None]).sum()), (None, 0))(w, x)
    assert close(torch.cat([part.flatten(1) for part in each.values()], 1), by_rows(net, x).sum(1))


@pytest.mark.parametrize("name", ["no_grad", "hook", "checkpoint", "once differentiable"])
def test_sketches_and_training_without_a_kernel(name: str) -> None:
    net, x = model(name), samples()
    literal = by_rows(net, x)
    r = projection(trainable(net), 7, seed=3)
    assert close(sketch(net, x, 7, seed=3), literal @ torch.cat([part.flatten(1) for part in r.values()], 1).T)
    k = torch.einsum("ncp,mdp->nmcd", literal, literal)
    y = like({"y": torch.zeros(5, 3).double()}, 4)["y"]
    j = jacobian(net, x)
    path = evolve(j, j.f, y, [2, 5], clock="descent", lr=0.01)
    assert close(path.f, evolve(k, j.f, y, [2, 5], clock="descent", lr=0.01).f)
    assert close(path.outputs(j, j), path.f)
    moved = torch.stack([flat({key: part[i] for key, part in path.weights(j).items()}) for i in range(2)])
    assert close(moved, flat(j.w) - torch.einsum("tnc,ncp->tp", path.alpha, literal))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")  # torch's own, in a user's jvp
def test_what_autograd_alone_takes_is_constant_in_weights_and_samples() -> None:
    """In place of a derivative that is zero in silence."""
    net, x = model("checkpoint"), samples()
    f_lin, found = linearize(net), ways(Picked(net, None), trainable(net), samples())
    message = (
        r"^`model` must be one that torch\.func can differentiate where J itself is differentiated, by weights or "
    )
    with pytest.raises(ValueError, match=message):
        torch.func.grad(lambda x: f_lin(f_lin.w_0, x).sum())(x)
    with pytest.raises(ValueError, match=message):
        w = f_lin.w_0
        torch.func.jvp(lambda w: push(Picked(net, None), w, x, f_lin.w_0, found)[1], (w,), (w,))


def test_a_backward_pass_that_is_not_linear_has_no_jacobian() -> None:
    torch.manual_seed(0)
    net = unusual.Between(lambda net, x: 20 * unusual.Clipped.apply(net.lower(x)).tanh()).double()
    j = jacobian(net, samples())
    with pytest.raises(
        ValueError, match=r"^`model` must have backward passes that are linear in .*; got one that is off"
    ):
        j.vjp(torch.ones_like(j.f))


def test_a_model_without_derivatives() -> None:
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.round()

    net = unusual.Between(lambda net, x: Rounded.apply(net.lower(x))).double()
    j = jacobian(net, samples())
    with pytest.raises(
        ValueError, match=r"^`model` must have a derivative by its parameters; got NotImplementedError: "
    ):
        j.jvp(j.w)


def test_every_usual_model_goes_forward() -> None:
    for name, example in networks.everything().items():
        found = ways(Picked(example.model, None), trainable(example.model), example.samples(4))
        assert found == FASTEST, name


def test_a_small_part_that_forward_mode_sees_otherwise_is_found() -> None:
    """A temperature without a derivative, among many parameters and in single precision."""

    class Warm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(20)))
            self.temperature = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                scale = 1 + 0.02 * self.temperature
            return self.layers(x) * scale

    net = Warm()
    assert ways(Picked(net, None), trainable(net), samples().float()) == Ways("backward twice", True)


def test_a_task_asks_once_near_its_weights_outside_of_all_transforms() -> None:
    net, x = model("no_grad"), samples()
    nn.init.zeros_(net.upper.weight)  # a head that hides at the start what lies below
    w, calls = trainable(net), []
    net.register_forward_hook(lambda *_: calls.append(1))

    def mapped(x: Tensor) -> Tensor:
        found = known_ways(net, w, None, x)
        assert found == Ways("backward twice", True)
        return push(net, w, x, w, found)[0]

    with Counting() as counting:
        torch.func.vmap(mapped)(x[:, None])
    first = len(calls)
    with Counting() as again:
        torch.func.vmap(mapped)(x[:, None])
    assert first > 2 * (len(calls) - first)
    assert counting.total == again.total  # who comes first does not pay for all


def test_a_task_asks_at_its_weights_where_those_near_them_give_no_numbers() -> None:
    class Roots(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.variances = nn.Linear(4, 8), nn.Parameter(torch.full((8,), 1e-6))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                z = self.layer(x)
            return self.layer(x) * z * self.variances.sqrt()

    net = Roots().double()
    assert known_ways(net, trainable(net), samples(), samples()) == Ways("backward twice", True)


def test_layers_in_a_plain_list_are_constants() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.last = [nn.Linear(4, 6)], nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layers[0](x))  # type: ignore[no-any-return]

    listed, x = Listed(), torch.randn(5, 4)
    j, literal = jacobian(listed, x), by_rows(listed, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, of a number taken of what still has a history
        assert torch.allclose(j.jvp(like(j.w, 1)), literal @ flat(like(j.w, 1)), atol=1e-5)
