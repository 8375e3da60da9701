"""Where a model uses its parameters: found by running it on a sample, whatever its modules are.

Every torch function that is handed a parameter is a use, wherever it is called: in a layer of torch, in a user's own
forward, in attention. A derived weight (a mask times it, one half of it) is a use of its own.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import optree
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent.tangents.dependence import Dependence, tensors
from fedtangent.tangents.functional import Weights, call, plain
from fedtangent.tangents.layers import Call, Hole, Matrix, Tensors, floats, use
from fedtangent.tangents.layers import Use as Followed
from fedtangent.tangents.samples import Samples
from fedtangent.tangents.whole import Whole

# Functions of one number: the gate of a layer that only these and the last layer follow is their derivative.
_ELEMENTWISE = {
    F.celu, F.dropout, F.elu, F.gelu, F.hardshrink, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid,
    F.mish, F.relu, F.relu6, F.selu, F.silu, F.softplus, F.softshrink, F.softsign, F.tanhshrink, F.threshold,
    torch.cos, torch.erf, torch.exp, torch.relu, torch.sigmoid, torch.sin, torch.tanh,
    Tensor.relu, Tensor.sigmoid, Tensor.tanh,
}  # fmt: skip


# Reads of values by Python, after which anything may depend on them.
_READS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__index__, Tensor.item}

Use = Followed | Whole

WHOLE = "(whole model)"


class UsesDiffer(ValueError):
    """A sample uses parameters otherwise than the first one did."""

    def __init__(self) -> None:
        super().__init__(
            "`model` must use its parameters alike for every sample; got samples that take other branches or loops. "
            "Let all samples take one way, or mask."
        )


@dataclass(frozen=True)
class Uses:
    """Where a model uses its parameters.

    Attributes:
        by_name: The uses in the order of the forward pass, by the name of their first parameter without `weight`; last
            of all the whole model's, of the parameters that could not be followed.
        outputs: C.
        last: The linear map whose result is f, if it ends in one: its sensitivities are the identity.
        gated: The linear map that only functions of one number and the last one follow, if there is one.
        touched: Numbers in all results of torch functions for one sample that are no views.
        widest: Numbers in the largest of them that may depend on a parameter.
        sample: Numbers of a sample.
        kept: Numbers kept of the inputs for one sample, by use.
        fixed: The uses whose inputs do not depend on the parameters, where somebody asked.
        seen: The parameters that were handed to any function, followed or not.
        unused: The parameters that no output depends on.
    """

    by_name: dict[str, Use]
    outputs: int
    last: str | None = None
    gated: str | None = None
    touched: int = 0
    widest: int = 0
    sample: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()
    unused: tuple[str, ...] = ()

    @property
    def whole(self) -> tuple[str, ...]:
        """The parameters whose gradients come from automatic differentiation of the whole model."""
        return self.by_name[WHOLE].call.names if WHOLE in self.by_name else ()


def recorded(model: nn.Module, w: Weights, x: Samples) -> Uses:
    """The uses of the parameters w that a forward pass of one sample x (1, ...) shows; nothing of them is verified.

    Raises:
        ValueError: Outputs that are no (rows, outputs).
        RuntimeError: The model's own, or one of the transforms of `torch.func`, inside which the pass takes place.
    """
    found: list[tuple[Recorder, Tensor]] = []

    def look(zero: Tensor) -> Tensor:
        recorder = Recorder(w)
        with recorder:
            f = call(model, w, x)
        found.append((recorder, outputs(f)))
        return zero

    with torch.no_grad(), plain():
        # inside a transform, as later: there a function that need not do anything gives a new tensor all the same
        torch.func.vjp(look, next(iter(w.values())).new_zeros(()))
    recorder, f = found[0]
    lost = _linked(recorder.lost, recorder.uses)
    by_name = {key: one for key, one in recorder.uses.items() if not lost & set(one.call.names)}
    last = recorder.flow.untouched(f)
    last = last if last in by_name and _dense(by_name[last]) else None
    gated = recorder.flow.sole_source(last) if last else None
    gated = gated if gated in by_name and _dense(by_name[gated]) else None
    kept = {key: sum(part.numel() for part in its) for key, its in recorder.kept.items() if key in by_name}
    seen = frozenset(recorder.seen)
    return Uses(by_name, f.shape[1], last, gated, recorder.touched, recorder.widest, x.numel(), kept, seen=seen)


def outputs(f: Any) -> Tensor:
    """What a model gives for one sample, (1, C).

    Raises:
        ValueError: It is anything else.
    """
    if not isinstance(f, Tensor) or f.dim() != 2 or len(f) != 1:
        got = f"shape {tuple(f.shape)}" if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(f"`model` must return (rows, outputs); got {got} for one row. Flatten its outputs.")
    return f


def without(found: Uses, names: Iterable[str]) -> tuple[Uses, tuple[str, ...]]:
    """The uses without those of these parameters and of all that share a use with them; and all of these in order."""
    lost = _linked(set(names), found.by_name)
    by_name = {key: one for key, one in found.by_name.items() if not lost & set(one.call.names)}
    last, gated = (key if key in by_name else None for key in (found.last, found.gated))
    kept = {key: count for key, count in found.kept.items() if key in by_name}
    rest = replace(found, by_name=by_name, last=last, gated=gated if last else None, kept=kept)
    return rest, tuple(sorted(lost))


def _linked(names: set[str], by_name: dict[str, Use]) -> set[str]:
    """These parameters and all that share a use with one of them, or with one of those."""
    lost = set(names)
    while more := {name for one in by_name.values() if lost & set(one.call.names) for name in one.call.names} - lost:
        lost |= more
    return lost


def fixed(model: nn.Module, w: Weights, x: Tensor) -> frozenset[str]:
    """The uses whose inputs do not depend on the parameters: from a pass that is followed operator by operator."""
    recorder = Recorder(w, dependence=Dependence(w.values()))
    assert recorder.dependence is not None
    with torch.no_grad(), plain(), recorder.dependence, recorder:
        call(model, w, x)
    return frozenset(recorder.fixed)


class Recorder(TorchFunctionMode):
    """While it is entered: finds the uses of parameters, keeps their inputs, adds probes to their results.

    Args:
        w: The parameters, the very tensors that the model is called with.
        known: The uses, where they were found before; else they are found.
        probes: To add to the results, by use.
        dependence: What depends on the parameters, to find the uses whose inputs do not.

    Attributes:
        uses, kept, results: The uses, what is kept of their inputs, and their first results.
        fixed: The uses whose inputs do not depend on the parameters.
        seen: The parameters that were handed to any function.
        lost: Those that were used in a way that cannot be followed: in place, or with complex results, or inside of a
            transform of the model's own.
        touched, widest: Numbers in all results, and in the largest after the first use.
    """

    def __init__(
        self,
        w: Weights,
        known: Uses | None = None,
        probes: dict[str, Tensors] | None = None,
        dependence: Dependence | None = None,
    ) -> None:
        super().__init__()
        self.w, self.known, self.probes, self.dependence = w, known, probes or {}, dependence
        self.uses: dict[str, Use] = {}
        self.kept: dict[str, Tensors] = {}
        self.results: dict[str, Tensor] = {}
        self.fixed: set[str] = set()
        self.seen: set[str] = set()
        self.lost: set[str] = set()
        if known is not None:
            self.lost = {*w}.difference(*(one.call.names for key, one in known.by_name.items() if key != WHOLE))
        self.touched = self.widest = 0
        self.flow = _Flow()
        self._names = {id(part): name for name, part in w.items()}
        self._level = _level()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            return self._attention(_bound(function, args, kwargs))
        return self._run(function, args, kwargs)

    def compare(self) -> None:
        """Raises UsesDiffer where the pass did not use the parameters as `known` says."""
        assert self.known is not None
        if [*self.kept] != [key for key in self.known.by_name if key != WHOLE] or self.seen != self.known.seen:
            raise UsesDiffer

    def _run(self, function: Any, args: Any, kwargs: Any) -> Any:
        leaves: list[Any]
        leaves, structure = optree.tree_flatten((args, kwargs), none_is_leaf=True)  # type: ignore[arg-type]
        names = {self._names[id(leaf)] for leaf in leaves if id(leaf) in self._names}
        if self.dependence is not None:
            inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            moved = self.dependence.of(part for part in inputs if id(part) not in self._names)
            if function in _READS:
                self.dependence.read(inputs)
        result, key = function(*args, **kwargs), None
        parts = floats(result)
        self.seen |= names
        if names and self._followed(function, leaves, result):
            # a parameter's shape or type is no use of it, nor is the parameter itself
            if parts and not any(part is leaf for part in parts for leaf in leaves) and not names & self.lost:
                key = self._use(function, leaves, structure, parts)
                if key in self.probes:
                    probes = iter(self.probes[key])
                    result = optree.tree_map(lambda part: part + next(probes) if floats(part) else part, result)
                    parts = floats(result)
                self.results[key] = parts[0]
                if self.dependence is not None and not moved:
                    self.fixed.add(key)
        else:
            self.lost |= names
        self._count(sum(part.numel() for part in parts if not part._is_view()))
        if function is F.scaled_dot_product_attention:
            queries, keys = floats(leaves)[:2]
            self._count_scores(queries[..., 0].numel() * keys.shape[-2])
        self.flow.add(function, floats(leaves), parts, result, key)
        return result

    def _count(self, numbers: int) -> None:
        self.touched += numbers
        if self.kept:
            self.widest = max(self.widest, numbers)

    def _count_scores(self, numbers: int) -> None:
        """Of attention, which are inside of the function: products and weights."""
        for _ in range(2):
            self._count(numbers)

    def _followed(self, function: Any, leaves: list[Any], result: Any) -> bool:
        """Whether a function that is handed parameters can be a use."""
        found = tensors(result)
        written = function is Tensor.__setitem__ or any(
            part is leaf and id(leaf) not in self._names for part in found for leaf in leaves
        )
        return not written and not any(part.is_complex() for part in found) and self._level == _level()

    def _use(self, function: Any, leaves: list[Any], structure: Any, parts: Tensors) -> str:
        names = tuple(dict.fromkeys(self._names[id(leaf)] for leaf in leaves if id(leaf) in self._names))
        inputs = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor) and id(leaf) not in self._names)
        key = _unused_key(names[0], self.kept)
        order = {id(leaf): number for number, leaf in enumerate(inputs)}
        holes = [
            Hole(self._names.get(id(leaf), order.get(id(leaf), 0))) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]
        made = Call(function, (holes, structure), names, tuple(tuple(part.shape) for part in parts))
        if self.known is None:
            self.uses[key] = use(made, self.w, inputs)
        elif key in self.known.by_name and made.same(self.known.by_name[key].call):
            self.uses[key] = self.known.by_name[key]
        else:
            raise UsesDiffer
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
        self._count(8 * mixed.numel())
        self._count_scores(query[..., 0].numel() * given["num_heads"] * len(query))  # (tokens, rows, width)
        return self._run(F.linear, (mixed, given["out_proj_weight"], given["out_proj_bias"]), {}), scores


class _Flow:
    """Which use reaches which through nothing but functions of one number."""

    def __init__(self) -> None:
        self._source: dict[int, str] = {}
        self._own: dict[int, str] = {}
        self._alive: list[Tensor] = []  # so that no other tensor takes an id
        self._consumed: Counter[int] = Counter()
        self._reached: dict[str, list[str | None]] = {}

    def add(self, function: Any, inputs: Tensors, results: Tensors, result: Any, key: str | None) -> None:
        """Notes a call; `results` are the numbers of `result`, `key` the use that it is."""
        if result is not None and not tensors(result):
            return  # a shape, a type: it reads and writes no number
        elementwise = function in _ELEMENTWISE and len(inputs) == len(results) == 1
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


def _level() -> int:
    """How many transforms of torch.func are around."""
    interpreter = torch._C._functorch.peek_interpreter_stack()
    return 0 if interpreter is None else int(interpreter.level())


def _dense(one: Use) -> bool:
    return isinstance(one, Matrix) and one.window is None and not one.lookup and one.positions == 1


def _bound(function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
