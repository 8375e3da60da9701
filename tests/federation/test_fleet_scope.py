"""What a method may wrap around another: a context for what runs on nodes, and what they hold already."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedtangent.federation import Each, Fleet, NodeError
from tests import tiny_federation as federation
from tests.tiny_federation import ROWS, assert_close

OFFSET: ContextVar[Tensor | None] = ContextVar("offset", default=None)
ENGINES = [("sequential", 1), ("vectorized", 1), ("vectorized", 2), ("vectorized", 6)]


@contextmanager
def shifted(by: Tensor) -> Iterator[None]:
    token = OFFSET.set(by)
    try:
        yield
    finally:
        OFFSET.reset(token)


def plus(x: Tensor) -> Tensor:
    offset = OFFSET.get()
    return x if offset is None else x + offset


def scalars(fleet: Fleet, factor: float) -> Each[Tensor]:
    return fleet.each([torch.tensor(factor * node, dtype=torch.float64) for node in fleet.nodes])


@pytest.mark.parametrize(("engine", "budget"), ENGINES)
@pytest.mark.parametrize("same", [False, True])
def test_every_map_on_a_node_runs_inside_its_own_scope(engine: str, budget: int, same: bool) -> None:
    fleet = federation.fleet(engine=federation.engine(engine, budget))
    offset_k = fleet.everywhere(torch.tensor(7.0, dtype=torch.float64)) if same else scalars(fleet, 10.0)
    inside = fleet.within(shifted, offset_k)
    expected = [node + (7 if same else 10 * node) for node in fleet.nodes]
    assert_close(torch.stack(inside.map(plus, scalars(fleet, 1.0)).values), torch.tensor(expected).double())
    assert_close(torch.stack(fleet.map(plus, scalars(fleet, 1.0)).values), torch.arange(len(ROWS)).double())
    assert OFFSET.get() is None


def test_a_drawn_fleet_keeps_the_scope() -> None:
    fleet = federation.fleet()
    drawn = fleet.within(shifted, scalars(fleet, 10.0)).cohort(3)
    assert_close(torch.stack(drawn.map(plus, scalars(fleet, 1.0)).values), 11 * torch.tensor(drawn.nodes).double())


def test_a_failure_inside_names_the_function_and_the_node() -> None:
    def fails(x: Tensor) -> Tensor:
        raise KeyError("spoilt")

    fleet = federation.fleet()
    with pytest.raises(NodeError, match=r"^node 0 failed in 'fails' of a method, round 1: KeyError: 'spoilt'"):
        _ = fleet.within(shifted, scalars(fleet, 1.0)).map(fails, scalars(fleet, 1.0)).values
    assert OFFSET.get() is None


def test_a_node_outside_of_the_scope_is_refused() -> None:
    fleet = federation.fleet()
    some = replace(fleet, nodes=(0, 2))
    with pytest.raises(ValueError, match=r"^`x_k` must hold a value of every node; got none of node 1\. "):
        fleet.within(shifted, scalars(some, 1.0)).map(plus, scalars(fleet, 1.0))
