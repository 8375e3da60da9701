"""Waves: every process in every one of them, and the same list on all."""

from collections.abc import Sequence
from typing import Any

from fedtangent.catalog import load
from fedtangent.federation.waves import waves
from fedtangent.transports.memory import memory


class Blocks:
    """A transport that only tells which nodes are where."""

    def __init__(self, blocks: Sequence[list[int]], place: int) -> None:
        self._blocks, self._place = list(blocks), place

    def blocks(self, nodes: Sequence[int]) -> tuple[list[list[int]], int]:
        return [[node for node in block if node in nodes] for block in self._blocks], self._place


def of(engine: str, memory_bytes: int, place: int, needs: dict[int, int], nodes: Sequence[int] = range(5)) -> list[Any]:
    transport: Any = Blocks([[0, 1, 2], [], [3, 4]], place)
    return [tuple(wave) for wave in waves(transport, load("engines", engine)(memory=memory_bytes), nodes, needs)]


def test_in_one_process_they_are_the_engines_chunks() -> None:
    found = waves(memory(), load("engines", "vectorized")(memory=2), range(5), dict.fromkeys(range(5), 1))
    assert [tuple(wave) for wave in found] == [(0, (0, 1), (0, 1)), (1, (2, 3), (2, 3)), (2, (4,), (4,))]


def test_a_process_whose_nodes_have_ended_or_that_has_none_is_in_all_of_them() -> None:
    needs = dict.fromkeys(range(5), 1)
    assert of("vectorized", 1, 0, needs) == [(0, (0,), (0, 3)), (1, (1,), (1, 4)), (2, (2,), (2,))]
    assert of("vectorized", 1, 2, needs) == [(0, (3,), (0, 3)), (1, (4,), (1, 4)), (2, (), (2,))]
    assert of("vectorized", 1, 1, needs) == [(0, (), (0, 3)), (1, (), (1, 4)), (2, (), (2,))]


def test_nodes_that_are_computed_one_by_one_share_a_wave_as_far_as_memory_goes() -> None:
    assert of("sequential", 0, 0, dict.fromkeys(range(5), 2**20)) == [(0, (0, 1, 2), (0, 1, 2, 3, 4))]
    large = dict.fromkeys(range(5), 2**29)
    assert of("sequential", 0, 0, large) == [(0, (0, 1), (0, 1, 3, 4)), (1, (2,), (2,))]


def test_every_wave_asks_all_processes_alike() -> None:
    neighbours = [(1, 2, 3)] * 2 + [(5, 6, 7)] * 2 + [(0, 1, 2)] * 2 + [(5, 6, 7)] * 2  # half within, half without
    transport: Any = Blocks([[0, 1, 2, 3], [4, 5, 6, 7]], 0)
    engine = load("engines", "sequential")(memory=0)
    for wave in waves(transport, engine, range(8), dict.fromkeys(range(8), 2**29), neighbours):
        asked = [other for node in wave.everybody for other in neighbours[node]]
        assert len(wave.everybody) == 4
        assert sum(other < 4 for other in asked) == len(asked) / 2


def test_a_cohort_without_a_node_here() -> None:
    assert of("vectorized", 4, 2, dict.fromkeys(range(5), 1), nodes=(0, 2)) == [(0, (), (0, 2))]
