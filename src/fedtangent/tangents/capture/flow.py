"""Which use of parameters reaches which, followed through the calls of a forward pass."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedtangent.tangents.capture.dependence import tensors
from fedtangent.tangents.capture.layers import Tensors

# Functions of one number: the gate of a layer that only these and the last layer follow is their derivative.
ELEMENTWISE = {
    F.celu, F.dropout, F.elu, F.gelu, F.hardshrink, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid,
    F.mish, F.relu, F.relu6, F.selu, F.silu, F.softplus, F.softshrink, F.softsign, F.tanhshrink, F.threshold,
    torch.cos, torch.erf, torch.exp, torch.relu, torch.sigmoid, torch.sin, torch.tanh,
    Tensor.relu, Tensor.sigmoid, Tensor.tanh,
}  # fmt: skip


class Flow:
    """Which use reaches which through nothing but functions of one number."""

    def __init__(self) -> None:
        self._source: dict[int, str] = {}
        self._own: dict[int, str] = {}
        self._alive: list[Tensor] = []  # so that no other tensor takes an id
        self._consumed: Counter[int] = Counter()
        self._reached: dict[str, list[str | None]] = {}

    def add(
        self, function: Any, inputs: Tensors, results: Tensors, result: Any, key: str | None, through: bool = False
    ) -> None:
        """Notes a call; `results` are the numbers of `result`, `key` the use that it is, or goes `through` with."""
        if result is not None and not tensors(result):
            return  # a shape, a type: it reads and writes no number
        elementwise = through or (function in ELEMENTWISE and len(inputs) == len(results) == 1)
        for part in inputs:
            source = self._source.get(id(part))
            if source is None:
                continue
            if elementwise and part is results[0]:
                self._own.pop(id(part), None)
                continue  # in place: the same number goes on
            self._consumed[id(part)] += 1
            if elementwise and self._consumed[id(part)] == 1:
                self._follow(results[0], source)
            else:
                self._reached.setdefault(source, []).append(key)
        if key is not None and len(results) == 1:
            self._follow(results[0], key)
            self._own[id(results[0])] = key

    def untouched(self, f: Tensor) -> str | None:
        """The use whose very result f is, if no function was handed it since."""
        return None if self._consumed[id(f)] else self._own.get(id(f))

    def times(self, part: Tensor) -> int:
        """How often a tensor was handed to functions."""
        return self._consumed[id(part)]

    def sole_source(self, last: str) -> str | None:
        """The use that reaches `last` and nothing else."""
        return next((source for source, reached in self._reached.items() if reached == [last]), None)

    def _follow(self, result: Tensor, source: str) -> None:
        self._source[id(result)] = source
        self._alive.append(result)
