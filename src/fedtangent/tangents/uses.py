"""Where a model uses its parameters: found by running it on a sample, whatever its modules are.

Every torch function that is handed a parameter is a use, wherever it is called: in a layer of torch, in a user's own
forward, in attention. A derived weight (a mask times it, one half of it) is a use of its own.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import optree
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent import multiply_adds
from fedtangent.tangents.functional import Weights, call, check, plain
from fedtangent.tangents.layers import Call, Hole, Matrix, Tensors, Use, floats, use
from fedtangent.tangents.samples import Batch, Samples

# Functions of one number: the gate of a layer that only these and the last layer follow is their derivative.
_ELEMENTWISE = {
    F.celu, F.dropout, F.elu, F.gelu, F.hardshrink, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid,
    F.mish, F.relu, F.relu6, F.selu, F.silu, F.softplus, F.softshrink, F.softsign, F.tanhshrink, F.threshold,
    torch.cos, torch.erf, torch.exp, torch.relu, torch.sigmoid, torch.sin, torch.tanh,
    Tensor.relu, Tensor.sigmoid, Tensor.tanh,
}  # fmt: skip


_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, Uses]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Uses:
    """Where a model uses its parameters.

    Attributes:
        by_name: The uses in the order of the forward pass, by the name of their first parameter without `weight`.
        outputs: C.
        last: The linear map whose result is f, if it ends in one: its sensitivities are the identity.
        gated: The linear map that only functions of one number and the last one follow, if there is one.
        touched: Numbers in all results of torch functions for one sample.
        kept: Numbers kept of the inputs for one sample, by use.
        fixed: The uses whose inputs do not depend on the parameters.
    """

    by_name: dict[str, Use]
    outputs: int
    last: str | None
    gated: str | None
    touched: int
    kept: dict[str, int]
    fixed: frozenset[str]


def uses(model: nn.Module, w: Weights, x: Samples) -> Uses:
    """The uses of the parameters w, from a forward pass of one sample of x (n, ...).

    Raises:
        ValueError: A parameter that is not used, outputs that are no (rows, outputs), integers where floats are needed.
    """
    check(model)
    found: list[Uses] = []

    def look(zero: Tensor) -> Tensor:
        found.append(_found(model, w, x[:1]))
        return zero

    with torch.no_grad(), plain():
        # inside a transform, as later: there a function that need not do anything gives a new tensor all the same
        torch.func.vjp(look, next(iter(w.values())).new_zeros(()))
    return found[0]


def known_uses(model: nn.Module, w: Weights, x: Tensor) -> Uses:
    """`uses` of a task's model, which stays as it is: looked for once for parameters and samples of these shapes."""
    known = _KNOWN.setdefault(model, {})
    parts = tuple((name, part.shape, part.dtype) for name, part in w.items())
    key = parts, x.shape[1:], x.dtype, x.device
    if key not in known:
        with multiply_adds.uncounted():
            known[key] = uses(model, w, x)
    return known[key]


def _found(model: nn.Module, w: Weights, x: Samples) -> Uses:
    recorder = Recorder(w)
    try:
        with recorder:
            f = call(model, w, x)
    except RuntimeError as error:
        if isinstance(x, Batch) or x.is_floating_point():
            raise
        raise ValueError(f"`x` must be floats for this model; got {x.dtype}. Convert it: x.float().") from error
    if not isinstance(f, Tensor) or f.dim() != 2 or len(f) != 1:
        got = f"shape {tuple(f.shape)}" if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(f"`model` must return (rows, outputs); got {got} for one row. Flatten its outputs.")
    unused = sorted(set(w) - {name for one in recorder.uses.values() for name in one.call.names})
    if unused:
        raise ValueError(
            f"`model` must use every trainable parameter; got {unused[0]!r} unused. "
            "Freeze it with requires_grad_(False), or remove it."
        )
    last = next((key for key, result in recorder.results.items() if result is f and _dense(recorder.uses[key])), None)
    gated = recorder.flow.sole_source(last) if last else None
    if gated and not _dense(recorder.uses[gated]):
        gated = None
    kept = {key: sum(part.numel() for part in its) for key, its in recorder.kept.items()}
    return Uses(recorder.uses, f.shape[1], last, gated, recorder.touched, kept, frozenset(recorder.fixed))


class Recorder(TorchFunctionMode):
    """While it is entered: finds the uses of parameters, keeps their inputs, adds probes to their results.

    Args:
        w: The parameters, the very tensors that the model is called with.
        known: The uses, where they were found before; else they are found.
        probes: To add to the results, by use.
    """

    def __init__(
        self, w: Weights, known: dict[str, Use] | None = None, probes: dict[str, Tensors] | None = None
    ) -> None:
        super().__init__()
        self.w, self.known, self.probes = w, known, probes or {}
        self.uses: dict[str, Use] = {}
        self.kept: dict[str, Tensors] = {}
        self.results: dict[str, Tensor] = {}
        self.fixed: list[str] = []
        self.touched = 0
        self.flow = _Flow()
        self._names = {id(part): name for name, part in w.items()}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            return self._attention(_bound(function, args, kwargs))
        return self._run(function, args, kwargs)

    def _run(self, function: Any, args: Any, kwargs: Any) -> Any:
        leaves: list[Any]
        leaves, structure = optree.tree_flatten((args, kwargs), none_is_leaf=True)  # type: ignore[arg-type]
        result, key = function(*args, **kwargs), None
        parts = floats(result)
        own = any(id(leaf) in self._names for leaf in leaves)
        # a parameter's shape or type is no use of it, nor is the parameter itself
        if own and parts and not any(part is leaf for part in parts for leaf in leaves):
            key = self._use(function, leaves, structure, parts)
            if key in self.probes:
                probes = iter(self.probes[key])
                result = optree.tree_map(lambda part: part + next(probes) if floats(part) else part, result)
                parts = floats(result)
            self.results[key] = parts[0]
            if not self.flow.moved(leaves, self._names):
                self.fixed.append(key)
        self.touched += sum(part.numel() for part in parts)
        self.flow.add(function, floats(leaves), parts, key)
        if own or self.flow.moved(leaves):
            self.flow.move(floats(leaves[0]) if function is Tensor.__setitem__ else parts)
        return result

    def _use(self, function: Any, leaves: list[Any], structure: Any, parts: Tensors) -> str:
        names = tuple(dict.fromkeys(self._names[id(leaf)] for leaf in leaves if id(leaf) in self._names))
        inputs = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor) and id(leaf) not in self._names)
        key = _unused_key(names[0], self.kept)
        if self.known is None:
            order = {id(leaf): number for number, leaf in enumerate(inputs)}
            holes = [
                Hole(self._names.get(id(leaf), order.get(id(leaf), 0))) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            made = Call(function, (holes, structure), names, tuple(tuple(part.shape) for part in parts))
            self.uses[key] = use(made, self.w, inputs)
        else:
            self.uses[key] = self.known[key]
        self.kept[key] = self.uses[key].kept(inputs)
        return key

    def _attention(self, given: dict[str, Any]) -> Any:
        """Attention, its projections as uses of their own with identities in their place."""
        query, bias = given["query"], given["in_proj_bias"]
        same = given["key"] is query and given["value"] is query
        whole = given["in_proj_weight"]
        if not same or whole is None or id(given["bias_k"]) in self._names:
            return self._run(F.multi_head_attention_forward, (), given)
        three = self._run(F.linear, (query, whole, bias), {}).chunk(3, -1)
        eye = torch.eye(query.shape[-1], dtype=query.dtype, device=query.device)
        sides = dict(zip(("query", "key", "value"), three, strict=True))
        eyes = dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj_weight"), eye)
        none = {"in_proj_weight": None, "in_proj_bias": None, "out_proj_bias": None}
        mixed, scores = F.multi_head_attention_forward(
            **{**given, **sides, **eyes, **none, "use_separate_proj_weight": True}
        )
        self.touched += 8 * mixed.numel()
        self.flow.move((mixed,))
        return self._run(F.linear, (mixed, given["out_proj_weight"], given["out_proj_bias"]), {}), scores


class _Flow:
    """Which use reaches which through nothing but functions of one number."""

    def __init__(self) -> None:
        self._source: dict[int, str] = {}
        self._alive: list[Tensor] = []  # so that no other tensor takes an id
        self._consumed: Counter[int] = Counter()
        self._reached: dict[str, list[str | None]] = {}
        self._moved: set[int] = set()

    def add(self, function: Any, inputs: Tensors, results: Tensors, key: str | None) -> None:
        for part in inputs:
            source = self._source.get(id(part))
            if source is None or any(part is result for result in results):
                continue  # in place: the same number goes on
            self._consumed[id(part)] += 1
            if function in _ELEMENTWISE and len(inputs) == len(results) == 1 and self._consumed[id(part)] == 1:
                self._follow(results[0], source)
            else:
                self._reached.setdefault(source, []).append(key)
        if key is not None and len(results) == 1:
            self._follow(results[0], key)

    def move(self, parts: Tensors) -> None:
        """Notes that these depend on the parameters."""
        self._moved.update(id(part) for part in parts)
        self._alive.extend(parts)

    def moved(self, leaves: list[Any], without: Any = ()) -> bool:
        """Whether one of these depends on the parameters."""
        return any(id(leaf) in self._moved and id(leaf) not in without for leaf in leaves)

    def sole_source(self, last: str) -> str | None:
        """The use that reaches `last` and nothing else."""
        return next((source for source, reached in self._reached.items() if reached == [last]), None)

    def _follow(self, result: Tensor, source: str) -> None:
        self._source[id(result)] = source
        self._alive.append(result)


def _unused_key(name: str, taken: dict[str, Any]) -> str:
    """The name without `weight` or `bias`, numbered where it is not the first use of it."""
    prefix = name.removesuffix("weight").removesuffix("bias")
    key, number = prefix, 2
    while key in taken:
        key, number = f"{prefix}#{number}", number + 1
    return key


def _dense(one: Use) -> bool:
    return isinstance(one, Matrix) and one.window is None and not one.lookup and one.positions == 1


def _bound(function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
