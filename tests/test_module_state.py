"""A module that keeps tensors is copied all the same, and holds after a pass what it held before."""

from __future__ import annotations

import threading
from collections import deque
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm

from fedtangent.module_state import LONGEST, borrowed, cast, copied, unchanged

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


class Keeps(nn.Module):
    """Keeps whatever a pass brings, in every kind of container."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.last: Any = None
        self.all: list[Any] = ["first"]
        self.by_name: dict[str, Any] = {"inner": [0]}
        self.some: set[int] = {3}
        self.queue: deque[Any] = deque([1], maxlen=4)
        self.pair: tuple[list[int], int] = ([1], 2)
        self.long = list(range(LONGEST + 5))
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        self.last, self.new, self.mean = h, h, h.mean(0)
        self.all.append(h)
        self.by_name["h"] = h
        self.by_name["inner"].append(h)
        self.some.clear()
        self.queue.append(h)
        self.pair[0].append(5)
        self.long.append(6)
        return self.b(h)  # type: ignore[no-any-return]


def weight_normed() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.Sequential(weight_norm(nn.Linear(4, 3)))


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)  # type: ignore[no-untyped-call]
    return model


def kept() -> nn.Module:
    model = Keeps()
    model(X)
    return model


@pytest.mark.parametrize("build", [weight_normed, pruned, kept])
def test_a_copy_holds_no_history_and_computes_the_same(build: Any) -> None:
    model = build()
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        deepcopy(model)
    again = copied(model)
    assert torch.equal(again(X), model(X))
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    assert not torch.equal(again(X), model(X))


def test_ties_stay_ties_and_what_is_kept_twice_is_one() -> None:
    model = kept()
    model.b.weight = model.a.weight  # type: ignore[union-attr]
    again = copied(model)
    assert again.a.weight is again.b.weight  # type: ignore[union-attr]
    assert again.last is again.new and again.last is not model.last
    assert torch.equal(again.last, model.last)  # type: ignore[arg-type]


def test_what_cannot_be_copied_is_one_sentence() -> None:
    model = Keeps()
    model.lock = threading.Lock()
    message = (
        r"^`model` must be a module that copy.deepcopy can copy; got TypeError: cannot pickle .*lock.* object. Keep"
    )
    with pytest.raises(ValueError, match=message):
        copied(model)


def test_a_pass_leaves_nothing() -> None:
    model = Keeps()
    same = {name: value for name, value in vars(model).items() if name[0] != "_"}
    with unchanged(model):
        torch.func.vjp(lambda x: model(x), X)
        assert len(model.all) == 2 and len(model.long) == LONGEST + 6
    assert {name: value for name, value in vars(model).items() if name[0] != "_"} == same
    assert all(vars(model)[name] is value for name, value in same.items())
    assert (model.last, model.all, model.by_name) == (None, ["first"], {"inner": [0]})
    assert (model.some, model.queue, model.pair) == ({3}, deque([1], maxlen=4), ([1], 2))
    assert model.long == list(range(LONGEST + 5))
    assert torch.equal(model.mean, torch.zeros(5))
    assert not hasattr(model, "new")


def test_nor_does_one_that_fails() -> None:
    model = Keeps()
    with pytest.raises(RuntimeError), unchanged(model):
        model.last = 3
        model(X[:, :2])
    assert model.last is None


def test_a_layer_of_torch_with_a_hook_is_restored_too() -> None:
    model = weight_normed()
    before = model[0].weight  # type: ignore[index]
    with unchanged(model):
        torch.func.vjp(lambda x: model(x), X)
    assert model[0].weight is before  # type: ignore[index]


def test_a_recurrent_layer_holds_its_own_weights_after_a_transform() -> None:
    model = nn.GRU(4, 3, batch_first=True)
    w = {name: p.detach() for name, p in model.named_parameters()}
    with unchanged(model):
        torch.func.vjp(lambda w: torch.func.functional_call(model, w, (X[None],))[0], w)
    assert all(own is p for own, p in zip(model._flat_weights, model.parameters(), strict=True))


def test_who_computes_with_the_original_is_found() -> None:
    model = Keeps()
    again = copied(model)
    assert borrowed(model, lambda: again(X)) is None
    model.forward = lambda x: model.b(torch.tanh(model.a(x)))  # type: ignore[assignment]
    again = copied(model)
    assert borrowed(model, lambda: again(X)) == "a.weight"
    hooked = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    hooked[0].register_forward_hook(lambda module, x, f: f + hooked[1](x[0]).sum())
    again = copied(hooked)
    assert borrowed(hooked, lambda: again(X)) == "1.weight"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_complex_numbers_stay_complex(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    model.register_buffer("count", torch.tensor(3))
    model.register_buffer("real", torch.tensor(0.5))
    before = model.w.detach().clone()
    assert cast(model, "cpu", dtype) is model
    assert (model.w.real.dtype, model.real.dtype, model.count.dtype) == (dtype, dtype, torch.int64)
    assert torch.equal(model.w.detach().to(torch.complex64), before)
