"""The uses of a model's parameters, held against plain automatic differentiation before anything is built on them.

What a recorded pass says of the uses is compared with `torch.autograd` on some samples together: f, and J^T alpha for
random alpha, parameter by parameter, at the given weights, and again with those that are zero (a head, a gate at the
start of training) moved, so that they hide nothing. A parameter that does not come out right is left to automatic
differentiation of the whole model; so are all parameters of a model whose samples use them in different ways.
"""

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from fedtangent import multiply_adds, trees
from fedtangent.errors import SettingError
from fedtangent.memory import out_of_memory
from fedtangent.tangents.capture import remembered
from fedtangent.tangents.capture.factors import Dense, Factors, pulled_back
from fedtangent.tangents.capture.functional import Weights, call, check, plain
from fedtangent.tangents.capture.in_rows import Graph, graph
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.room import NUMBERS, room
from fedtangent.tangents.capture.samples import Batch, Samples, leaves, some
from fedtangent.tangents.capture.together import go_together, tried_chain
from fedtangent.tangents.capture.uses import WHOLE, Recorder, Use, Uses, UsesDiffer, fixed, outputs, recorded, without
from fedtangent.tangents.capture.whole import Whole, whole
from fedtangent.tangents.numerics.kernel_parts import Part, cuts, parts

_MEMORY = 2**28
_MIXED = (
    "`model` must treat every sample on its own; got outputs that change with the other samples. "
    "Use GroupNorm, or eval mode."
)

_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, Uses]] = WeakKeyDictionary()


def uses(model: nn.Module, w: Weights, x: Samples, memory_bytes: int = _MEMORY) -> Uses:
    """The uses of the parameters w, from two or three forward and backward passes of up to 8 samples of x (n, ...).

    Args:
        model: Maps (n, ...) to outputs (n, C), each sample on its own.
        w: Its trainable parameters, or some of them.
        x: Samples.
        memory_bytes: Decides how many samples are compared, and how many parameters at once; one at the least.

    Raises:
        ValueError: Outputs that are no (rows, outputs) or that change with the other samples of a batch; integers where
            floats are needed; a tensor kept from an earlier pass in place of a parameter.
    """
    check(model)
    w = {name: part.detach() for name, part in w.items() if part.numel()}  # a low rank may be 0
    if not w:
        raise SettingError("`model` must have parameters that hold numbers; got empty ones. Give more of them.")
    with torch.no_grad():
        found = _verified(model, w, x, memory_bytes)
    remembered.check(remembered.kept(model, (*found.unused, *found.whole)), w, remembered.passing(model, x))
    return found


def _verified(model: nn.Module, w: Weights, x: Samples, memory_bytes: int) -> Uses:
    try:
        found = recorded(model, w, x[:1])
    except RuntimeError as error:
        found = _plain_pass(model, w, x[:1], error)
        found = all_by_autograd(model, w, found)
        fits = room(found, w, len(x), memory_bytes)
        return _right(model, w, some(x, fits.samples), found, fits.numbers)
    fits = room(found, w, len(x), memory_bytes)
    few = some(x, fits.samples)
    try:
        found = _right(model, w, few, found, fits.numbers)
        if hidden := _hiding(w, found):
            found = _right(model, {**w, **hidden}, few, found, fits.numbers)
        pair = few[torch.tensor([0, len(few) - 1], device="cpu")]
        found = replace(found, looped=not go_together(model, w, pair, found))
        found = replace(found, chain=tried_chain(model, w, pair, found))
    except (UsesDiffer, RuntimeError) as error:  # such as torch.func's, where modules have full backward hooks
        if out_of_memory(error):
            raise
        found = _right(model, w, few, all_by_autograd(model, w, found), fits.numbers)
    return found


def known_uses(model: nn.Module, w: Weights, x: Samples) -> Uses:
    """`uses` of a task's model, which stays as it is, and which inputs are fixed: looked for once for such shapes.

    Inside vmap and other transforms from the tensors that are mapped, those of the first node.
    """
    known = _KNOWN.setdefault(model, {})
    shapes = tuple((name, part.shape, part.dtype) for name, part in w.items())
    key = shapes, *((leaf.shape[1:], leaf.dtype, leaf.device) for leaf in leaves(x))
    if key not in known:
        with multiply_adds.uncounted(), temporarily_clear_interpreter_stack():
            w = {name: _of_first_node(part) for name, part in w.items()}
            x = x.map(_of_first_node) if isinstance(x, Batch) else _of_first_node(x)
            found = uses(model, w, x)
            known[key] = replace(found, fixed=fixed(model, w, x[:1]) & found.by_name.keys())
    return known[key]


def _of_first_node(part: Tensor) -> Tensor:
    """The tensor inside of all wrappers of transforms, at the first place of every mapped axis."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(part):
        axis = functorch.maybe_get_bdim(part) if functorch.is_batchedtensor(part) else None
        part = functorch.get_unwrapped(part)
        part = part if axis is None else part.select(axis, 0)
    return part.detach()


def all_by_autograd(model: nn.Module, w: Weights, found: Uses) -> Uses:
    """The uses of a model whose parameters cannot be followed at all; `found` knows its outputs and how large it is."""
    by_name: dict[str, Use] = {WHOLE: whole(model, tuple(w), found.outputs)}
    return Uses(
        by_name,
        found.outputs,
        touched=found.touched,
        widest=found.widest,
        kept={WHOLE: found.sample},
        sample=found.sample,
    )


def _plain_pass(model: nn.Module, w: Weights, x: Samples, error: RuntimeError) -> Uses:
    """How large a model is by a pass outside of the transforms of torch.func, inside which `error` was met."""
    recorder = Recorder(w)
    try:
        with torch.enable_grad(), plain(), recorder:  # a model may differentiate on its way
            f = outputs(call(model, w, x))
    except RuntimeError:
        if not isinstance(x, Tensor) or x.is_floating_point():
            raise
        raise SettingError(f"`x` must be floats for this model; got {x.dtype}. Convert it: x.float().") from error
    return Uses({}, f.shape[1], touched=recorder.touched, widest=recorder.widest, sample=x.numel())


def _hiding(w: Weights, found: Uses) -> Weights:
    """The parameters that are zero and no mere shifts, so that no gradient of others comes through, at other values."""
    shifts = {getattr(one, "bias", None) or getattr(one, "shift", None) for one in found.by_name.values()}
    generator = torch.Generator().manual_seed(len(w))
    return {
        name: (0.1 * torch.randn(part.shape, generator=generator, device="cpu")).to(part)
        for name, part in w.items()
        if name not in shifts and not any(map(float, part.aminmax() if part.numel() else ()))
    }


def _right(model: nn.Module, w: Weights, x: Samples, found: Uses, most: int) -> Uses:
    """`found` as far as it agrees with plain autograd at w on samples x; the whole model's use for all else."""
    generator = torch.Generator().manual_seed(len(x))
    alpha = torch.randn(len(x), found.outputs, generator=generator, dtype=torch.float64, device="cpu")
    alpha = alpha.to(next(iter(w.values())))
    with graph(model, w, x, alpha, most) as by_autograd:
        return _agreeing(model, w, x, found, by_autograd, alpha, most)


def _agreeing(
    model: nn.Module,
    w: Weights,
    x: Samples,
    found: Uses,
    by_autograd: Graph,
    alpha: Tensor,
    most: int,
) -> Uses:
    together = by_autograd.together.detach()
    while True:
        f, its = pulled_back(model, w, x, found, alpha)
        if not trees.is_finite([together, f]):
            return found  # whoever computes with them says so
        if together.shape != f.shape or not _close(together - f, float(f.norm()), 0.0):
            raise SettingError(_MIXED)
        wrong, absent = _compared(found, w, by_autograd, its, most)
        if not wrong:
            return replace(found, unused=tuple(sorted(absent)))
        by_model = found.by_name.get(WHOLE)
        if isinstance(by_model, Whole) and not by_model.transforms and wrong <= {*found.whole}:
            raise SettingError(_MIXED)
        found, names = without(found, {*wrong, *found.whole})
        transforms = by_model is None or not wrong & {*by_model.call.names}
        found.by_name[WHOLE] = whole(model, names, found.outputs, transforms)
        found.kept[WHOLE] = found.sample


def _compared(found: Uses, w: Weights, by_autograd: Graph, its: Factors, most: int) -> tuple[set[str], set[str]]:
    """The parameters whose gradients the uses give otherwise than autograd does; and those that nothing depends on."""
    of_uses = parts(found, w)
    followed = {name for part in of_uses for name in part.names}
    strays = [Part((), (), (name,), w[name].numel()) for name in w if name not in followed]
    sizes: dict[str, float] = {}
    offs: dict[str, float] = {}
    wrong = {name for (name,) in (part.names for part in strays) if name in found.seen}
    absent: set[str] = set()
    large = [part for part in of_uses if by_autograd.in_rows(part)]
    for part in large:
        _compare_rows(part, its, by_autograd, sizes, offs)
    for batch in _batches([part for part in [*of_uses, *strays] if part not in large], most):
        names = [name for part in batch for name in part.names]
        pulled = by_autograd.gradients(names)
        # gradients of a token and of the positions that are added to it may lie in one memory
        by_name = {
            name: torch.zeros_like(w[name]) if g is None else g.clone() for name, g in zip(names, pulled, strict=True)
        }
        absent |= {name for name, g in zip(names, pulled, strict=True) if g is None and name not in followed} - wrong
        sizes |= {name: float(g.norm()) for name, g in by_name.items()}
        for part in batch:
            own = {name: by_name[name] for name in part.names}
            for key, use in zip(part.keys, part.uses, strict=True):
                factor = its[key]
                assert isinstance(factor, Dense)
                try:
                    _subtract(use, w, factor, own)
                except RuntimeError:
                    if not isinstance(use, Whole) or not use.transforms:
                        raise
                    wrong |= {*use.call.names}  # torch.func cannot differentiate it
            offs |= {name: float(g.norm()) for name, g in own.items()}
            del own
        del pulled, by_name
    largest = max(sizes.values(), default=0.0)
    like = next(iter(w.values()))
    wrong |= {name for name, off in offs.items() if not _within(off, sizes[name], largest, like)}
    return wrong, absent


def _compare_rows(
    part: Part, its: Factors, by_autograd: Graph, sizes: dict[str, float], offs: dict[str, float]
) -> None:
    """Notes how large a matrix's gradient is and how far off, some of its rows at a time; and so of its bias."""
    matrix, us, ds = part.matrix, [], []
    assert matrix is not None
    for key, use in zip(part.keys, part.uses, strict=True):
        factor = its[key]
        assert isinstance(factor, Dense)
        assert isinstance(use, Matrix)
        us.append(use.inner(factor.a)[:, 0].to(factor.d[0].dtype))
        ds.append(use.outer(factor.d)[:, 0, 0])
    norms = [
        _norms(by_autograd.gradient_of_rows(matrix.weight, number), us, [d[:, rows] for d in ds])
        for number, rows in enumerate(by_autograd.rows(matrix.weight))
    ]
    sizes[matrix.weight], offs[matrix.weight] = (
        torch.tensor(norms, dtype=torch.float64, device="cpu").norm(dim=0).tolist()
    )
    if matrix.bias is not None:
        (shift,) = by_autograd.gradients([matrix.bias])
        assert matrix.bias_layout is not None
        found = matrix.bias_layout.back(torch.stack([d.sum((0, -1)) for d in ds]).sum(0)[None])
        shift = torch.zeros_like(found) if shift is None else shift
        sizes[matrix.bias], offs[matrix.bias] = float(shift.norm()), float((shift - found).norm())


def _norms(gradient: Tensor, us: list[Tensor], ds: list[Tensor]) -> tuple[float, float]:
    """Of a gradient (rows, I), and of what is left without sum_ns d_ns u_ns^T, for u (n, I, S) and d (n, rows, S)."""
    size = float(gradient.norm())
    for u, d in zip(us, ds, strict=True):
        outer, inner = (part.transpose(0, 1).flatten(1) for part in (d, u))
        gradient.addmm_(outer, inner.mT, alpha=-1)  # in place: nothing else of this size comes and goes
    return size, float(gradient.norm())


def _subtract(use: Use, w: Weights, factor: Dense, own: Weights) -> None:
    """Takes the gradients that a use gives, summed over samples, from `own`, in little memory."""
    if isinstance(use, Matrix) and not use.lookup:
        u, outer = use.inner(factor.a).to(factor.d[0].dtype), use.outer(factor.d)[:, 0]
        # of the view: where a part of the parameter is not in it, what is left there is what the use does not give
        matrix = torch.zeros(use.layout.shape, dtype=outer.dtype, device=outer.device)
        for rows in torch.split(torch.arange(use.fan_out, device="cpu"), max(1, NUMBERS // (use.groups * use.fan_in))):
            matrix[:, rows] = torch.einsum("ngos,ngis->goi", outer[:, :, rows], u)
        own[use.weight] -= use.layout.back(matrix)
        if use.bias is not None and use.bias_layout is not None:
            own[use.bias] -= use.bias_layout.back(outer.sum((0, -1)))
        return
    size = max(1, NUMBERS // sum(part.numel() for part in own.values()))
    for cut in cuts(len(factor.d[0]), size):
        a, d = (tuple(part[cut] for part in side) for side in (factor.a, factor.d))
        for name, gradient in use.gradients(w, a, d).items():
            own[name] -= gradient.sum((0, 1))


def _batches(found: list[Part], most: int) -> list[list[Part]]:
    """Parts that hold together no more than so many numbers, one at the least."""
    batches: list[list[Part]] = [[]]
    for part in found:
        if batches[-1] and sum(other.size for other in [*batches[-1], part]) > most:
            batches.append([])
        batches[-1].append(part)
    return batches


def _close(difference: Tensor, size: float, most: float) -> bool:
    return _within(float(difference.norm()), size, most, difference)


def _within(off: float, size: float, most: float, like: Tensor) -> bool:
    """Whether a difference is rounding: relative to the value itself, or to the largest of its kind."""
    eps = torch.finfo(like.dtype).eps
    relative = 1e-6 if like.dtype == torch.float64 else 3e-2 if like.is_cuda or eps > 1e-4 else 3e-3
    return off <= relative * size + 100 * eps * most
