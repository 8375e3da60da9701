"""Where a model uses its parameters: found by running it on a sample, whatever its modules are.

Every torch function that is handed a parameter is a use, wherever it is called: in a layer of torch, in a user's own
forward, in attention. A derived weight (a mask times it, one half of it) is a use of its own; a view of a parameter,
transposed or reshaped, is none before something is done with it. A sum that follows a matrix is its bias.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import optree
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.chain import Chain
from fedtangent.tangents.capture.dependence import Dependence, tensors
from fedtangent.tangents.capture.flow import Flow
from fedtangent.tangents.capture.functional import Weights, call, plain
from fedtangent.tangents.capture.layers import Call, Hole, Matrix, Tensors, floats
from fedtangent.tangents.capture.layers import Use as Followed
from fedtangent.tangents.capture.pieces import PIECES
from fedtangent.tangents.capture.rules import ADDITIONS, use, with_bias
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.views import views
from fedtangent.tangents.capture.whole import Whole

# Reads of values by Python, after which anything may depend on them.
_READS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__index__, Tensor.item}

Use = Followed | Whole

WHOLE = "(whole model)"


class UsesDiffer(SettingError):
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
        gated: The linear map followed only by elementwise activations and the last linear map, if there is one.
        touched: Numbers in all results of torch functions for one sample that are no views.
        widest: Numbers in the largest of them that may depend on a parameter.
        sample: Numbers of a sample.
        kept: Numbers kept of the inputs for one sample, by use.
        fixed: The uses whose inputs do not depend on the parameters, where somebody asked.
        seen: The parameters that were handed to any function, followed or not.
        unused: The parameters that no output depends on.
        sums: The calls that add a bias to the result of a matrix, by its use.
        looped: Whether outputs must go back through the model one by one, for torch maps a derivative wrongly.
        chain: What the model is, where that is a chain of linear maps of one vector a sample.
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
    sums: dict[str, Call] = field(default_factory=dict)
    looped: bool = False
    chain: Chain | None = None

    @property
    def whole(self) -> tuple[str, ...]:
        """The parameters whose gradients come from automatic differentiation of the whole model."""
        return self.by_name[WHOLE].call.names if WHOLE in self.by_name else ()


def recorded(model: nn.Module, w: Weights, x: Samples, apart: frozenset[str] = frozenset()) -> Uses:
    """The uses of the parameters w that a forward pass of one sample x (1, ...) shows; nothing of them is verified.

    Args:
        model: The model.
        w: Its parameters.
        x: The sample.
        apart: The matrices to whose results other functions are applied too, so that no sum is their bias.

    Raises:
        ValueError: Outputs that are no (rows, outputs).
        RuntimeError: The model's own, or one of the transforms of `torch.func`, inside which the pass takes place.
    """
    found: list[tuple[Recorder, Tensor]] = []

    def look(zero: Tensor) -> Tensor:
        recorder = Recorder(w, apart=apart)
        with recorder:
            f = call(model, w, x)
        found.append((recorder, outputs(f)))
        return zero

    with torch.no_grad(), plain():
        # inside a transform, as later: there a function that need not do anything gives a new tensor all the same
        torch.func.vjp(look, next(iter(w.values())).new_zeros(()))
    recorder, f = found[0]
    if shared := recorder.shared():
        return recorded(model, w, x, apart | shared)
    lost = _linked(recorder.lost, recorder.uses)
    by_name = {key: one for key, one in recorder.uses.items() if not lost & set(one.call.names)}
    last = recorder.flow.untouched(f)
    last = last if last in by_name and _dense(by_name[last]) else None
    gated = recorder.flow.sole_source(last) if last else None
    gated = gated if gated in by_name and _dense(by_name[gated]) else None
    kept = {key: sum(part.numel() for part in its) for key, its in recorder.kept.items() if key in by_name}
    seen = frozenset(recorder.seen)
    added = {key: one for key, one in recorder.sums.items() if key in by_name}
    sizes = recorder.touched, recorder.widest, x.numel()
    return Uses(by_name, f.shape[1], last, gated, *sizes, kept, seen=seen, sums=added)


def outputs(f: Any) -> Tensor:
    """What a model gives for one sample, (1, C).

    Raises:
        ValueError: It is anything else.
    """
    if not isinstance(f, Tensor) or f.dim() != 2 or len(f) != 1:
        got = f"shape {tuple(f.shape)}" if isinstance(f, Tensor) else type(f).__name__
        raise SettingError(f"`model` must return (rows, outputs); got {got} for one row. Flatten its outputs.")
    return f


def without(found: Uses, names: Iterable[str]) -> tuple[Uses, tuple[str, ...]]:
    """The uses without those of these parameters and of all that share a use with them; and all of these in order."""
    lost = _linked(set(names), found.by_name)
    by_name = {key: one for key, one in found.by_name.items() if not lost & set(one.call.names)}
    last, gated = (key if key in by_name else None for key in (found.last, found.gated))
    kept = {key: count for key, count in found.kept.items() if key in by_name}
    added = {key: one for key, one in found.sums.items() if key in by_name}
    rest = replace(found, by_name=by_name, last=last, gated=gated if last else None, kept=kept, sums=added)
    return rest, tuple(sorted(lost))


def _linked(names: set[str], by_name: dict[str, Use]) -> set[str]:
    """These parameters and all that share a use with one of them, or with one of those."""
    lost = set(names)
    while more := {name for one in by_name.values() if lost & set(one.call.names) for name in one.call.names} - lost:
        lost |= more
    return lost


def fixed(model: nn.Module, w: Weights, x: Samples) -> frozenset[str]:
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
        apart: The matrices that no sum is a bias of.

    Attributes:
        uses, kept: The uses, and what is kept of their inputs.
        fixed: The uses whose inputs do not depend on the parameters.
        sums: The calls that add a bias to the result of a matrix, by its use.
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
        apart: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        w = {name: part for name, part in w.items() if part.numel()}  # of empty ones there is nothing to find
        self.apart = apart
        self.w, self.known, self.probes, self.dependence = w, known, probes or {}, dependence
        self.uses: dict[str, Use] = {}
        self.kept: dict[str, Tensors] = {}
        self.sums: dict[str, Call] = {}
        self.fixed: set[str] = set()
        self.seen: set[str] = set()
        self.lost: set[str] = set()
        if known is not None:
            self.lost = {*w}.difference(*(one.call.names for key, one in known.by_name.items() if key != WHOLE))
        self.touched = self.widest = 0
        self.flow = Flow()
        self._places = {id(part): Hole(name) for name, part in w.items()}
        self._views: list[Tensor] = []  # so that no other tensor takes an id
        self._summed: list[tuple[str, Tensor]] = []
        self._level = _level()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            return self._attention(_bound(function, args, kwargs))
        if function in PIECES and any(id(leaf) in self._places for leaf in tensors((args, kwargs))):
            whole = PIECES[function](self._run, lambda part: id(part) in self._places, *args, **kwargs)
            if whole is not NotImplemented:
                return whole
        return self._run(function, args, kwargs)

    def compare(self) -> None:
        """Raises UsesDiffer where the pass did not use the parameters as `known` says."""
        known = self.known
        assert known is not None
        keys = [key for key in known.by_name if key != WHOLE]
        if [*self.kept] != keys or self.seen != known.seen or self.sums.keys() != known.sums.keys():
            raise UsesDiffer

    def shared(self) -> frozenset[str]:
        """The matrices whose results went elsewhere too, beside the sum that was taken for their bias."""
        return frozenset(key for key, part in self._summed if self.flow.times(part) > 1)

    def _run(self, function: Any, args: Any, kwargs: Any) -> Any:
        leaves: list[Any]
        leaves, structure = optree.tree_flatten((args, kwargs), none_is_leaf=True)  # type: ignore[arg-type]
        names = {str(self._places[id(leaf)].key) for leaf in leaves if id(leaf) in self._places}
        if self.dependence is not None:
            inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            moved = self.dependence.of(part for part in inputs if id(part) not in self._places)
            if function in _READS:
                self.dependence.read(inputs)
        result, key = function(*args, **kwargs), None
        parts = floats(result)
        self.seen |= names
        if names and self._followed(function, leaves, result):
            if self._viewed(function, leaves, structure, result):
                return result
            # a parameter's shape or type is no use of it, nor is the parameter itself
            if parts and not any(part is leaf for part in parts for leaf in leaves) and not names & self.lost:
                made, given = self._call(function, leaves, structure, parts)
                matrix = self._biased(made, given, names)
                if matrix is not None:
                    self._count(parts[0].numel())
                    self.flow.add(function, given, parts, result, matrix, through=True)
                    return result
                key = self._use(made, given)
                if key in self.probes:
                    probes = iter(self.probes[key])
                    result = optree.tree_map(lambda part: part + next(probes) if floats(part) else part, result)
                    parts = floats(result)
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

    def _viewed(self, function: Any, leaves: list[Any], structure: Any, result: Any) -> bool:
        """Notes the views of a parameter among the results; whether there are any."""
        place = next(self._places[id(leaf)] for leaf in leaves if id(leaf) in self._places)
        found = views(function, leaves, structure, place.steps, result)
        for part, steps in found:
            if id(part) not in self._places:
                self._places[id(part)] = Hole(place.key, steps)
                self._views.append(part)
        return bool(found)

    def _followed(self, function: Any, leaves: list[Any], result: Any) -> bool:
        """Whether a function that is handed parameters can be a use."""
        found = tensors(result)
        written = function is Tensor.__setitem__ or any(
            part is leaf and id(leaf) not in self._places for part in found for leaf in leaves
        )
        return not written and not any(part.is_complex() for part in found) and self._level == _level()

    def _call(self, function: Any, leaves: list[Any], structure: Any, parts: Tensors) -> tuple[Call, Tensors]:
        """A call with holes in the place of tensors, and its inputs."""
        given = [self._places.get(id(leaf)) for leaf in leaves]
        names = tuple(dict.fromkeys(str(place.key) for place in given if place is not None))
        inputs = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor) and id(leaf) not in self._places)
        order = {id(leaf): number for number, leaf in enumerate(inputs)}
        holes = [
            (place or Hole(order[id(leaf)])) if isinstance(leaf, Tensor) else leaf
            for leaf, place in zip(leaves, given, strict=True)
        ]
        return Call(function, (holes, structure), names, tuple(tuple(part.shape) for part in parts)), inputs

    def _use(self, made: Call, inputs: Tensors) -> str:
        key = _unused_key(made.names[0], self.kept)
        if self.known is None:
            self.uses[key] = use(made, self.w, inputs)
        elif key in self.known.by_name and made.same(self.known.by_name[key].call):
            self.uses[key] = self.known.by_name[key]
        else:
            raise UsesDiffer
        self.kept[key] = self.uses[key].kept(inputs)
        return key

    def _biased(self, made: Call, inputs: Tensors, names: set[str]) -> str | None:
        """The use whose result a call adds a bias to, and does nothing else."""
        if made.function not in ADDITIONS or len(names) != 1 or len(inputs) != 1 or len(made.arguments[0]) != 2:
            return None
        key = self.flow.untouched(inputs[0])
        if key is None or key in self.apart:
            return None
        if self.known is not None:
            if key not in self.known.sums or not made.same(self.known.sums[key]):
                return None
        else:
            matrix = with_bias(self.uses[key], made, self.w)
            if matrix is None:
                return None
            self.uses[key] = matrix
        self.sums[key] = made
        self._summed.append((key, inputs[0]))
        return key

    def _attention(self, given: dict[str, Any]) -> Any:
        """Attention, its projections as uses of their own with identities in their place."""
        query, bias = given["query"], given["in_proj_bias"]
        same = given["key"] is query and given["value"] is query
        whole = given["in_proj_weight"]
        if not same or whole is None or id(given["bias_k"]) in self._places:
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
    return isinstance(one, Matrix) and one.dense


def _bound(function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
