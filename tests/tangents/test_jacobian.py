"""The Jacobian as an operator equals the explicit one, to 1e-10, on every kind of layer."""

import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import Jacobian, jacobian
from tests.tangents import networks
from tests.tangents.networks import INPUTS, OUTPUTS, Example, everything, inputs, weights

EXAMPLES = everything()


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= 1e-10 * b.norm())


def general(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat(w: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in w.values()])


def products(j: Jacobian, literal: Tensor) -> None:
    v = {name: general(tuple(part.shape), i) for i, (name, part) in enumerate(j.w.items())}
    alpha = general(literal.shape[:2], 99)
    assert j.shape == literal.shape
    assert close(j.jvp(v), literal @ flat(v))
    assert list(j.vjp(alpha)) == list(j.w)
    assert close(flat(j.vjp(alpha)), torch.einsum("nc,ncp->p", alpha, literal))
    assert close(j.times(alpha), torch.einsum("ncp,mdp,md->nc", literal, literal, alpha))
    assert close(j.dense(), literal)


@pytest.mark.few(8)
def test_products(example: Example) -> None:
    x = example.samples(5)
    j = jacobian(example.model, x)
    products(j, networks.jacobian(example.model, x))
    assert close(j.f, example.model(x).detach())
    assert all(torch.equal(j.w[name], part) for name, part in weights(example.model).items())


@pytest.mark.few(8)
def test_little_memory_gives_the_same(example: Example) -> None:
    x = example.samples(5)
    j = jacobian(example.model, x, memory_bytes=1)
    assert j.chunk == 1
    products(j, networks.jacobian(example.model, x))


def test_a_function_without_a_forward_derivative() -> None:
    class Halved(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x / 2

        @staticmethod
        def setup_context(ctx, inputs, output) -> None: ...

        @staticmethod
        def backward(ctx, d: Tensor) -> Tensor:
            return d / 2

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(INPUTS, OUTPUTS)

        def forward(self, x: Tensor) -> Tensor:
            return Halved.apply(self.layer(x))

    model = Model().double()
    products(jacobian(model, inputs()), networks.jacobian(model, inputs()))


def test_mistakes() -> None:
    j = jacobian(nn.Linear(INPUTS, OUTPUTS).double(), inputs())
    with pytest.raises(ValueError, match=r"`alpha` must have the shape of the outputs, \(5, 3\); got \(5, 2\)"):
        j.vjp(torch.ones(5, 2).double())
    with pytest.raises(ValueError, match="`v` must be a tree like the weights"):
        j.jvp({"weight": torch.ones(3, 7).double()})
    with pytest.raises(ValueError, match="`x` must be finite; got NaN or infinity"):
        jacobian(nn.Linear(INPUTS, OUTPUTS).double(), inputs() / 0)
    with pytest.raises(ValueError, match="`model` must have finite outputs"):
        jacobian(nn.Linear(INPUTS, OUTPUTS).double(), inputs(), w={"bias": torch.full((3,), torch.nan).double()})
