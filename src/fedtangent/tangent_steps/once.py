"""What a node's answers about the same rows have in common, computed for the first of them and kept for the others.

A round asks a node for sums, for the curvature along directions and for losses, all at the same weights and each as if
it were the first question. Of a chain of two linear maps these share the pass and the products of the rows with the
weights and the directions, most of the work. They are known again by the very tensors that they were made of, and kept
no longer than those.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedtangent import multiply_adds, trees
from fedtangent.tangent_steps import of_task
from fedtangent.tangents.capture.factors import Factors, factors
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.kernel_operator import products
from fedtangent.tangents.capture.uses import Uses
from fedtangent.training.task import Task

T = TypeVar("T")

# Bytes of what is kept beside data and weights; the oldest goes first.
MEMORY = 2**27


class Once:
    """Results by the tensors that they were made of, as these were then. A result must not be changed in place."""

    def __init__(self) -> None:
        """Begins with none."""
        self._kept: dict[Any, tuple[Any, int, list[weakref.ref[Tensor]]]] = {}

    def of(self, name: str, make: Callable[[], T], made_of: Sequence[Tensor]) -> T:
        """`make()`, or what it gave for these tensors before.

        Inside a transform, where an engine runs many nodes at once, and while multiply-adds are counted, which hang on
        no earlier call, it is made anew.
        """
        key = _key(name, made_of)
        if key is None:
            return make()
        found = self._kept.pop(key, None) or self._new(key, make(), made_of)
        self._kept[key] = found
        return found[0]  # type: ignore[no-any-return]

    def known(self, name: str, made_of: Sequence[Tensor]) -> Any:
        """What was made of these tensors before; None where nothing was."""
        return self._kept.get(_key(name, made_of), (None,))[0]

    def _new(self, key: Any, value: Any, made_of: Sequence[Tensor]) -> tuple[Any, int, list[weakref.ref[Tensor]]]:
        theirs = {part.untyped_storage().data_ptr() for part in made_of}  # of which the value may hold views
        own = [part for part in trees.leaves(value) if part.untyped_storage().data_ptr() not in theirs]
        size = sum(part.nbytes for part in own)
        kept = [*self._kept.items()]  # at once: nodes may run in threads
        while kept and size + sum(held for _, (_, held, _) in kept) > MEMORY:
            self._forget(kept.pop(0)[0])
        gone = partial(self._forget, key)
        return value, size, [weakref.ref(part, gone) for part in made_of]

    def _forget(self, key: Any, _: Any = None) -> None:
        self._kept.pop(key, None)


def _key(name: str, made_of: Sequence[Tensor]) -> tuple[Any, ...] | None:
    if torch._C._functorch.peek_interpreter_stack() is not None or multiply_adds.are_counted():
        return None
    return name, *[(id(part), part._version) for part in made_of]


def two_maps(found: Uses) -> bool:
    """Whether a model is a chain of at most two linear maps, of which gates tell all derivatives."""
    return found.chain is not None and found.by_name.keys() <= {found.last, found.gated}


def linearised(task: Task, w: Weights, x: Any, found: Uses) -> tuple[Tensor, Factors]:
    """f(x; w) (n, C) and the factors of its Jacobian."""
    if not two_maps(found):
        return factors(of_task.function(task), w, of_task.samples(x), found)
    return _pass(task, w, x, found)[:2]


def results(task: Task, w: Weights, x: Tensor, found: Uses) -> Weights:
    """x W^T + b (n, O) of the first map of a chain, by its use."""
    passed = _kept(task).known("pass", [*w.values(), x])
    return _first(w, x, found) if passed is None else passed[2]


def _pass(task: Task, w: Weights, x: Tensor, found: Uses) -> tuple[Tensor, Factors, Weights]:
    def make() -> tuple[Tensor, Factors, Weights]:
        given = _first(w, x, found)
        # a view that is tracked as one of x would keep it alive
        return *factors(of_task.function(task), w, x.detach(), found, given=given), given

    return _kept(task).of("pass", make, [*w.values(), x])


def _first(w: Weights, x: Tensor, found: Uses) -> Weights:
    assert found.chain is not None
    first, *_ = found.chain.links
    return {first.key: F.linear(x.flatten(1), w[first.weight], None if first.bias is None else w[first.bias])}


def changes(task: Task, basis: Weights, x: Tensor, found: Uses) -> Weights:
    """How these results change along directions, which have a leading axis, (k, n, O)."""
    assert found.chain is not None
    first, *_ = found.chain.links
    own = [basis[name] for name in (first.weight, first.bias) if name is not None]

    def make() -> Tensor:
        along = products(x.flatten(1), own[0])
        return (along if first.bias is None else along + own[1][:, None]).contiguous()

    return {first.key: _kept(task).of("changes", make, [*own, x]) if two_maps(found) else make()}


def gram(task: Task, basis: Weights) -> Tensor:
    """The inner products (k, k) of directions."""

    def make() -> Tensor:
        flat = torch.cat([d.flatten(1) if d.dim() > 1 else d[:, None] for d in basis.values()], 1)
        return flat @ flat.mT

    return _kept(task).of("gram", make, [*basis.values()])


def _kept(task: Task) -> Once:
    found: Once = task.cache.setdefault("once", Once())
    return found
