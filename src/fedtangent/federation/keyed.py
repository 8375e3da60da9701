"""Random numbers keyed by seed, round, node and purpose, so that nothing depends on the order of execution."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from fedtangent.federation.engine import blamed, unwritten
from fedtangent.federation.ledger import SERVER

T = TypeVar("T")


def generator(seed: int, round: int, purpose: str, node: int = SERVER) -> np.random.Generator:
    """A generator keyed by seed, round, node and purpose."""
    key = [seed, zlib.crc32(purpose.encode())]
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, round, node % 2**32]))


class Numbers:
    """One generator that is every node's in turn: its state is set, which takes a tenth of making another."""

    def __init__(self, seed: int, round: int, purpose: str) -> None:
        """Of a round and purpose."""
        self._round = round
        self._rng = generator(seed, round, purpose, 0)
        self._state: Any = self._rng.bit_generator.state
        self._counter = self._state["state"]["counter"]

    def of(self, node: int) -> np.random.Generator:
        """`generator` of a node, until it is that of another."""
        self._counter[3] = node % 2**32
        self._rng.bit_generator.state = self._state
        return self._rng

    def drawn(
        self, fn: Callable[..., T], nodes: Sequence[int], rows: Sequence[tuple[Any, ...]], method: str
    ) -> list[T]:
        """fn(generator, *row) of every node, one after the other; an error names the node, the method and the round."""
        found = []
        for node, row in zip(nodes, rows, strict=True):
            with unwritten(fn, [row], method, self._round):
                try:
                    found.append(fn(self.of(node), *row))
                except Exception as error:
                    raise blamed(fn, [node], [(self.of(node), *row)], error, method, self._round) from error
        return found
