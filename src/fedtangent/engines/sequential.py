"""Sequential: one node after the other, the referee and the engine to debug with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedtangent import multiply_adds, shard


class _Sequential:
    name = "sequential"
    one_by_one = True

    def chunks(self, nodes: Sequence[int], node_bytes: Mapping[int, int]) -> list[list[int]]:
        return [[node] for node in nodes]

    def call(self, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [shard.trim(multiply_adds.run(fn, *map(shard.filled, row))) for row in rows]


def sequential(memory: int = 0) -> _Sequential:
    """A loop over nodes: nothing padded, nothing batched. `memory` is not needed: there is one node at a time."""
    return _Sequential()
