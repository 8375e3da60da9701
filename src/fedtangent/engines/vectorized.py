"""Vectorized: many nodes at once on one device, in chunks from a memory budget."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedtangent import many, multiply_adds, shard, trees

_PADDED = 2  # times a node's own memory: the most that a node is padded to, for its work grows as fast
_WORTH_A_CALL = 2**20  # numbers of padding, which take as long as one more call


class _Vectorized:
    name = "vectorized"
    one_by_one = False

    def __init__(self, memory: int) -> None:
        self.memory = memory

    def chunks(self, nodes: Sequence[int], node_bytes: Mapping[int, int]) -> list[list[int]]:
        """Nodes of similar size together, so that one big shard does not pad all others."""
        chunks: list[list[int]] = []
        for node in sorted(nodes, key=lambda node: (-node_bytes.get(node, 0), node)):
            # the first of a chunk is its largest, and the others are padded to it
            largest = node_bytes.get(chunks[-1][0], 0) if chunks else 0
            fits = (len(chunks[-1]) + 1) * largest <= self.memory if chunks else False
            if fits and largest <= _PADDED * node_bytes.get(node, 0):
                chunks[-1].append(node)
            else:
                chunks.append([node])
        return chunks

    def call(self, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        rows = [tuple(map(shard.filled, row)) for row in rows]
        if len(rows) == 1:  # a plain call: no batch axis to pay for
            return [shard.trim(multiply_adds.run(fn, *rows[0]))]
        columns = list(zip(*rows, strict=True))
        same = [all(value is column[0] for value in column) for column in columns]
        if all(same):
            return [shard.trim(multiply_adds.run(fn, *rows[0], times=len(rows)))] * len(rows)
        groups = _of_like_size([column for column, alike in zip(columns, same, strict=True) if not alike])
        if len(groups) == 1:
            return _batched(fn, columns, same)
        found: list[Any] = [None] * len(rows)
        for group in groups:
            for place, result in zip(group, self.call(fn, [rows[place] for place in group]), strict=True):
                found[place] = result
        return found


def _batched(fn: Callable[..., Any], columns: Sequence[Sequence[Any]], same: Sequence[bool]) -> list[Any]:
    stacked = [column[0] if alike else many.stacked(column) for column, alike in zip(columns, same, strict=True)]
    batched = torch.func.vmap(fn, in_dims=tuple(None if alike else 0 for alike in same))
    results = multiply_adds.run(batched, *stacked, like=fn)
    return many.unstacked(results, len(columns[0]))


def _of_like_size(columns: Sequence[Sequence[Any]]) -> list[list[int]]:
    """Places of rows: padded to no more than twice their numbers, as far as what that spares is worth a call."""
    sizes = [
        sum(leaf.numel() for leaf in trees.leaves(row) if isinstance(leaf, Tensor))
        for row in zip(*columns, strict=True)
    ]
    groups: list[list[int]] = []
    for place, row in enumerate(sorted(range(len(sizes)), key=lambda row: -sizes[row])):
        largest = sizes[groups[-1][0]] if groups else 0
        spared = (largest - sizes[row]) * (len(sizes) - place)
        if groups and (largest <= _PADDED * sizes[row] or spared < _WORTH_A_CALL):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def vectorized(memory: int = 2**28) -> _Vectorized:
    """Chunks of nodes under one `torch.func.vmap`; a chunk of one is a plain call.

    Args:
        memory: The budget of a chunk, in bytes. On a CPU small chunks stay in the caches, and are often the fastest.
    """
    return _Vectorized(memory)
