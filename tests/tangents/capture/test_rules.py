"""Every rule gives the gradients of row-by-row autograd, and is really taken: no use falls back to something slower."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent.shard import Shard
from fedtangent.tangent_steps.kfac import directions, moments
from fedtangent.tangents import jacobian, kernel, plan
from fedtangent.tangents.capture.functional import trainable
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.capture.verified_uses import uses
from fedtangent.training.task import Task
from tests.tangents.random_models import by_autograd

GENERATOR = torch.Generator().manual_seed(7)


def r(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


class Model(nn.Module):
    """The parameters a, b, ... of these shapes, and a forward of (model, x)."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in zip("abcdefg", shapes, strict=False):
            setattr(self, name, nn.Parameter(r(*shape)))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Conv1D(nn.Module):
    """GPT-2's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(r(inputs, outputs)), nn.Parameter(r(outputs))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], -1)


class Block(nn.Module):
    """GPT-2's, with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attend, self.project = nn.LayerNorm(6), Conv1D(6, 18), Conv1D(6, 6)
        self.up, self.down, self.head = Conv1D(6, 8), Conv1D(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in self.attend(self.norm(x)).split(6, 2))
        mixed = (q @ k.mT).softmax(-1) @ v
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


def split_heads(s: Any, x: Tensor) -> Tensor:
    heads = torch.einsum("bsd,hde->bhse", x, s.a).tanh()
    return torch.einsum("bhse,hed->bsd", heads, s.b).mean(1)


MATRICES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "x @ W + b": (Model(lambda s, x: torch.tanh(x @ s.a + s.b) @ s.c + s.d, (4, 5), (5,), (5, 3), (3,)), (4,)),
    "x @ W.T": (Model(lambda s, x: torch.tanh(x @ s.a.T) @ s.b.mT, (5, 4), (3, 5)), (4,)),
    "b + x @ W": (Model(lambda s, x: s.b + torch.matmul(x, s.a), (4, 5), (5,)), (4,)),
    "tokens @ W": (Model(lambda s, x: (torch.tanh(x @ s.a + s.b) @ s.c).sum(1), (4, 5), (5,), (5, 3)), (6, 4)),
    "mm": (Model(lambda s, x: torch.mm(x, s.a.t()).tanh().mm(s.b), (5, 4), (5, 3)), (4,)),
    "addmm": (Model(lambda s, x: torch.addmm(s.b, x, s.a), (4, 5), (5,)), (4,)),
    "Conv1D": (nn.Sequential(Conv1D(4, 5), nn.Tanh(), Conv1D(5, 3)), (4,)),
    "bmm": (Model(lambda s, x: torch.bmm(x, s.a.expand(len(x), -1, -1)).flatten(1), (1, 4, 5)), (3, 4)),
    "baddbmm": (
        Model(lambda s, x: torch.baddbmm(s.b, x, s.a.expand(len(x), -1, -1)).flatten(1), (1, 4, 5), (5,)), (3, 4),
    ),
    "W @ x": (Model(lambda s, x: (s.a @ x.tanh() + s.b).flatten(1), (2, 4), (2, 1)), (4, 3)),
    "rmatmul": (Model(lambda s, x: Tensor.__rmatmul__(s.a, x.tanh()), (4, 3)), (4,)),
    "a vector": (Model(lambda s, x: torch.stack([x @ s.a, torch.mv(x.tanh(), s.b)], 1), (4,), (4,)), (4,)),
    "groups": (Model(lambda s, x: (x @ s.a).tanh().flatten(1), (3, 4, 2)), (3, 5, 4)),
    "a matrix a head": (Model(lambda s, x: (x.unsqueeze(1) @ s.a).tanh().flatten(1), (3, 4, 2)), (5, 4)),
    "einsum": (Model(split_heads, (2, 3, 5), (2, 5, 4)), (6, 3)),
    "einsum, dots": (Model(lambda s, x: torch.einsum("...i,oi->...o", x, s.a).tanh().sum(1), (5, 4)), (3, 4)),
    "einsum, implicit": (Model(lambda s, x: torch.einsum("ji,bj", s.a, x), (4, 5)), (4,)),
    "einsum, list": (Model(lambda s, x: torch.einsum("bgi,gio->bgo", [x, s.a]).flatten(1), (3, 4, 2)), (3, 4)),
    "tensordot": (Model(lambda s, x: torch.tensordot(x, s.a, 2).tanh(), (3, 4, 2)), (3, 4)),
    "tensordot, lists": (Model(lambda s, x: torch.tensordot(s.a, x, ([1], [1])).T, (2, 4)), (4,)),
    "reshaped": (Model(lambda s, x: x @ s.a.view(2, 3, 4).permute(1, 2, 0).reshape(12, 2), (6, 4)), (12,)),
    "reshaped as viewed": (Model(lambda s, x: x @ s.a.T.reshape(4, 3, 2).flatten(1), (6, 4)), (4,)),
    "slices": (Model(lambda s, x: F.linear(x, s.a[:3]).tanh() * F.linear(x, s.a[3:], s.b[3:]), (6, 4), (6,)), (4,)),
    "chunks": (Model(lambda s, x: (x @ s.a.chunk(2, 1)[0]).tanh() * (x @ s.a.chunk(2, 1)[1]), (4, 6)), (4,)),
    "used twice": (Model(lambda s, x: torch.tanh(torch.tanh(x @ s.a + s.b) @ s.a + s.b), (4, 4), (4,)), (4,)),
    "W and W.T": (Model(lambda s, x: torch.tanh(x @ s.a + s.b) @ s.a.T, (4, 5), (5,)), (4,)),
    "conv3d": (
        Model(
            lambda s, x: F.conv3d(x, s.a, s.b, (2, 1, 1), 1, (1, 1, 2), 2).tanh().mean((3, 4)).flatten(1),
            (4, 1, 3, 2, 2),
            (4,),
        ),
        (2, 5, 4, 6),
    ),
    "rows of a table": (Model(lambda s, x: s.a[x.long()].sum(1), (19, 4)), (5,)),
    "a table's columns": (Model(lambda s, x: s.a[:, x.long()].sum(2).T, (4, 19)), (5,)),
    "index_select": (
        Model(lambda s, x: s.a.index_select(0, x.abs().long().flatten()).unflatten(0, x.shape).sum(1), (9, 4)), (5,),
    ),
    "GPT-2's block": (Block().double(), (5, 6)),
}  # fmt: skip

SUMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "RMSNorm": (
        Model(lambda s, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * s.a / s.b + s.c, (4,), (), (1, 4)),
        (4,),
    ),
    "turned round": (Model(lambda s, x: (1 - s.a) + s.b * x - 2 / (s.c + s.d) - s.a, (4,), (1,), (4,), ()), (4,)),
    "x - b, x / g": (Model(lambda s, x: (x - s.a).tanh() / s.b, (4,), (1, 1)), (4,)),
    "layer scale": (Model(lambda s, x: (x.mT * s.a.view(-1, 1, 1)[:, 0]).flatten(1), (4,)), (3, 4)),
    "token and positions": (
        Model(
            lambda s, x: (torch.cat([s.a.expand(len(x), -1, -1), x], 1) + s.b[:, :4]).tanh().flatten(1),
            (1, 1, 3),
            (1, 6, 3),
        ),
        (3, 3),
    ),
    "positions without a batch": (Model(lambda s, x: (x + s.a).tanh().sum(1), (3, 4)), (3, 4)),
    "repeated": (Model(lambda s, x: (x * s.a.expand(3, 4)).tanh().sum(1), (4,)), (3, 4)),
    "mask": (Model(lambda s, x: torch.where(x > 0, x, s.a), (4,)), (4,)),
    "choice of two": (Model(lambda s, x: torch.where(x > 0, s.b, s.a), (4,), (1,)), (4,)),
    "joined": (Model(lambda s, x: x * torch.cat([s.a, s.b, s.a]), (1,), (2,)), (4,)),
    "PReLU": (Model(lambda s, x: F.prelu(x, s.a).flatten(1) * s.b, (2,), (1,)), (2, 3)),
    "one slope": (Model(lambda s, x: F.prelu(x, s.a), (1,)), (4,)),
    "functions": (Model(lambda s, x: x * F.softplus(s.a, 2.0) + torch.exp(-s.b) + s.c.clone(), (4,), (4,), (4,)), (4,)),
    "addcmul": (Model(lambda s, x: torch.addcmul(s.a, s.b, x), (1, 4), (4,)), (4,)),
    "scaled": (Model(lambda s, x: torch.add(x, 0.5 * s.a, alpha=2) + torch.sub(x, s.b, alpha=3), (4,), (4,)), (4,)),
    "a bias beside a derived weight": (Model(lambda s, x: F.linear(x, 0.5 * s.a, s.b), (3, 4), (3,)), (4,)),
    "shift of a frozen norm": (
        Model(lambda s, x: F.group_norm(x, 2, torch.ones(4, dtype=x.dtype), s.a).flatten(1), (4,)), (4, 3),
    ),
}  # fmt: skip

MIXED: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "transposed": (
        Model(
            lambda s, x: F.conv_transpose2d(x, s.a, s.b, (2, 1), (1, 0), (1, 0), 2, (1, 2)).tanh().mean(3).flatten(1),
            (4, 3, 3, 2),
            (6,),
        ),
        (4, 3, 4),
    ),
    "transposed, 1": (Model(lambda s, x: F.conv_transpose1d(x, s.a, s.b, 2).tanh().sum(2), (4, 2, 3), (2,)), (4, 5)),
    "transposed, 3": (
        Model(
            lambda s, x: F.conv_transpose3d(x, s.a, None, 2, 1, 1).tanh().mean((3, 4)).flatten(1) * s.b,
            (2, 3, 2, 3, 2),
            (1,),
        ),
        (2, 2, 3, 2),
    ),
    "a bias and another way": (Model(lambda s, x: (lambda z: (z + s.b).tanh() + z)(x @ s.a), (4, 5), (5,)), (4,)),
    "a bias that varies": (Model(lambda s, x: (x @ s.a + s.b).tanh().sum(1), (4, 5), (3, 5)), (3, 4)),
    "a number for all": (Model(lambda s, x: (x @ s.a + s.b).tanh(), (4, 5), (1,)), (4,)),
}

OTHER: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "F.linear(W, W)": (Model(lambda s, x: x @ F.linear(s.a, s.a), (4, 4)), (4,)),
    "W @ W.T": (Model(lambda s, x: x @ (s.a @ s.a.T), (4, 3)), (4,)),
    "W * W": (Model(lambda s, x: x * (s.a * s.a), (4,)), (4,)),
    "bilinear": (Model(lambda s, x: F.bilinear(x, x.sin(), s.a, s.b), (3, 4, 4), (3,)), (4,)),
    "an expanded matrix": (
        Model(lambda s, x: torch.bmm(x.flatten(0, 1), s.a.expand(3 * len(x), -1, -1)).reshape(len(x), -1), (4, 2)),
        (3, 2, 4),
    ),
    "rows picked twice": (Model(lambda s, x: x @ s.a[[0, 0, 1, 2]], (4, 3)), (4,)),
    "addmm with factors": (Model(lambda s, x: torch.addmm(s.b, x, s.a, beta=2, alpha=3), (4, 5), (5,)), (4,)),
    "a diagonal": (Model(lambda s, x: torch.einsum("bi,ii->bi", x, s.a), (4, 4)), (4,)),
}

EVERYTHING = {**MATRICES, **SUMS, **MIXED, **OTHER}


def samples(name: str, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(count, *EVERYTHING[name][1], dtype=torch.float64, generator=generator)


def found(name: str) -> Uses:
    model = EVERYTHING[name][0]
    return uses(model, trainable(model), samples(name))


def kinds(name: str) -> set[str]:
    return {type(one).__name__ for one in found(name).by_name.values()}


@pytest.mark.few(24)
@pytest.mark.parametrize("name", EVERYTHING)
def test_it_is_autograd_row_by_row(name: str) -> None:
    model, x = EVERYTHING[name][0], samples(name)
    j, c = by_autograd(model, x), len(model(x)[0])
    full = torch.einsum("ncp,mdp->nmcd", j, j)
    torch.testing.assert_close(jacobian(model, x).dense(), j)
    torch.testing.assert_close(kernel(model, x), full)
    torch.testing.assert_close(kernel(model, x[:2], x), full[:2])
    torch.testing.assert_close(kernel(model, x, kind="trace"), full.diagonal(dim1=2, dim2=3).sum(-1) / c)
    torch.testing.assert_close(kernel(model, x, kind="diagonal"), full.diagonal(dim1=2, dim2=3))


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_have_factors(name: str) -> None:
    assert kinds(name) <= {"Matrix", "Affine"}
    assert "torch.func" not in str(plan(EVERYTHING[name][0], samples(name)))


@pytest.mark.parametrize("name", SUMS)
def test_sums_need_no_autograd(name: str) -> None:
    assert kinds(name) == {"Sums"}


@pytest.mark.parametrize("name", MIXED)
def test_some_are_matrices_and_sums(name: str) -> None:
    assert kinds(name) <= {"Matrix", "Sums"} and "Sums" in kinds(name)


@pytest.mark.parametrize("name", OTHER)
def test_what_has_no_rule_goes_through_torch_func_and_holds_up_no_other(name: str) -> None:
    assert "AnyCall" in kinds(name) and not found(name).looped


def test_a_sum_is_the_bias_of_the_matrix_before_it() -> None:
    its = found("x @ W + b")
    assert [one.call.names for one in its.by_name.values()] == [("a", "b"), ("c", "d")]
    assert (its.last, its.gated) == ("c", "a")
    assert [one.bias for one in found("Conv1D").by_name.values() if hasattr(one, "bias")] == ["0.bias", "2.bias"]


def spread(weight: Tensor, x: Tensor) -> Tensor:
    """A transposed convolution (I, O, K) whose windows do not overlap, as a linear map."""
    return F.linear(x.mT, weight.flatten(1).T).unflatten(2, weight.shape[1:]).transpose(1, 2).flatten(2)


TURNED = {
    "x @ W + b": (
        Model(lambda s, x: torch.tanh(x @ s.a + s.b) @ s.c + s.d, (4, 5), (5,), (5, 3), (3,)),
        Model(lambda s, x: F.linear(torch.tanh(F.linear(x, s.a, s.b)), s.c, s.d), (5, 4), (5,), (3, 5), (3,)),
        {"a": lambda p: p.mT, "c": lambda p: p.mT},
        {"a^T,b": "a,b", "c^T,d": "c,d"},
        (4,),
    ),
    "groups": (
        Model(lambda s, x: torch.einsum("bgsi,gio->bgso", x, s.a).tanh().sum(2).flatten(1), (2, 4, 3)),
        Model(lambda s, x: F.conv1d(x.transpose(2, 3).flatten(1, 2), s.a, groups=2).tanh().sum(2), (6, 4, 1)),
        {"a": lambda p: p.mT.reshape(*p.shape[:-3], 6, 4, 1)},
        {"a^T": "a"},
        (2, 5, 4),
    ),
    "transposed convolution": (
        Model(lambda s, x: F.conv_transpose1d(x, s.a, None, 3).tanh()[..., 1:].sum(2), (4, 2, 3)),
        Model(lambda s, x: spread(s.a.view(2, 3, 4).permute(2, 0, 1), x).tanh()[..., 1:].sum(2), (6, 4)),
        {"a": lambda p: p.flatten(-2).mT},
        {"a^T": "a"},
        (4, 5),
    ),
}


@pytest.mark.parametrize("name", TURNED)
def test_kronecker_factors_of_a_weight_that_lies_the_other_way_round(name: str) -> None:
    turned, plain, same, keys, shape = TURNED[name]
    x = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    w = trainable(turned)
    of_plain = {key: same.get(key, lambda p: p)(part) for key, part in w.items()}
    torch.testing.assert_close(torch.func.functional_call(plain, of_plain, (x,)), turned(x))
    data = Shard(x, torch.arange(5) % turned(x).shape[1], torch.tensor([True, True, False, True, True]))
    own, its = moments(Task(turned), w, data), moments(Task(plain), of_plain, data)
    assert {*own.outputs} == {*keys}
    for key, other in keys.items():
        torch.testing.assert_close(own.inputs[key], its.inputs[other])
        torch.testing.assert_close(own.outputs[key], its.outputs[other])
    steps, others = directions(own, {}, (0.1, 2.0)), directions(its, {}, (0.1, 2.0))
    for key, step in steps.items():
        torch.testing.assert_close(same.get(key, lambda p: p)(step), others[key])
