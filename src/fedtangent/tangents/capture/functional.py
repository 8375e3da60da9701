"""A model as a function f(x; w) that every transform of torch.func can take, and the models that are none."""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.forward import run
from fedtangent.memory import out_of_memory
from fedtangent.module_state import check_hooks, unchanged
from fedtangent.passes import check_mode
from fedtangent.tangents.capture.outputs import Picked
from fedtangent.tangents.capture.samples import Batch, Samples
from fedtangent.tangents.capture.writes import Writes
from fedtangent.tied import every_name
from fedtangent.training.dropout import drop_rate

Weights = dict[str, Tensor]

# One thread at a time takes derivatives: a model's parameters are exchanged in place, and torch's forward mode, as the
# settings of `plain` are, is one for all threads.
TURN = RLock()

# Numbers of a buffer that may count passes; larger ones are masks and places.
_COUNTERS = 64


def trainable(model: nn.Module, w: Weights | None = None) -> Weights:
    """`w`, or the model's own trainable parameters, without their history.

    Raises:
        TypeError: What is no module, or no dict of tensors.
        ValueError: A model whose outputs depend on chance or on other samples; weights that are not the model's, or
            neither all in float32 nor all in float64.
    """
    check_mode()
    if not isinstance(model, nn.Module):
        raise SettingTypeError(f"`model` must be an nn.Module; got {type(model).__name__}. Wrap a function in one.")
    check(model)
    check_hooks(model)
    _check_modules(model)
    with TURN:
        own: Weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if empty := next((name for name, p in [*own.items(), *model.named_buffers()] if p.is_meta), None):
        raise SettingError(f"`model` must hold numbers; got {empty!r} on the device meta. Load its weights.")
    if lazy := next((name for name, p in own.items() if is_lazy(p)), None):
        raise SettingError(
            f"`model` must have initialised parameters; got {lazy!r} without a shape. Run it once before."
        )
    if w is None:
        w = own
    if not isinstance(w, Mapping):
        raise SettingTypeError(
            f"`w` must be a dict of parameters; got {type(w).__name__}. Take dict(model.named_parameters())."
        )
    if not w:
        raise SettingError("`model` must have trainable parameters; got none. Set requires_grad on those to train.")
    for name, part in w.items():
        if not isinstance(part, Tensor):
            raise SettingTypeError(f"`w` must hold tensors; got {type(part).__name__} at {name!r}. Convert it.")
        if name not in own or own[name].shape != part.shape:
            raise SettingError(
                f"`w` must hold trainable parameters of the model; got {name!r} {tuple(part.shape)}. "
                "Take the names and shapes of model.named_parameters()."
            )
    first = next(iter(w.values())).dtype
    for name, part in w.items():
        if part.dtype not in (torch.float32, torch.float64) or part.dtype != first:
            rest = "" if part.dtype == first else f" beside {first}"
            remedy = (
                "Keep torch.view_as_real of it as the parameter."
                if part.is_complex()
                else "Convert it: model.float() or model.double()."
            )
            raise SettingError(
                "`model` must have its trainable parameters all in torch.float32 or all in torch.float64; "
                f"got {part.dtype} at {name!r}{rest}. {remedy}"
            )
    return {name: (part.detach().clone() if part.is_inference() else part.detach()) for name, part in w.items()}


def _check_modules(model: nn.Module) -> None:
    """Raises for modules whose parameters cannot be exchanged."""
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise SettingTypeError(
                f"`model` must be made of Python modules; got a scripted one at {name!r}. Give its source."
            )
        if isinstance(part, nn.DataParallel):
            raise SettingTypeError(
                f"`model` must be a module on one device; got DataParallel at {name!r}. Give its .module."
            )


def check(model: nn.Module) -> None:
    """Raises one clear sentence where f would depend on chance or on the other samples of a batch."""
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm) and (part.training or not part.track_running_stats):
            raise SettingError(
                f"`model` must not mix the samples of a batch; got batch norm in train mode at {name!r}. "
                "Call model.eval(), or use GroupNorm."
            )
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and (part.max_norm is not None or part.scale_grad_by_freq):
            raise SettingError(
                f"`model` must look up {name!r} without max_norm and scale_grad_by_freq; got one of them. Leave it out."
            )
        if part.training and drop_rate(part) > 0:
            raise SettingError(
                f"`model` must be deterministic; got dropout in train mode at {name!r}. Call model.eval()."
            )


def call(model: nn.Module, w: Weights, x: Samples) -> Tensor:
    """f(x; w), (n, C), in the type of the weights; to be called inside `plain`."""
    x = x.clone()  # a layer may write in place
    if not isinstance(model, Picked):
        found: Tensor = result(model, w, x)
        return found
    f = model.pick(result(model.model, w, x))
    like = next(iter(w.values()))
    return f if f.dtype == like.dtype else f.to(like.dtype)


def result(model: nn.Module, w: Weights, x: Samples) -> Any:
    """What the model returns."""
    with unchanged(model), Writes(w):
        return run(model, {**_counters(model), **w}, x.parts if isinstance(x, Batch) else x)


def _counters(model: nn.Module) -> Weights:
    """Copies of small buffers of whole numbers: a pass that counts itself leaves the model's own as they are."""
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if buffer.numel() <= _COUNTERS and not (buffer.is_floating_point() or buffer.is_complex())
    }


@contextmanager
def holding(model: nn.Module, w: Weights) -> Iterator[None]:
    """The model has the parameters w: for backward passes too, in which checkpoints run parts of it once more."""
    model = model.model if isinstance(model, Picked) else model
    with TURN, _reparametrize_module(model, every_name(model, w)):
        yield


@contextmanager
def plain() -> Iterator[None]:
    """Attention, recurrence and look-ups in plain operations, and nothing compiled.

    The fused ones have no forward derivative, or none under vmap, and hide where parameters are used.
    """
    check_mode()
    with TURN:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        # without the compiler in memory nothing is compiled
        eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
        try:
            with sdpa_kernel(SDPBackend.MATH), eager, PlainLayers():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def plain_forward() -> Iterator[None]:
    """The same for derivatives in forward mode: torch scripts some, and warns of its own doing."""
    with plain(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is")  # deprecated; from Python 3.14 on, not supported
        yield


class PlainLayers(TorchFunctionMode):
    """While it is entered: recurrent layers without mkldnn and cuDNN, look-ups and PReLU with plain derivatives."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _RECURRENT:
            with _no_fused_recurrence():
                return function(*args, **kwargs)
        if function is F.batch_norm:
            return _ordered(function(*args, **kwargs))
        if function is F.instance_norm:
            return _ordered(_normalised(inspect.signature(function).bind(*args, **kwargs).arguments))
        if function in _SLOPED:
            return _sloped(*args, **kwargs)
        if function is F.linear:
            return _flat_linear(*args, **kwargs)
        if function is F.embedding or function is F.embedding_bag:
            given = inspect.signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            return (_rows if function is F.embedding else _bags)(function, given.arguments)
        return function(*args, **kwargs)


def _normalised(given: dict[str, Any]) -> Tensor:
    """F.instance_norm that leaves running statistics alone where its results do not depend on them, in train mode."""
    if given.get("use_input_stats", True):
        given = {**given, "running_mean": None, "running_var": None}
    return F.instance_norm(**given)


def _ordered(result: Tensor) -> Tensor:
    """The same, with its derivative in order: of one sample, CPUs read one in another order wrongly.

    PyTorch 2.15: for strides (C, 1, C W, C) of a gradient (1, C, H, W). The two reshapes copy only such a one.
    """
    return result.reshape(-1).reshape(result.shape) if len(result) == 1 else result


def _flat_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear of one matrix of rows: where weights are mapped, more axes would each have a copy of them."""
    if input.dim() < 3:
        return F.linear(input, weight, bias)
    flat = F.linear(input.flatten(0, -2), weight, bias)
    found: Tensor = torch.ops.aten._unsafe_view(flat, (*input.shape[:-1], flat.shape[-1]))  # new, as F.linear's own
    return found


def _sloped(input: Tensor, weight: Tensor) -> Tensor:
    """PReLU, whose own derivative is wrong without a word where it is mapped over two axes of one length."""
    slope = weight.reshape(-1, *[1] * (input.dim() - 2)) if weight.numel() > 1 else weight
    return torch.where(input > 0, input, slope * input)


def _rows(function: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
    rows = function(**{**given, "sparse": False})
    if given["padding_idx"] is None:
        return rows
    # in forward mode the row of padding would have a derivative
    return torch.where(_real(given)[..., None], rows, rows.detach())


def _bags(function: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
    if given["input"].dim() != 2 or given["mode"] == "max" or given["max_norm"] is not None:
        return function(**{**given, "sparse": False})
    real = _real(given)
    rows = torch.where(real[..., None], F.embedding(given["input"], given["weight"]), 0)
    if given["per_sample_weights"] is not None:
        rows = rows * given["per_sample_weights"][..., None]
    total = rows.sum(1)
    return total / real.sum(1, keepdim=True).clamp(min=1) if given["mode"] == "mean" else total


def _real(given: dict[str, Any]) -> Tensor:
    """Which look-ups are not padding."""
    skipped = given["padding_idx"]
    if skipped is None:
        return torch.ones_like(given["input"], dtype=torch.bool)
    return given["input"] != skipped % len(given["weight"])  # type: ignore[no-any-return]


_SLOPED = {torch.prelu, Tensor.prelu}
_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


@contextmanager
def _no_fused_recurrence() -> Iterator[None]:
    cudnn, mkldnn = torch._C._get_cudnn_enabled(), torch._C._get_mkldnn_enabled()
    torch._C._set_cudnn_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_cudnn_enabled(cudnn)
        torch._C._set_mkldnn_enabled(mkldnn)


def each(fn: Callable[..., Any], *stacked: Any) -> Any:
    """`fn` of every entry along the leading axis of trees, stacked: by vmap, or where that cannot be, one by one."""
    try:
        with warnings.catch_warnings():
            # of operators that torch itself maps in a loop
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return torch.func.vmap(fn)(*stacked)
    except RuntimeError as error:  # recurrent layers, control flow that depends on the data
        if out_of_memory(error):
            raise
        return one_by_one(fn, *stacked)


def one_by_one(fn: Callable[..., Any], *stacked: Any) -> Any:
    """The same in a loop."""
    count = len(trees.leaves(stacked)[0])
    return trees.stack([fn(*trees.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(count)])


def first_line(error: Exception) -> str:
    """The first line of a message, without its full stop, to be part of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
