"""The blocks against derivatives by hand, and against autograd row by row."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import pinn
from tests.tangents.networks import inputs

SIZES = {"u": 5, "r": 4, "left": 3}


def points(name: str, d: int = 2) -> Tensor:
    return inputs(SIZES[name], seed=len(name))[:, :d]


def plane(outputs: int) -> nn.Sequential:
    torch.manual_seed(outputs)
    return nn.Sequential(nn.Linear(2, 7), nn.Tanh(), nn.Linear(7, 6), nn.Softplus(), nn.Linear(6, outputs)).double()


def wave(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """u_tt - 4 u_xx + u u_x with (t, x), nonlinear in u."""
    second = torch.func.hessian(u)(x)
    return second[0, 0] - 4 * second[1, 1] + u(x) * torch.func.grad(u)(x)[1]


def slope(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """u_t by a forward derivative."""
    return torch.func.jvp(u, (x,), (torch.tensor([1.0, 0.0], dtype=x.dtype),))[1]


TERMS: dict[str, Any] = {
    "u": (pinn.identity, points("u")),
    "r": (wave, points("r")),
    "left": (slope, points("left")),
}


def row(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """The derivative of a term's value at a point by the weights, by autograd twice and thrice; (P,)."""
    x = x.clone().requires_grad_()
    u = model(x[None])[0, 0]
    (first,) = torch.autograd.grad(u, x, create_graph=True)
    second = [torch.autograd.grad(part, x, create_graph=True)[0] for part in first]
    value = {"u": u, "r": second[0][0] - 4 * second[1][1] + u * first[1], "left": first[0]}[name]
    parts = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def test_one_hidden_unit_by_hand() -> None:
    """u = v tanh(w x + b) + c: K_uu, K_ur, K_rr entry by entry."""
    w, b, v, c = 0.7, -0.3, 1.9, 0.4
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for p, value in zip(model.parameters(), (w, b, v, c), strict=True):
            p.fill_(value)
    x_u, x_r = torch.tensor([[-0.6], [0.2], [1.3]]).double(), torch.tensor([[0.5], [-1.1]]).double()

    def h(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.tanh(w * x + b)
        return t, 1 - t**2, -2 * t * (1 - t**2)

    def third(x: Tensor) -> Tensor:
        t = torch.tanh(w * x + b)
        return (1 - t**2) * (6 * t**2 - 2)

    def j_u(x: Tensor) -> list[Tensor]:
        t, t1, _ = h(x)
        return [v * x * t1, v * t1, t, torch.ones_like(x)]

    def j_r(x: Tensor) -> list[Tensor]:  # of u_xx = v w^2 tanh''(w x + b)
        _, _, t2 = h(x)
        return [2 * v * w * t2 + v * w**2 * x * third(x), v * w**2 * third(x), w**2 * t2, torch.zeros_like(x)]

    found = pinn.kernel(model, {"u": (pinn.identity, x_u), "r": (pinn.laplacian, x_r)})
    rows = {"u": [j_u(x[0]) for x in x_u], "r": [j_r(x[0]) for x in x_r]}
    for (a, b_), block in found.blocks.items():
        for i, left in enumerate(rows[a]):
            for j, right in enumerate(rows[b_]):
                assert float(block[i, j]) == pytest.approx(sum(float(p * q) for p, q in zip(left, right, strict=True)))
    assert found.sizes == {"u": 3, "r": 2}


@pytest.mark.parametrize("memory", [2**30, 20_000])
def test_every_block_equals_a_double_loop(memory: int) -> None:
    """Three terms, one nonlinear; in one piece, and in chunks of three points with ragged ends."""
    model = plane(1)
    found = pinn.kernel(model, TERMS, memory=memory)
    assert set(found.blocks) == {(a, b) for a in SIZES for b in SIZES}
    for (a, b), block in found.blocks.items():
        assert block.shape == (SIZES[a], SIZES[b])
        expected = torch.tensor(
            [[float((row(model, a, x) @ row(model, b, z)).detach()) for z in points(b)] for x in points(a)]
        )
        torch.testing.assert_close(block, expected.double(), rtol=1e-6, atol=1e-6)
    rows = torch.stack([row(model, name, x) for name in SIZES for x in points(name)])
    torch.testing.assert_close(found.matrix, rows @ rows.T, rtol=1e-10, atol=1e-10)


def test_the_rows_are_derivatives() -> None:
    """K v for a small step along J^T v, by central differences of the wave operator's values."""
    model = plane(1)
    w = {name: p.detach() for name, p in model.named_parameters()}
    v = torch.tensor([0.3, -1.2, 0.8, 0.5]).double()
    rows = torch.stack([row(model, "r", x) for x in points("r")])
    move = torch.nn.utils.parameters_to_vector(w.values())

    def values(step: float) -> Tensor:
        torch.nn.utils.vector_to_parameters(move + step * (rows.T @ v), list(model.parameters()))
        return torch.stack([wave(lambda p: model(p[None])[0, 0], x) for x in points("r")]).detach()

    change = (values(1e-5) - values(-1e-5)) / 2e-5
    block = pinn.kernel(model, {"r": TERMS["r"]}, w={k: p.clone() for k, p in zip(w, split(move, w), strict=True)})
    torch.testing.assert_close(block.matrix @ v, change, rtol=1e-6, atol=1e-6)


def split(vector: Tensor, like: dict[str, Tensor]) -> list[Tensor]:
    parts = vector.split([p.numel() for p in like.values()])
    return [part.view_as(p) for part, p in zip(parts, like.values(), strict=True)]


def test_several_equations_at_a_point() -> None:
    """A system: an operator of two values, rows point by point; a model of two outputs."""
    model = plane(2)

    def system(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.stack([torch.func.jacrev(u)(x)[0, 0] - u(x)[1], pinn.laplacian(u, x)[1], u(x)[0]])

    found = pinn.kernel(model, {"u": (pinn.identity, points("u")), "r": (system, points("r"))}, memory=40_000)
    w = {name: p.detach() for name, p in model.named_parameters()}

    def value(operator: Any) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
        return lambda w, x: operator(lambda p: torch.func.functional_call(model, w, (p[None],))[0], x)

    def jacobian(operator: Any, x: Tensor) -> Tensor:
        by_weight = [torch.func.jacrev(value(operator))(w, point) for point in x]
        return torch.cat([torch.cat([part[name].flatten(1) for name in w], 1) for part in by_weight])

    rows = torch.cat([jacobian(pinn.identity, points("u")), jacobian(system, points("r"))])
    assert found.sizes == {"u": 10, "r": 12}
    torch.testing.assert_close(found.matrix, rows @ rows.T, rtol=1e-10, atol=1e-10)


def test_traces_rates_weights_and_eigenvalues() -> None:
    model = plane(1)
    found = pinn.kernel(model, TERMS)
    squares = {name: sum(float(row(model, name, x).detach().square().sum()) for x in points(name)) for name in SIZES}
    total = sum(squares.values())
    assert found.traces == pytest.approx(squares)
    assert pinn.traces(model, TERMS, memory=20_000) == pytest.approx(squares)
    assert found.rates == pytest.approx({name: squares[name] / SIZES[name] for name in SIZES})
    assert found.weights == pytest.approx({name: total / squares[name] for name in SIZES})
    assert pinn.weights(model, TERMS) == pytest.approx(found.weights)
    for name in (None, "r"):
        eigenvalues = found.eigenvalues(name)
        assert (eigenvalues.diff() <= 0).all()
        assert float(eigenvalues.sum()) == pytest.approx(total if name is None else squares[name])


def test_weighted_rules_the_flow() -> None:
    """One small gradient step of the weighted mean loss moves the residuals by -lr K S r, with S K's eigenvalues."""
    model, lam = plane(1), {"u": 2.5, "r": 0.7, "left": 1.6}
    terms = {name: TERMS[name] for name in SIZES}
    rows = torch.stack([row(model, name, x) for name in SIZES for x in points(name)])
    s = torch.cat([torch.full((SIZES[name],), lam[name] / SIZES[name]) for name in SIZES]).double()
    found = pinn.kernel(model, terms)
    expected = torch.linalg.eigvals(rows @ rows.T @ torch.diag(s)).real.sort(descending=True).values
    weighted = found.weighted(lam)
    torch.testing.assert_close(weighted, weighted.T, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(torch.linalg.eigvalsh(weighted).flip(0), expected, rtol=1e-8, atol=1e-8)
    ones = found.weighted()
    torch.testing.assert_close(ones, found.weighted(dict.fromkeys(SIZES, 1.0)), rtol=0, atol=0)


def test_at_given_weights_and_with_frozen_ones() -> None:
    model, other = plane(1), plane(1)
    w = {name: 1.3 * p.detach() for name, p in other.named_parameters() if not name.startswith("2.")}
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(w.get(name, p))
    model[2].requires_grad_(False)
    keep = torch.cat([torch.full((p.numel(),), not name.startswith("2.")) for name, p in other.named_parameters()])
    rows = torch.stack([row(other, "r", x)[keep] for x in points("r")])
    found = pinn.kernel(model, {"r": TERMS["r"]}, w=w)
    torch.testing.assert_close(found.matrix, rows @ rows.T, rtol=1e-10, atol=1e-10)


def test_a_model_of_rows_without_an_axis_of_outputs() -> None:
    model = plane(1)
    flat = nn.Sequential(*model, nn.Flatten(0))
    torch.testing.assert_close(pinn.kernel(flat, TERMS).matrix, pinn.kernel(model, TERMS).matrix, rtol=0, atol=0)


def two(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return u(x) * torch.ones(2, 3, dtype=x.dtype)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "`terms` must name at least one; got none. Give {'u': (identity, points)}."),
        (
            {"u": (pinn.identity, torch.ones(3, dtype=torch.float64))},
            "`terms['u']` must have points (n, d); got (3,). Give one row a point.",
        ),
        (
            {"u": (pinn.identity, torch.ones(0, 2, dtype=torch.float64))},
            "`terms['u']` must have points (n, d); got (0, 2). Give one row a point.",
        ),
        (
            {"u": (pinn.identity, torch.ones(3, 2, dtype=torch.int64))},
            "`terms['u']` must have points of the weights' dtype torch.float64; got torch.int64. Convert one of them.",
        ),
        (
            {"u": (pinn.identity, torch.full((3, 2), torch.nan, dtype=torch.float64))},
            "`terms['u']` must have finite points; got nan or inf. Drop those.",
        ),
        (
            {"u": TERMS["u"], "r": (two, points("r"))},
            "`terms['r']` must give one number, or (k,), at a point; got (2, 3). Index or sum its values.",
        ),
        (
            {"r": (lambda u, x: torch.sqrt(u(x) - u(x)), points("r"))},
            "`terms['r']` must have finite derivatives by the weights; got nan or inf. "
            "Look at its operator, its points and the weights.",
        ),
    ],
)
def test_bad_terms(terms: Any, message: str) -> None:
    for function in (pinn.kernel, pinn.traces):
        with pytest.raises(ValueError) as error:
            function(plane(1), terms)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("operator", "d", "part"),
    [
        (lambda u, x: u(x)[4], 2, "got points of 2 coordinates, where it fails:"),
        (lambda u, x: x[2], 2, "got points of 2 coordinates, where it fails: index 2"),
        (lambda u, x: 3.0, 2, "got points of 2 coordinates, where it fails:"),
    ],
)
def test_an_operator_that_does_not_fit(operator: Any, d: int, part: str) -> None:
    with pytest.raises(ValueError) as error:
        pinn.kernel(plane(1), {"r": (operator, points("r", d))})
    assert str(error.value).startswith(f"`terms['r']` must fit the model; {part}")
    assert str(error.value).endswith(". Compare them with the model's inputs and outputs.")


def test_points_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"^`model` must run on `terms\['r'\]`; got RuntimeError for one sample of \(3,\): "
    ):
        pinn.kernel(plane(1), {"r": (pinn.identity, points("r", 3))})


def test_arrays_and_picked_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plane(2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"p": self.net(x).sin(), "u": self.net(x)[:, 1]}

    model = Two()
    alone = nn.Sequential(model.net, nn.Flatten(0), nn.Unflatten(0, (-1, 2)))
    found = pinn.kernel(model, TERMS, outputs="u")
    by_function = pinn.kernel(alone, TERMS, outputs=lambda f: f[:, 1])
    assert torch.allclose(found.matrix, by_function.matrix, rtol=1e-12, atol=0)
    rows = torch.stack([row(nn.Sequential(alone, _Second()), name, x) for name, (_, x) in TERMS.items() for x in x])
    assert torch.allclose(found.matrix, rows @ rows.T, rtol=1e-9, atol=0)
    arrays = {name: (operator, x.numpy()) for name, (operator, x) in TERMS.items()}
    assert torch.equal(pinn.kernel(model, arrays, outputs="u").matrix, found.matrix)
    assert pinn.weights(model, arrays, outputs="u") == pinn.weights(model, TERMS, outputs="u")


class _Second(nn.Module):
    def forward(self, f: Tensor) -> Tensor:
        return f[:, 1:]


def test_a_model_that_forward_mode_sees_otherwise() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plane(1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                z = self.net(x)
            return self.net(x) * z

    with pytest.raises(
        ValueError, match=r"^`model` must have the same derivative by its inputs in forward and in backward"
    ):
        pinn.kernel(Frozen(), TERMS)


def test_chance() -> None:
    model = nn.Sequential(nn.Linear(2, 7), nn.RReLU(), nn.Linear(7, 1)).double()
    with pytest.raises(
        ValueError, match=r"^`model` must be deterministic; got outputs that change with the random seed at '1' "
    ):
        pinn.traces(model, TERMS)


def test_a_term_that_is_no_pair() -> None:
    with pytest.raises(TypeError) as error:
        pinn.kernel(plane(1), {"u": points("u")})  # type: ignore[dict-item]
    assert str(error.value) == "`terms['u']` must be an operator and its points; got Tensor. Give (identity, x)."


def test_too_little_memory() -> None:
    with pytest.raises(ValueError) as error:
        pinn.kernel(plane(1), TERMS, memory=6_000)
    assert str(error.value) == "`memory` must hold the rows of a point; got 6000 bytes. Give 6080 or more."
    pinn.kernel(plane(1), TERMS, memory=6080)


def test_a_relu_network_has_no_second_derivative_to_weigh() -> None:
    model = nn.Sequential(nn.Linear(2, 7), nn.ReLU(), nn.Linear(7, 1)).double()
    with pytest.raises(ValueError) as error:
        pinn.weights(model, {"u": TERMS["u"], "r": (pinn.laplacian, points("r"))})
    assert str(error.value) == (
        "`terms` must depend on the weights; got a derivative of zero for 'r'. "
        "Drop it, or choose a smooth activation such as tanh."
    )


def test_bad_names_and_weights_of_blocks() -> None:
    found = pinn.kernel(plane(1), TERMS)
    with pytest.raises(ValueError) as error:
        found.eigenvalues("b")
    assert str(error.value) == "`name` must be a term; got 'b'. Choose one of u, r, left."
    with pytest.raises(ValueError) as error:
        found.weighted({"u": 1.0})
    assert str(error.value) == "`weights` must name the terms u, r, left; got u. Give one each."
    with pytest.raises(ValueError) as error:
        found.weighted({"u": 1.0, "r": -2.0, "left": 1.0})
    assert str(error.value) == "`weights` must be finite and not negative; got -2.0 for 'r'. Change it."
