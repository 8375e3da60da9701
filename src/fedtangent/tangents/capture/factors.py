"""Factors of the Jacobian: what goes into every use of parameters, and how the outputs react to what comes out.

For a linear map with inputs a (n, I) and results z (n, O), the Jacobian of output c at sample n is the outer product of
d_nc = df_nc/dz_n and (a_n, 1): 1,884 floats a sample instead of 795,100 for 784-100-10, and 984 where gates tell
the sensitivities, as there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fedtangent.tangents.capture.chain import Chain
from fedtangent.tangents.capture.functional import Weights, call, each, one_by_one, plain
from fedtangent.tangents.capture.layers import Matrix, Tensors
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import WHOLE, Recorder, Uses


class Dense(NamedTuple):
    """a: what is kept of the inputs (n, ...). d: sensitivities of the outputs to the results (n, C, ...)."""

    a: Tensors
    d: Tensors


class Gated(NamedTuple):
    """A linear map followed only by elementwise activations and the last linear map, W (C, O): d_nco = W_co gate_no."""

    a: Tensors
    gate: Tensor


class Last(NamedTuple):
    """The linear map whose results are the outputs: d is the identity, and nothing of it is stored."""

    a: Tensors


Factor = Dense | Gated | Last
Factors = dict[str, Factor]


@dataclass(frozen=True)
class Some:
    """The outputs from `start` up to `stop` of so many: all of a model's, or a slice where they do not fit at once."""

    start: int
    stop: int
    of: int

    @property
    def count(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def part(self) -> slice:
        """Along the axis of the outputs."""
        return slice(self.start, self.stop)


def factors(
    model: nn.Module,
    w: Weights,
    x: Samples,
    uses: Uses,
    outputs: Some | None = None,
    given: Weights | None = None,
) -> tuple[Tensor, Factors]:
    """f(x; w) (n, C), and the factors of its Jacobian by every use of w; sensitivities of some `outputs` only.

    Samples are taken one by one, under vmap, so that wherever a layer has its batch axis nothing is mixed. One forward
    pass, and a backward pass an output for what lies below the last two layers.

    Args:
        model: The model.
        w: Its parameters.
        x: The samples.
        uses: Of its parameters.
        outputs: Of which there are sensitivities; None for all.
        given: Of a chain, results that are known already, as of `Chain.run`.

    Raises:
        UsesDiffer: A sample that uses the parameters in other ways.
    """
    f, kept, d, gate = _captured(model, w, x, uses, None, outputs or every(uses.outputs), given)
    found: Factors = {}
    for key in uses.by_name:
        if key in (uses.last, WHOLE):
            found[key] = Last(kept[key])
        elif key == uses.gated:
            found[key] = Gated(kept[key], gate.flatten(1))
        else:
            found[key] = Dense(kept[key], d[key])
    return f, found


def pulled_back(model: nn.Module, w: Weights, x: Samples, uses: Uses, alpha: Tensor) -> tuple[Tensor, Factors]:
    """f(x; w), and factors for alpha (n, C) in place of every output: d_n = sum_c alpha_nc df_nc/dz_n, (n, 1, ...).

    One forward and one backward pass.
    """
    f, kept, d, gate = _captured(model, w, x, uses, alpha, every(uses.outputs))
    found: Factors = {}
    for key, use in uses.by_name.items():
        own: Tensors
        if key in (uses.last, WHOLE):
            own = (alpha.reshape(len(x), 1, *use.call.shapes[0]),)
        elif key == uses.gated:
            own = (((alpha @ head(uses, w)) * gate.flatten(1)).reshape(len(x), 1, *use.call.shapes[0]),)
        else:
            own = d[key]
        found[key] = Dense(kept[key], own)
    return f, found


def _captured(
    model: nn.Module,
    w: Weights,
    x: Samples,
    uses: Uses,
    alpha: Tensor | None,
    outputs: Some,
    given: Weights | None = None,
) -> tuple[Tensor, dict[str, Tensors], dict[str, Tensors], Tensor]:
    """f, what is kept of inputs, sensitivities of the outputs, or of alpha, by use; and the gate where there is one."""
    if uses.chain is not None:
        return _of_chain(uses.chain, w, cast(Tensor, x), uses, alpha, outputs, given)
    dense = [key for key in uses.by_name if key not in (uses.last, uses.gated, WHOLE)]
    tip = uses.last if uses.gated else None
    apply = one_by_one if uses.looped else each
    shapes = {key: uses.by_name[key].call.shapes for key in [*dense, *([uses.gated] if uses.gated else [])]}
    like = next(iter(w.values()))

    def one(x: Samples, *alpha: Tensor) -> tuple[Tensor, dict[str, Tensors], dict[str, Tensors], Tensor]:
        def forward(probes: dict[str, Tensors]) -> tuple[tuple[Tensor, Tensor], dict[str, Tensors]]:
            f, kept = forward_with_probes(model, w, x, uses, probes)
            return (f, kept[tip][0] if tip else f), kept

        zeros = {key: tuple(like.new_zeros(shape) for shape in its) for key, its in shapes.items()}
        (f, top), vjp, kept = torch.func.vjp(forward, zeros, has_aux=True)  # type: ignore[misc]
        d: dict[str, Tensors] = {}
        if dense and alpha:
            pulled = vjp((alpha[0], torch.zeros_like(top)))[0]
            d = {key: tuple(part[None] for part in pulled[key]) for key in dense}
        elif dense:
            rows = _identity(outputs, f)
            found = apply(lambda row: vjp((row, torch.zeros_like(top)))[0], rows)
            d = {key: found[key] for key in dense}
        gate = vjp((torch.zeros_like(f), torch.ones_like(top)))[0][uses.gated][0] if uses.gated else f
        return f, kept, d, gate

    with plain():
        if not shapes and uses.last is None:
            with torch.enable_grad():  # a model may differentiate on its way
                f = each(lambda x: _untouched(model, w, x, uses).detach(), x)
            kept: dict[str, Tensors] = {}
            d: dict[str, Tensors] = {}
            gate = f
        else:
            f, kept, d, gate = each(one, x, *([] if alpha is None else [alpha]))
    if WHOLE in uses.by_name:
        kept = {**kept, WHOLE: cast(Tensors, (x,))}
    return f, kept, d, gate


def _untouched(model: nn.Module, w: Weights, x: Samples, uses: Uses) -> Tensor:
    """f (C,) of a sample where no use is followed; a parameter that is no part of the whole must not be used either."""
    whole = uses.by_name.get(WHOLE)
    if whole is not None and {*w} <= {*whole.call.names}:
        return call(model, w, x[None])[0]
    return forward_with_probes(model, w, x, uses, {})[0]


def _of_chain(
    chain: Chain, w: Weights, x: Tensor, uses: Uses, alpha: Tensor | None, outputs: Some, given: Weights | None
) -> tuple[Tensor, dict[str, Tensors], dict[str, Tensors], Tensor]:
    """`_captured` by one pass of all samples."""
    dense = [key for key in uses.by_name if key not in (uses.last, uses.gated)]
    wanted, like = [*dense, *([uses.gated] if uses.gated else [])], next(iter(w.values()))
    zeros = {key: like.new_zeros(len(x), *uses.by_name[key].call.shapes[0][1:]) for key in wanted}

    def forward(probes: Weights) -> tuple[tuple[Tensor, Tensor], Weights]:
        f, kept = chain.run(w, x, probes, given)
        return (f, kept[cast(str, uses.last)] if uses.gated else f), kept

    def shaped(kept: Weights) -> dict[str, Tensors]:
        return {key: (part[:, None],) for key, part in kept.items()}

    if not wanted:
        f, kept = chain.run(w, x, given=given)
        return f, shaped(kept), {}, f
    if not dense and torch._C._functorch.peek_interpreter_stack() is None:
        with torch.enable_grad():  # plain autograd takes a fifth of the time of a transform
            probes = {key: part.requires_grad_() for key, part in zeros.items()}
            (f, top), kept = forward(probes)
            (gate,) = torch.autograd.grad(top, [*probes.values()], torch.ones_like(top))
        return f.detach(), shaped({key: part.detach() for key, part in kept.items()}), {}, gate
    (f, top), vjp, kept = torch.func.vjp(forward, zeros, has_aux=True)  # type: ignore[misc]
    d: dict[str, Tensors] = {}
    if dense:
        rows = alpha[:, None] if alpha is not None else _identity(outputs, f).expand(len(x), -1, -1)
        apply = one_by_one if uses.looped else each
        found = apply(lambda row: vjp((row, torch.zeros_like(top)))[0], rows.transpose(0, 1))
        d = {key: (found[key].transpose(0, 1)[:, :, None],) for key in dense}
    gate = vjp((torch.zeros_like(f), torch.ones_like(top)))[0][uses.gated] if uses.gated else f
    return f, shaped(kept), d, gate


def kept_inputs(model: nn.Module, w: Weights, x: Samples, uses: Uses, keys: Sequence[str]) -> dict[str, Tensors]:
    """What is kept of the inputs of some uses, (n, ...), from a forward pass."""
    if uses.chain is not None:
        inputs = uses.chain.run(w, cast(Tensor, x))[1]
        return {key: (inputs[key][:, None],) for key in keys}

    def one(x: Samples) -> dict[str, Tensors]:
        def forward(zero: Tensor) -> tuple[Tensor, dict[str, Tensors]]:
            kept = forward_with_probes(model, w, x, uses, {})[1]
            return zero, {key: kept[key] for key in keys}

        # inside of the transform in which the uses were found
        return torch.func.vjp(forward, next(iter(w.values())).new_zeros(()), has_aux=True)[2]  # type: ignore[misc,no-any-return]

    with plain():
        return each(one, x)  # type: ignore[no-any-return]


def forward_with_probes(
    model: nn.Module, w: Weights, x: Samples, uses: Uses, probes: dict[str, Tensors]
) -> tuple[Tensor, dict[str, Tensors]]:
    """f (C,) of one sample with probes added to the results of its uses, and what is kept of their inputs."""
    recorder = Recorder(w, uses, probes)
    with recorder:
        f = call(model, w, x[None])[0]
    recorder.compare()
    return f, recorder.kept


def head(uses: Uses, w: Weights) -> Tensor:
    """The weights (C, O) of the last linear map, which gates need; empty, of the weights' type, where there is none."""
    last = uses.by_name[uses.last] if uses.last else None
    return last.layout.of(w[last.weight])[0] if isinstance(last, Matrix) else next(iter(w.values())).new_zeros(0)


def every(outputs: int) -> Some:
    """All of them."""
    return Some(0, outputs, outputs)


def sensitivities(
    factor: Factor, shapes: tuple[tuple[int, ...], ...], head: Tensor, outputs: Some | None = None
) -> Tensors:
    """d (n, C, ...) of a factor with results of these shapes, whether it is stored or not; of `outputs`, else all."""
    if isinstance(factor, Dense):
        return factor.d
    n = len(factor.a[0])
    if isinstance(factor, Gated):
        found = factor.gate[:, None] * (head if outputs is None else head[outputs.part])
    else:
        found = _identity(outputs or every(math.prod(shapes[0])), head).expand(n, -1, -1)
    return (found.reshape(n, -1, *shapes[0]),)


def _identity(outputs: Some, like: Tensor) -> Tensor:
    """Rows of the unit matrix, (count, of)."""
    rows = torch.zeros(outputs.count, outputs.of, dtype=like.dtype, device=like.device)
    rows.diagonal(outputs.start).fill_(1)
    return rows
