"""What a function of a model is given, checked at one place: a model, weights, samples, and the choice of outputs."""

import math
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent import passes, trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.memory import out_of_memory
from fedtangent.tangents.capture.functional import Weights, call, first_line, plain, result, trainable
from fedtangent.tangents.capture.outputs import Outputs, Picked
from fedtangent.tangents.capture.samples import Samples, check_plain, checked, leaves, names, shape, some

_FEW = 3  # samples of which passes are compared


class Given(NamedTuple):
    """A model as f(x; w), (n, C), that runs on the samples and does not depend on chance.

    Attributes:
        model: With the choice of its outputs.
        w: Its parameters, those that are trained.
        x: Samples.
        x2: More of them, or none.
        touched: Numbers in all results of torch functions for one sample.
    """

    model: Picked
    w: Weights
    x: Samples
    x2: Samples | None
    touched: int


def given(
    model: nn.Module,
    x: Any,
    x2: Any = None,
    *,
    w: Weights | None = None,
    outputs: Outputs = None,
    name: str = "x",
    memory_bytes: float = math.inf,
) -> Given:
    """The model, weights and samples, of which the first are called `name`. A few passes of up to three samples.

    Raises:
        TypeError: No model, samples, outputs or memory of a type that can be used.
        ValueError: A model that cannot run on the samples, whose outputs are no (n, C), depend on chance or on other
            samples, or are computed in half precision; samples or weights that do not fit.
    """
    if not isinstance(memory_bytes, Real) or math.isnan(memory_bytes):
        raise SettingTypeError(f"`memory_bytes` must be a number; got {memory_bytes!r}. Give bytes, such as 2**30.")
    w = trainable(model, w)
    x, x2 = checked(x, x2, name)
    check_plain("model", w.values())
    picked = Picked(model, outputs)
    return Given(picked, w, x, x2, looked(picked, w, x, name))


def looked(model: Picked, w: Weights, x: Samples, name: str) -> int:
    """The numbers that a pass of a sample touches, if the outputs depend on it alone; outside of all transforms."""
    with passes.buffers_kept(model.model):
        return _looked(model, w, x, name)


def _looked(model: Picked, w: Weights, x: Samples, name: str) -> int:
    touched = _touched(model, w, x[:1], name)
    few = some(x, _FEW)

    def f(x: Samples = few) -> Tensor:
        try:
            with torch.enable_grad(), plain():
                return call(model, w, x).detach()
        except Exception as error:
            if out_of_memory(error) or isinstance(error, SettingError):
                raise
            raise SettingError(
                f"`model` must run on several samples at once; got {type(error).__name__} for {len(x)} of {shape(x)}, "
                f"and none for one: {first_line(error)}. Let the first axis be that of the samples."
            ) from error

    passes.check_chance(model.model, f)
    together, alone = f(), torch.cat([f(few[i : i + 1]) for i in range(len(few))])
    most = (1e-3 if alone.device.type == "cpu" else passes.ALONE) * float(alone.abs().max())
    if together.shape != alone.shape or float((together - alone).abs().max()) > most:
        raise SettingError(
            "`model` must treat every sample on its own; got outputs that change with the other samples. "
            "Use GroupNorm, or eval mode."
        )
    return touched


def _touched(model: Picked, w: Weights, x: Samples, name: str) -> int:
    """The numbers that a pass of one sample touches."""
    seen = _Look(w)
    try:
        with torch.enable_grad(), plain(), seen:
            found = result(model.model, w, x.clone())
    except Exception as error:
        if out_of_memory(error) or isinstance(error, SettingError):
            raise
        raise SettingError(_refusal(model, w, x, name, error)) from error
    f = model.pick(found)
    if len(f) != 1:
        raise SettingError(
            f"`model` must return outputs (n, C) of n samples; got {tuple(f.shape)} of one. "
            "Let their first axis be that of the samples."
        )
    if seen.reason:
        raise SettingError(
            f"`model` must compute in the type of its weights, {seen.dtype}; got {seen.reason}. "
            "Leave out autocast and conversions."
        )
    return seen.touched


def _refusal(model: Picked, w: Weights, x: Samples, name: str, error: Exception) -> str:
    """What to say of a model that fails on a sample: what itself says, but where samples of other types would do."""
    like = next(iter(w.values())).dtype

    def floats(leaf: Tensor) -> Tensor:
        return leaf.to(like) if leaf.is_floating_point() else leaf

    def all_floats(leaf: Tensor) -> Tensor:
        return leaf.to(like)

    def whole(leaf: Tensor) -> Tensor:
        return leaf.long() if leaf.is_floating_point() else leaf

    for convert in (floats, all_floats, whole):
        other = trees.map(convert, x)
        pairs = zip(names(name, x), leaves(x), leaves(other), strict=True)
        changed = [(called, own.dtype, its.dtype) for called, own, its in pairs if own.dtype != its.dtype]
        if changed and _runs(model, w, other):
            called, own, its = changed[0]
            return f"`{called}` must be {its} for this model; got {own}. Convert it: {called}.to({its})."
    return (
        f"`model` must run on `{name}`; got {type(error).__name__} for one sample of {shape(x)}: {first_line(error)}. "
        "Compare the samples with what it takes."
    )


def _runs(model: Picked, w: Weights, x: Samples) -> bool:
    try:
        with torch.enable_grad(), plain():
            result(model.model, w, x.clone())
    except Exception:
        return False
    return True


class _Look(TorchFunctionMode):
    """While it is entered: counts the numbers in results, and looks at their types.

    Attributes:
        dtype: Of the weights.
        touched: Numbers in results.
        reason: Where a result has less than single precision, with which a sample's outputs change in company, or a
            function of a weight has another type than this.
    """

    def __init__(self, w: Weights) -> None:
        super().__init__()
        self.dtype, self.touched, self.reason = next(iter(w.values())).dtype, 0, ""
        self._weights = {id(part) for part in w.values()}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        parts = [leaf for leaf in trees.leaves(found) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        own = any(id(leaf) in self._weights for leaf in trees.leaves((args, kwargs)))
        for part in parts:
            half = torch.finfo(part.dtype).bits < 32
            if not self.reason and (half or (own and part.dtype != self.dtype)):
                self.reason = f"{part.dtype} from {getattr(function, '__name__', 'a function').strip('_')}"
        if function is F.multi_head_attention_forward:
            parts = parts[:1] * 8
        self.touched += sum(part.numel() for part in parts)
        return found
