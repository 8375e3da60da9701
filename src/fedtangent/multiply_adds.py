"""Multiply-adds: those of matrix products and convolutions, counted from the operations that really run.

Sums, elementwise functions, normalisations, look-ups and decompositions of matrices are not counted.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from hashlib import blake2b
from math import prod
from typing import Any, TypeVar

import optree
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

T = TypeVar("T")

aten = torch.ops.aten


def _convolution(x: Tensor, w: Tensor, _b: Any, _s: Any, _p: Any, _d: Any, transposed: bool, *_: Any, out: Any) -> int:
    return (x if transposed else out).numel() * prod(w.shape[1:])


def _backward(g: Tensor, x: Tensor, w: Tensor, _b: Any, _s: Any, _p: Any, _d: Any, transposed: bool, *rest: Any) -> int:
    wanted = sum(rest[-1][:2])  # of gradients for inputs and weights
    return int(wanted) * (x if transposed else g).numel() * prod(w.shape[1:])


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, out: Any, **__: Any) -> int:
    return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _attention_backward(g: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, out: Any, **__: Any) -> int:
    # the scores once more, and the products for q and k, each with q's width; those for v and the scores with v's
    return prod(q.shape[:-1]) * k.shape[-2] * (3 * q.shape[-1] + 2 * v.shape[-1])


# By operation, of its arguments and its result.
_COSTS: dict[Any, Callable[..., int]] = {
    aten.mm: lambda a, b, out: a.numel() * b.shape[-1],
    aten.bmm: lambda a, b, out: a.numel() * b.shape[-1],
    aten.addmm: lambda c, a, b, out, **_: a.numel() * b.shape[-1],
    aten.baddbmm: lambda c, a, b, out, **_: a.numel() * b.shape[-1],
    aten.mv: lambda a, b, out: a.numel(),
    aten.addmv: lambda c, a, b, out, **_: a.numel(),
    aten.dot: lambda a, b, out: a.numel(),
    aten.convolution: _convolution,
    aten.convolution_backward: lambda *given, out: _backward(*given),
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
}


class Tally:
    """What calls have cost: the costs of calls that occurred, by a digest of function and shapes, and their sum."""

    def __init__(self, costs: dict[str, int]) -> None:
        """Begins at 0 with the costs that are known."""
        self.costs, self.total = costs, 0


_TALLY: ContextVar[Tally | None] = ContextVar("tally", default=None)
_COUNTING: ContextVar["Counting | None"] = ContextVar("counting", default=None)


@contextmanager
def tallied(costs: dict[str, int]) -> Iterator[Tally]:
    """Every `run` inside is counted; costs found are added to those given."""
    tally = Tally(costs)
    token = _TALLY.set(tally)
    try:
        yield tally
    finally:
        _TALLY.reset(token)


def run(fn: Callable[..., T], *args: Any, like: Callable[..., Any] | None = None, times: int = 1) -> T:
    """fn(*args), its multiply-adds noted where there is a tally.

    They are counted in the first call with a function's code and its arguments' shapes, and taken over in later ones.

    Args:
        fn: The function.
        args: Trees of tensors.
        like: A stable cache key of the function, if it is created anew at every call.
        times: How many nodes take over the result.
    """
    tally = _TALLY.get()
    if tally is None:
        return fn(*args)
    key = _key(like or fn, args)
    if key in tally.costs:
        result = fn(*args)
    else:
        with Counting() as counting:
            result = fn(*args)
        tally.costs[key] = counting.total
    tally.total += times * tally.costs[key]
    return result


def repeated(steps: Iterable[T]) -> Iterator[T]:
    """The steps of a loop, which cost the same: the first is counted for all, and the others are spared its price."""
    counting, rest = _COUNTING.get(), iter(steps)
    if counting is None or counting.away:
        yield from rest
        return
    before = counting.total
    for step in rest:
        yield step
        cost = counting.total - before
        with uncounted():
            for more in rest:
                counting.total += cost
                yield more


def are_counted() -> bool:
    """Whether operations are being counted."""
    counting = _COUNTING.get()
    return counting is not None and not counting.away


@contextmanager
def uncounted() -> Iterator[None]:
    """Suspends counting: for work that is done once and not by every node."""
    counting = _COUNTING.get()
    if counting is None or counting.away:
        yield
        return
    counting.leave()
    try:
        yield
    finally:
        counting.come_back()


class Counting(TorchDispatchMode):
    """While it is entered: adds up `total`, below autograd and every transform of torch.func."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total, self.away = 0, False

    def __enter__(self) -> Any:
        """Begins to count."""
        self._token = _COUNTING.set(self)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Ends, also in the middle of a loop that failed."""
        self.come_back()
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _COUNTING.reset(self._token)

    def leave(self) -> None:
        """Nothing is counted until it comes back."""
        _pop_mode()
        self.away = True

    def come_back(self) -> None:
        """Goes on counting."""
        if self.away:
            _push_mode(self)
            self.away = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would wrap every operation in a guard against its compiler, at half of what counting costs."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation."""
        if func not in _HOW:
            _HOW[func] = _how(func)
        cost = _HOW[func]
        if cost is None:
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        if cost == "decompose":
            _push_mode(self)
            try:
                return func.decompose(*args, **kwargs)
            finally:
                _pop_mode()
        out = func(*args, **kwargs)
        self.total += cost(*args, **kwargs, out=out)
        return out


_HOW: dict[Any, Any] = {}  # what to do with an operation, by overload: nothing, take it apart, or a row of the table


def _how(func: Any) -> Any:
    kind = func._overloadpacket
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    if kind not in _COSTS and func.has_kernel_for_dispatch_key(composite):
        return "decompose"
    return _COSTS.get(kind)


def _key(fn: Any, args: Any) -> str:
    """Of the code, the plain values that it encloses, and its arguments' structure and shapes."""
    leaves, structure = optree.tree_flatten(args)
    shapes = tuple([(*leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else _plain(leaf) for leaf in leaves])
    return _digest(_code(fn), shapes, structure)


@lru_cache(maxsize=4096)
def _digest(code: Any, shapes: Any, structure: Any) -> str:
    return blake2b(f"{(code, shapes)!r} {structure}".encode(), digest_size=8).hexdigest()


def _code(fn: Any) -> Any:
    if isinstance(fn, partial):
        return _code(fn.func), tuple([_plain(value) for value in (*fn.args, *fn.keywords.values())])
    fn = getattr(fn, "__wrapped__", getattr(fn, "__func__", fn))
    code = getattr(fn, "__code__", None)
    if code is None:
        return type(fn).__qualname__, getattr(fn, "__name__", "")
    cells = tuple([_plain(cell.cell_contents) for cell in fn.__closure__ or () if _filled(cell)])
    return fn.__module__, code.co_qualname, code.co_firstlineno, zlib.crc32(code.co_code), cells


def _plain(value: Any) -> Any:
    return (type(value), value) if isinstance(value, (bool, int, float, str)) else None


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # its variable is set later
        return False
    return True
