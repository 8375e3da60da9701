"""A model as a function f(x; w) that every transform of torch.func can take, and the models that are none."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedtangent import trees
from fedtangent.tangents.samples import Batch, Samples

Weights = dict[str, Tensor]


def trainable(model: nn.Module, w: Weights | None = None) -> Weights:
    """`w`, or the model's own trainable parameters, without their history.

    Raises:
        ValueError: A model whose outputs depend on chance or on other samples; weights that are not the model's.
    """
    check(model)
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if w is None:
        w = own
    if not w:
        raise ValueError("`model` must have trainable parameters; got none. Set requires_grad on those to train.")
    for name, part in w.items():
        if name not in own or own[name].shape != part.shape:
            raise ValueError(
                f"`w` must hold trainable parameters of the model; got {name!r} {tuple(part.shape)}. "
                "Take the names and shapes of model.named_parameters()."
            )
    return {name: part.detach() for name, part in w.items()}


def check(model: nn.Module) -> None:
    """Raises one clear sentence where f would depend on chance or on the other samples of a batch."""
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm) and (part.training or not part.track_running_stats):
            raise ValueError(
                f"`model` must not mix the samples of a batch; got batch norm in train mode at {name!r}. "
                "Call model.eval(), or use GroupNorm."
            )
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and (part.max_norm is not None or part.scale_grad_by_freq):
            raise ValueError(
                f"`model` must look up {name!r} without max_norm and scale_grad_by_freq; got one of them. Leave it out."
            )
        drops = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0)
        if part.training and isinstance(drops, float) and drops > 0:
            raise ValueError(
                f"`model` must be deterministic; got dropout in train mode at {name!r}. Call model.eval()."
            )


def call(model: nn.Module, w: Weights, x: Samples) -> Tensor:
    """f(x; w), (n, C); to be called inside `plain`."""
    several = x.parts if isinstance(x, Batch) else (x,)
    args, kwargs = ((), several) if isinstance(several, dict) else (several, {})
    f: Tensor = torch.func.functional_call(model, w, args, kwargs)
    return f


@contextmanager
def plain() -> Iterator[None]:
    """Attention in plain operations: the fused ones have no forward derivative, and hide where parameters are used."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def derivative(f: Callable[[Weights], Tensor], w: Weights, v: Weights) -> tuple[Tensor, Tensor]:
    """f(w) and J v: in forward mode, or where a function has no forward derivative in backward mode."""
    with warnings.catch_warnings():
        # torch scripts its forward derivatives, and warns of its own doing
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        try:
            found: tuple[Tensor, Tensor] = torch.func.jvp(f, (w,), (v,))  # type: ignore[assignment]
        except (NotImplementedError, RuntimeError):
            found = derivative_backward(f, w, v)
    return found


def derivative_backward(f: Callable[[Weights], Tensor], w: Weights, v: Weights) -> tuple[Tensor, Tensor]:
    """The same in backward mode twice: J v as the derivative of J^T alpha by alpha."""
    value, pull = torch.func.vjp(f, w)  # type: ignore[misc]
    return value, torch.func.vjp(lambda alpha: pull(alpha)[0], torch.zeros_like(value))[1](v)[0]


def each(fn: Callable[..., Any], *stacked: Any) -> Any:
    """`fn` of every entry along the leading axis of trees, stacked: by vmap, or where that cannot be, one by one."""
    try:
        return torch.func.vmap(fn)(*stacked)
    except RuntimeError as error:  # recurrent layers, control flow that depends on the data
        if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
            raise
        return one_by_one(fn, *stacked)


def one_by_one(fn: Callable[..., Any], *stacked: Any) -> Any:
    """The same in a loop."""
    count = len(trees.leaves(stacked)[0])
    return trees.stack([fn(*trees.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(count)])
