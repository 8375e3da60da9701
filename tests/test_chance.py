"""Chance is found whatever draws it, and named where a module can be; the user's random numbers go on undisturbed."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent.chance import varies

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
OWN = torch.Generator().manual_seed(1)


class Does(nn.Module):
    def __init__(self, forward: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.does = nn.Linear(4, 4), forward

    def forward(self, x: Tensor) -> Any:
        return self.does(self.layer(x))


def skipped(x: Tensor, draw: Callable[[], float] = lambda: float(torch.rand([]))) -> Tensor:
    """Each of 6 layers is left out one time in ten."""
    for _ in range(6):
        x = x + x.sin() if draw() > 0.1 else x
    return x


@dataclass
class Result:
    hidden: dict[str, Tensor]
    loss: None = None


CASES: dict[str, tuple[nn.Module, str]] = {
    "dropout": (nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3, inplace=True), nn.Linear(6, 2)), "1"),
    "functional dropout, in eval mode": (Does(F.dropout).eval(), ""),
    "inside a part": (nn.Sequential(nn.Linear(4, 4), Does(F.dropout), nn.ReLU()), "1"),
    "noise": (Does(lambda x: x + torch.randn_like(x)), ""),
    "slopes": (nn.Sequential(nn.Linear(4, 6), nn.RReLU()), "1"),
    "recurrent dropout": (nn.Sequential(nn.LSTM(4, 6, 2, dropout=0.5)), "0"),
    "gumbel": (Does(lambda x: F.gumbel_softmax(x, hard=True)), ""),
    "skipped layers": (Does(skipped), ""),
    "skipped by Python": (Does(lambda x: skipped(x, random.random)), ""),
    "skipped by numpy": (Does(lambda x: skipped(x, np.random.rand)), ""),
    "a generator of its own": (Does(lambda x: x + torch.randn(4, generator=OWN)), ""),
    "in a dataclass": (nn.Sequential(Does(lambda x: Result({"z": F.dropout(x)}))), "0"),
}


@pytest.mark.parametrize("name", CASES)
def test_chance_is_found_and_named(name: str) -> None:
    model, module = CASES[name]
    assert varies(lambda: model(X), model) == module


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.RReLU(), nn.Linear(6, 2)).eval(),
        Does(lambda x: (torch.rand([]), x.tanh())[1]),  # drawn, and of no consequence
        Does(lambda x: x / 0),  # no number, twice the same
        Does(lambda x: (x, x > 0, x.int())),
    ],
)
def test_no_chance(model: nn.Module) -> None:
    assert varies(lambda: model(X), model) is None


@pytest.mark.parametrize("name", ["dropout", "skipped by Python", "skipped by numpy"])
def test_the_users_random_numbers_go_on(name: str) -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand([])), random.random(), float(np.random.rand())  # noqa: NPY002

    model = CASES[name][0]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    expected = drawn()
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002
    varies(lambda: model(X), model)
    assert drawn() == expected


def test_no_hooks_stay() -> None:
    model = CASES["dropout"][0]
    varies(lambda: model(X), model)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
