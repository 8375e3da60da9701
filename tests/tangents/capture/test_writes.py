"""A model that counts its passes, and one that writes to its parameters in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent import tangents

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
POINTS = {"u": (tangents.pinn.identity, X)}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


def moved(model: nn.Module) -> dict[str, Tensor]:
    return {name: part.detach() + 0.1 for name, part in model.named_parameters()}


class Counts(nn.Module):
    """Counts its passes, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.net(x)  # type: ignore[no-any-return]


def test_a_counter_is_left_as_it_was() -> None:
    model = Counts()
    model(X)
    plain = model.net
    torch.testing.assert_close(tangents.kernel(model, X), tangents.kernel(plain, X))
    w, plain_w = moved(model), moved(plain)
    j = tangents.jacobian(model, X)
    torch.testing.assert_close(j.jvp(w), tangents.jacobian(plain, X).jvp(plain_w))
    torch.testing.assert_close(tangents.linearize(model)(w, X), tangents.linearize(plain)(plain_w, X))
    tangents.sketch(model, X, 4)
    tangents.pinn.kernel(nn.Sequential(model, nn.Linear(3, 1)), POINTS)
    assert int(model.passes) == 1


class Writes(nn.Module):
    """Writes its weights back at every pass, as EEGNet's layers do, or whatever else it is told."""

    def __init__(self, write: Callable[[nn.Linear, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.write = network(), write

    def forward(self, x: Tensor) -> Tensor:
        head = self.net[2]
        assert isinstance(head, nn.Linear)
        self.write(head, x)
        return self.net(x)  # type: ignore[no-any-return]


def renormed(head: nn.Linear, _: Tensor) -> None:
    head.weight.data = torch.renorm(head.weight.data, p=2, dim=0, maxnorm=0.3)


def clamped_data(head: nn.Linear, _: Tensor) -> None:
    head.weight.data.clamp_(min=0)


@torch.no_grad()
def clamped(head: nn.Linear, _: Tensor) -> None:
    head.weight.clamp_(min=0)


@torch.no_grad()
def by_index(head: nn.Linear, _: Tensor) -> None:
    head.weight[0] = 0.0


@torch.no_grad()
def from_rows(head: nn.Linear, x: Tensor) -> None:
    torch.mean(x[:, :3], dim=0, out=head.bias)


@pytest.mark.parametrize("write", [renormed, clamped_data, clamped, by_index])
def test_bounds_that_hold_already(write: Callable[[nn.Linear, Tensor], Any]) -> None:
    model = Writes(write)
    model(X)
    model(X)  # after one pass the norm may be rounded above its bound
    right = tangents.kernel(model.net, X)
    state = {name: part.clone() for name, part in model.state_dict().items()}
    torch.testing.assert_close(tangents.kernel(model, X), right)
    j = tangents.jacobian(model, X).dense()
    torch.testing.assert_close(torch.einsum("ncp,mdp->nmcd", j, j), right)
    assert all(torch.equal(part, state[name]) for name, part in model.state_dict().items())


@pytest.mark.parametrize("write", [renormed, clamped_data, clamped, by_index, from_rows])
def test_other_numbers_that_a_pass_writes_to_its_parameters(write: Callable[[nn.Linear, Tensor], Any]) -> None:
    model = Writes(write)
    state = {name: part.clone() for name, part in model.state_dict().items()}
    at = "bias" if write is from_rows else "weight"
    refusal = rf"^`model` must leave its parameters as they are in a forward pass; got other .* 'net.2.{at}'\. Run it "
    for take in (
        lambda: tangents.kernel(model, X),
        lambda: tangents.jacobian(model, X),
        lambda: tangents.linearize(model)(moved(model), X),
    ):
        with pytest.raises(ValueError, match=refusal):
            take()
    assert all(torch.equal(part, state[name]) for name, part in model.state_dict().items())
