"""A function of a method does not write to what it is given: others hold it, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedtangent.engines.vectorized import vectorized
from fedtangent.federation import Each, Fleet, NodeError
from tests import tiny_federation as federation


def doubled(x: Tensor) -> Tensor:
    return x.mul_(2)


def with_row(_: object, x: Tensor) -> Tensor:
    x[0] = 1.0
    return x


def x_of(fleet: Fleet) -> Each[Tensor]:
    return fleet.broadcast(fleet.server(torch.ones(3, dtype=torch.float64)))


def refusal(name: str) -> str:
    return (
        rf"^`{name}` must not write to what it is given; got a tensor \(3,\) changed in place in round 1 of .*\. Others"
    )


def test_what_the_server_sent_to_all() -> None:
    fleet = federation.fleet(4)
    with pytest.raises(ValueError, match=refusal("doubled")):
        _ = fleet.map(doubled, x_of(fleet)).values


def test_at_the_server_and_in_a_draw() -> None:
    fleet = federation.fleet(4)
    with pytest.raises(ValueError, match=refusal("doubled")):
        fleet.at_server(doubled, fleet.server(torch.ones(3)))
    with pytest.raises(ValueError, match=refusal("with_row")):
        fleet.draw(with_row, x_of(fleet), purpose="noise")


def test_a_copy_may_be_written_to() -> None:
    fleet = federation.fleet(4)
    assert all(x.tolist() == [2, 2, 2] for x in fleet.map(lambda x: doubled(x.clone()), x_of(fleet)).values)


def test_random_numbers_under_vmap() -> None:
    fleet = federation.fleet(4, engine=vectorized())
    x_k = fleet.each([torch.full((3,), float(k)) for k in range(4)])
    with pytest.raises(NodeError, match=r"\)\. Draw with fleet.draw, and give it what was drawn$"):
        _ = fleet.map(lambda x: x + torch.rand(3), x_k).values


def test_python_does_not_decide_by_an_each() -> None:
    fleet = federation.fleet(4)
    with pytest.raises(TypeError, match=r"^`if` must not ask for an Each; got one\. Decide at the nodes"):
        assert x_of(fleet)
