"""What a recorded pass cannot tell, the comparison with plain autograd does."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.tangents import jacobian, kernel, layer_kernels, linearize
from fedtangent.tangents.capture.factors import factors
from fedtangent.tangents.capture.functional import trainable
from fedtangent.tangents.capture.uses import WHOLE, Uses, UsesDiffer
from fedtangent.tangents.capture.verified_uses import known_uses, uses
from tests.tangents.random_models import by_autograd
from tests.tangents.unusual import by_rows

X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, forward: Callable[["Model", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)
        self.p, self.run = nn.Parameter(torch.randn(3)), forward
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def found(model: nn.Module, x: Tensor = X) -> Uses:
    return uses(model, trainable(model), x)


def exact(model: nn.Module, x: Tensor = X) -> bool:
    j = by_autograd(model, x)
    dense = jacobian(model, x).dense()
    return torch.allclose(kernel(model, x), torch.einsum("ncp,mdp->nmcd", j, j)) and torch.allclose(dense, j)


def test_a_model_that_can_be_followed_needs_no_autograd_of_the_whole() -> None:
    its = found(Model(lambda s, x: s.b(torch.tanh(s.a(x) * s.p))))
    assert list(its.by_name) == ["a.", "p", "b."] and its.whole == its.unused == () and its.last == "b."


def test_only_what_cannot_be_followed_is_left_to_the_whole_model() -> None:
    model = Model(lambda s, x: s.b(torch.tanh(s.a(x).mul_(s.p))))
    assert found(model).whole == ("p",) and list(found(model).by_name) == ["a.", "b.", WHOLE]
    assert exact(model)


def test_parameters_of_one_use_go_together() -> None:
    """The bias is used in place as well; its layer's weight shares a use with it."""
    model = Model(lambda s, x: s.b(torch.tanh(s.a(x).add_(s.a.bias))))
    assert found(model).whole == ("a.bias", "a.weight")
    assert exact(model)


@pytest.mark.parametrize(
    "scale",
    [
        lambda p, at: p * np.float32(1 + at),
        lambda p, at: p[np.int64(at)],
        lambda p, at: p[np.array([at])],
    ],
)
def test_arguments_that_one_sample_of_many_has_otherwise(scale: Callable[[Tensor, int], Tensor]) -> None:
    """Numbers and arrays of numpy, taken from the sample; the one that differs is none of those that are compared."""
    model = Model(lambda s, x: s.b(torch.cat([torch.tanh(s.a(r[None])) * scale(s.p, int(r[0] > 0)) for r in x])))
    x = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 0] = -1
    x[7, 0] = 1
    assert exact(model, x)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return 2 * g


def test_a_model_that_torch_func_cannot_take_is_differentiated_plainly() -> None:
    model = Model(lambda s, x: s.b(Straight.apply(s.a(x) * s.p)))
    its = found(model)
    assert {*its.whole} == {*dict(model.named_parameters())} and not its.by_name[WHOLE].transforms
    assert exact(model)


def test_a_head_of_zeros_hides_nothing() -> None:
    """At the start no gradient comes through the head: what is wrong below it shows when the head is moved."""
    model = Model(lambda s, x: s.b(torch.tanh(s.a(x).mul_(s.p))))
    nn.init.zeros_(model.b.weight)
    assert found(model).whole == ("p",)


def test_what_a_batch_changes_is_refused() -> None:
    with pytest.raises(ValueError, match="`model` must treat every sample on its own; got outputs that change"):
        found(Model(lambda s, x: s.b(s.a(x) - s.a(x).mean(0))))
    with pytest.raises(ValueError, match="`model` must treat every sample on its own"):  # in the gradient alone
        found(
            Model(
                lambda s, x: s.b(
                    s.a(x) + s.p * (x.detach().sum() - x.sum(0, keepdim=True).sum().detach()) + mixed(s, x)
                )
            )
        )


def mixed(model: Model, x: Tensor) -> Tensor:
    """Zero, with a derivative that is not, and grows with the batch."""
    moved = model.p * len(x)
    return moved - moved.detach()


def test_gradients_that_lie_in_one_memory() -> None:
    """A token is joined to a single sample, and positions are added to both: autograd gives views of one tensor."""

    def joined(s: Model, x: Tensor) -> Tensor:
        tokens = torch.cat([s.token.expand(len(x), -1, -1), s.a(x)[:, None]], 1) + s.places
        return s.b(torch.tanh(tokens * s.p)).flatten(1)

    model = Model(joined)
    model.token, model.places = (nn.Parameter(torch.ones(1, n, 3, dtype=torch.float64)) for n in (1, 2))
    assert found(model, X[:1]).whole == () and exact(model, X[:1])


def test_samples_that_go_other_ways() -> None:
    model = Model(lambda s, x: torch.stack([s.b(s.a(r) * s.p) if r[0] > 0 else s.b(s.a(r)) for r in x]))
    assert found(model).whole
    assert exact(model)
    signs = torch.ones(30, 4, dtype=torch.float64) * torch.linspace(1, 2, 30)[:, None]
    signs[7] *= -1  # one that the comparison does not see
    assert exact(model, signs)
    with pytest.raises(UsesDiffer, match="`model` must use its parameters alike for every sample; got samples that"):
        factors(model, trainable(model), signs, found(model, signs[:1]))


def test_inside_vmap_uses_are_verified_on_the_first_nodes_rows() -> None:
    model = Model(lambda s, x: s.b(torch.tanh(s.a(x).mul_(s.p))))
    w, its = trainable(model), []

    def node(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        its.append(known_uses(model, w, x))
        return x.sum()

    torch.func.vmap(node, in_dims=(1, None))(torch.stack([X, 2 * X, 3 * X], 1), w)
    assert its[0].whole == ("p",) and its[0].fixed == {"a."}


def test_the_users_model_and_samples_stay_as_they_are() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 2)).double()
    before, x = list(model.parameters()), X.clone()
    kernel(model, x)
    assert [id(p) for p in model.parameters()] == [id(p) for p in before] and shared.weight is before[0]
    assert exact(Model(lambda s, x: s.b(s.a(x.mul_(2.0)) * s.p)), X.clone())
    kernel(Model(lambda s, x: s.b(s.a(x.mul_(2.0)) * s.p)), x)
    assert torch.equal(x, X)


class Remembering(nn.Module):
    """Looks its biases up once, as LeViT does in eval mode, and keeps its activations, which is no harm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.biases = nn.Linear(4, 3), nn.Parameter(torch.randn(2, 4))
        self.cache: dict[str, Tensor] = {}
        self.activations: list[Tensor] = []

    def train(self, mode: bool = True) -> "Remembering":
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "cpu" not in self.cache:
            self.cache["cpu"] = self.biases.sum(0)
        f: Tensor = self.layer(torch.tanh(x + self.cache["cpu"]))
        self.activations = [f]
        return f


def test_what_a_model_remembers_of_its_parameters_is_refused_once_they_are_not_used_any_more() -> None:
    torch.manual_seed(0)
    model, x = Remembering().double().eval(), torch.randn(5, 4).double()
    expected = kernel(model, x)
    model(x)
    w = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
    for call in (kernel, lambda model, x: jacobian(model, x).times(x[:, :3]), lambda model, x: linearize(model)(w, x)):
        with pytest.raises(ValueError, match=r"^`model` must make what it .*; got 'cache' kept .*made of 'biases'\."):
            call(model, x)
    model.train().eval()
    assert torch.equal(kernel(model, x), expected)
    with torch.no_grad():
        model(x)


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("before", [False, True])
def test_backward_hooks_of_modules(scale: float | None, before: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    calls: list[int] = []

    def hook(part: nn.Module, *gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        calls.append(1)
        return None if scale is None else tuple(scale * d for d in gradients[0])

    part = model[1]
    part.register_full_backward_pre_hook(hook) if before else part.register_full_backward_hook(hook)
    x = torch.randn(6, 4).double()
    literal = by_rows(model, x)
    assert calls
    k = torch.einsum("ncp,mdp->nmcd", literal, literal)
    assert torch.allclose(kernel(model, x), k)
    assert torch.allclose(kernel(model, x, x[:2], kind="trace"), k[:, :2].diagonal(dim1=2, dim2=3).mean(-1))
    assert torch.allclose(jacobian(model, x).dense(), literal)


def test_hooks_of_parameters_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    handle = model[1].weight.register_hook(lambda d: 2 * d)
    message = r"^`model` must have no hooks on its parameters; got one on '1\.weight', which would not be called\. Do "
    with pytest.raises(ValueError, match=message):
        kernel(model, torch.randn(2, 4))
    handle.remove()
    kernel(model, torch.randn(2, 4))
    model[1].weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match=message):
        jacobian(model, torch.randn(2, 4))


def test_empty_parameters_are_no_columns() -> None:
    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 3)
            self.down, self.up = nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.zeros(3, 0))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + x @ self.down.T @ self.up.T  # type: ignore[no-any-return]

    model, x = LowRank().double(), torch.randn(5, 4).double()
    k = kernel(model.layer, x)
    assert torch.allclose(kernel(model, x), k)
    assert torch.allclose(kernel(model, x, x[:2], kind="trace"), kernel(model.layer, x, x[:2], kind="trace"))
    assert torch.allclose(jacobian(model, x).times(x[:, :3]), jacobian(model.layer, x).times(x[:, :3]))
    assert torch.allclose(layer_kernels(model, x)["layer"], k)
    with pytest.raises(ValueError, match=r"^`model` must have parameters that hold numbers; got empty ones\. "):
        kernel(model, x, w={"up": model.up})
