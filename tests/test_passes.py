"""Chance, hidden changes and rows that mix are told of a model by its passes, by name; whatever is fine passes."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedtangent import passes
from fedtangent.training import batch_norm

X = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5)))


class Net(nn.Module):
    """Two layers around whatever is called."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6).double(), nn.Linear(6, 3).double()
        rng = np.random.default_rng(1)
        for p in self.parameters():
            p.data = torch.from_numpy(rng.normal(size=p.shape))
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.inside(self.a(x)))
        return found


class Part(nn.Module):
    """A function as a module."""

    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fn(x)
        return found


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, 2, batch_first=True, dropout=0.5).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lstm(x[:, None])[0][:, 0]
        return found


class Norm(nn.Module):
    """A normalisation over the batch, of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0) + 0.1)


def check(model: nn.Module) -> None:
    w = passes.nudged({name: p.detach() for name, p in model.named_parameters()})
    passes.check_chance(model, lambda: functional_call(model, w, (X,)))
    passes.check_rows(model, lambda x: functional_call(model, w, (x,)), X)


def drop_path(x: Tensor) -> Tensor:
    return x * (torch.rand(len(x), 1) < 0.8)


def layer_drop(x: Tensor) -> Tensor:
    return x if random.random() > 0.2 else 0 * x


def noise(x: Tensor) -> Tensor:
    return x + 1e-9 * torch.randn_like(x)


def mixed_up(x: Tensor) -> Tensor:
    return x + float(np.random.normal())  # noqa: NPY002


@pytest.mark.parametrize(
    ("inside", "at"),
    [
        (F.dropout, r" in the forward of Net"),
        (drop_path, r" in the forward of Net"),
        (layer_drop, r" in the forward of Net"),
        (Part(F.gumbel_softmax), r" at 'inside' \(Part\)"),
        (Part(noise), r" at 'inside' \(Part\)"),
        (Part(mixed_up), r" at 'inside' \(Part\)"),
        (nn.RReLU(), r" at 'inside' \(RReLU\)"),
        (nn.Sequential(nn.Tanh(), Recurrent()), r" at 'inside.1.lstm' \(LSTM\)"),
    ],
)
def test_chance_is_told_with_its_place(inside: Any, at: str) -> None:
    with pytest.raises(ValueError, match=rf"^`model` must be deterministic; got outputs that .* seed{at}\. Call model"):
        check(Net(inside))


def test_chance_shows_behind_a_head_of_zeros() -> None:
    model = Net(F.dropout)
    nn.init.zeros_(model.b.weight)
    with pytest.raises(ValueError, match=r"^`model` must be deterministic"):
        check(model)


def test_numbers_that_are_drawn_and_not_used_are_fine() -> None:
    check(Net(lambda x: x if torch.rand([]) >= 0 else -x))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(6).double(), batch_norm.BatchNorm(6).double()])
def test_layers_that_are_known_are_tried_in_eval_mode(layer: nn.Module) -> None:
    model = Net(layer)
    before = {name: part.clone() for name, part in model.named_buffers()}
    check(model)
    assert layer.training
    assert all(torch.equal(part, before[name]) for name, part in model.named_buffers())


def test_the_generators_stay_where_they_were() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand([])), random.random(), float(np.random.rand())  # noqa: NPY002

    model = Net(F.dropout)
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = drawn()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    with pytest.raises(ValueError, match="deterministic"):
        check(model)
    assert drawn() == expected


def test_a_pass_that_changes_the_next_one() -> None:
    seen: list[int] = []

    def counted(x: Tensor) -> Tensor:
        seen.append(1)
        return x * len(seen)

    message = (
        r"^`model` must give the same outputs for the same rows; got others in a second pass at 'inside' \(Part\)\."
    )
    with pytest.raises(ValueError, match=message):
        check(Net(Part(counted)))


def test_a_buffer_that_moves() -> None:
    model = Net(nn.Tanh())
    model.a = nn.utils.parametrizations.spectral_norm(model.a)
    message = (
        r"^`model` must not change in a forward pass; got other numbers in its buffer 'a.parametrizations.*_[uv]'\."
    )
    with pytest.raises(ValueError, match=message):
        check(model)
    check(model.eval())


@pytest.mark.parametrize(
    ("inside", "at"),
    [
        (Norm(), r" at 'inside' \(Norm\)"),
        (lambda x: x - x.mean(0), r" in the forward of Net"),
        (lambda x: x.cumsum(0), r" in the forward of Net"),
        (Part(lambda x: x / x.norm()), r" at 'inside' \(Part\)"),
        (nn.Sequential(nn.Tanh(), Part(lambda x: x + 1e-4 * x.amax(0))), r" at 'inside.1' \(Part\)"),
        (nn.BatchNorm1d(6, track_running_stats=False).double(), r" at 'inside' \(BatchNorm1d\)"),
    ],
)
def test_rows_that_mix_are_told_with_their_place(inside: Any, at: str) -> None:
    with pytest.raises(ValueError, match=rf"^`model` must treat every row on its own; got .* other rows{at}\. Use Gro"):
        check(Net(inside))


def test_rows_that_only_padding_mixes() -> None:
    """A row of zeros switches the others off; no two of the real rows do."""
    model = Net(lambda x: x)
    model.forward = lambda x: model.b(model.a(x)) * (x.abs().sum(1) > 0).all()
    with pytest.raises(ValueError, match=r"^`model` must treat every row on its own"):
        check(model)


@pytest.mark.parametrize(
    ("inside", "got"),
    [
        (lambda x: x / len(x), r"other outputs"),
        (torch.squeeze, r"shape \(3,\)"),
        (lambda x: x + 0 * x[1], r"IndexError"),
    ],
)
def test_a_batch_of_one(inside: Any, got: str) -> None:
    message = (
        rf"^`model` must give a row the same outputs alone and in a batch, \(1, 3\) here; got {got} for it alone\."
    )
    with pytest.raises(ValueError, match=message):
        check(Net(inside))


def test_a_row_of_zeros_need_not_be_taken() -> None:
    """Engines that pad are tried themselves."""

    def full(x: Tensor) -> Tensor:
        if bool((x.abs().sum(1) == 0).any()):
            raise RuntimeError("Length of all samples has to be greater than 0")
        return x

    model = Net(nn.Tanh())
    passes.check_rows(model, lambda x: model(full(x)), X)


@pytest.mark.parametrize(
    "inside", [nn.Tanh(), nn.GroupNorm(2, 6).double(), nn.LayerNorm(6).double(), lambda x: x / x.norm(dim=1)[:, None]]
)
def test_rows_on_their_own_are_fine(inside: Any) -> None:
    check(Net(inside))


def test_one_row_of_data_is_enough() -> None:
    model = Net(Norm())
    with pytest.raises(ValueError, match=r"^`model` must treat every row on its own"):
        passes.check_rows(model, model, X[:1])


def test_weights_are_nudged_where_all_are_small() -> None:
    w = {
        "a": torch.tensor([0.5, 0.0]),
        "zero": torch.zeros(3, 2),
        "tiny": torch.full((4,), 1e-6),
        "none": torch.zeros(0),
    }
    found = passes.nudged(w)
    assert found["a"] is w["a"] and found["none"] is w["none"]
    assert found["zero"].abs().min() > 0 and found["tiny"].abs().max() > 1e-3 and w["zero"].abs().max() == 0
    assert torch.equal(passes.nudged(w)["zero"], found["zero"])
