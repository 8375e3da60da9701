"""What a few forward passes tell of a model before it is trusted: chance, hidden changes, and rows that mix.

Passes are compared that should agree. Where they do not, hooks on the modules tell which of them was the first to make
other results of equal inputs.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from fedtangent import trees
from fedtangent.errors import SettingError

Forward = Callable[[], Tensor]

PASSES = 32  # of a model that draws numbers: what happens in one of ten passes shows in 96 of 100 models
ALONE = 0.02  # by how much of their size outputs may differ with the size of a batch: bfloat16 and TF32 round so


def check_mode() -> None:
    """Raises inside of torch.inference_mode, in which derivatives are zeros without a word."""
    if torch.is_inference_mode_enabled():
        raise SettingError(
            "`torch.inference_mode` must be off where derivatives are taken; got it on. Call this outside of it, or "
            "under torch.no_grad()."
        )


def check_chance(model: nn.Module, forward: Forward) -> None:
    """Raises where a pass gives other outputs than the one before, by chance or since a pass changes the model.

    Dropout and batch norm, as modules of torch, are in eval mode meanwhile. Whatever else draws random numbers is known
    by the generators of torch, numpy and Python, which are left as they were, like the model's buffers. Two passes, or
    up to 33 of a model that draws.

    Args:
        model: Whose modules are named.
        forward: Passes some rows.

    Raises:
        ValueError: Outputs that differ; the module is named where one can be.
    """
    with _untouched(model), _generators():
        first, drawn = _seeded(0, forward)
        before = _floating(model)
        again, _ = _seeded(0, forward)
        for name, buffer in _floating(model).items():
            if name in before and _difference(buffer, before[name]) > 0:
                raise SettingError(
                    f"`model` must not change in a forward pass; got other numbers in its buffer {name!r}. Call "
                    "model.eval(), or eval() of that part."
                )
        off = _difference(first, again)
        if off > (_rounding(first) if first.is_cuda else 16 * torch.finfo(first.dtype).eps * _size(first)):
            at = _place(model, partial(_outputs, 0, forward), partial(_outputs, 0, forward))
            raise SettingError(
                f"`model` must give the same outputs for the same rows; got others in a second pass{at}. Call "
                "model.eval(), and let a forward pass change nothing."
            )
        least = _rounding(first) if off else 0.0  # a GPU may add up in another order
        for seed in range(1, PASSES if drawn else 1):
            other, _ = _seeded(seed, forward)
            if _difference(first, other) > least:
                at = _place(model, partial(_outputs, 0, forward), partial(_outputs, seed, forward))
                raise SettingError(
                    f"`model` must be deterministic; got outputs that change with the random seed{at}. Call "
                    "model.eval(), or draw nothing at random in a forward pass."
                )


def check_rows(model: nn.Module, forward: Callable[[Any], Tensor], x: Any) -> None:
    """Raises where a row's outputs change with the other rows of its batch, or with their number.

    The others are real rows, the same one, and zeros, which engines pad with. Four passes; modules of dropout and batch
    norm are in eval mode.

    Args:
        model: Whose modules are named.
        forward: x -> outputs (rows, ...).
        x: A few rows, a tensor or a tree of tensors.

    Raises:
        ValueError: Such outputs; the module is named where one can be.
    """
    held = len(trees.leaves(x)[0])
    rows = max(held, 3)
    x = trees.map(lambda leaf: leaf[[k % held for k in range(rows)]], x)
    same = trees.map(lambda leaf: leaf[[rows - 1] * rows], x)
    real = torch.arange(rows, device="cpu") % (rows - 1) == 0  # the first and the last
    zeros = trees.map(lambda leaf: torch.where(_beside(real, leaf), leaf, torch.zeros_like(leaf)), x)
    with _untouched(model):
        f = forward(x)
        for other, own in ((same, [rows - 1]), (zeros, [0, rows - 1])):
            try:
                found = forward(other)
            except Exception:
                if other is same:
                    raise
                continue  # only some engines pad, and such a pass would not go unnoticed
            if _difference(f[own], found[own]) > _rounding(f):
                at = _place(model, partial(forward, x), partial(forward, other), own)
                raise SettingError(
                    f"`model` must treat every row on its own; got outputs that change with the other rows{at}. Use "
                    "GroupNorm, or fedtangent.batch_norm.BatchNorm, or eval mode."
                )
        got = _alone(forward, trees.map(lambda leaf: leaf[:1], x), f)
    if got is not None:
        raise SettingError(
            f"`model` must give a row the same outputs alone and in a batch, {tuple(f[:1].shape)} here; got {got} for "
            "it alone. Keep the rows' axis, as squeeze(1) does and squeeze() does not, and do not count rows."
        )


def check_writes(
    model: nn.Module, forward: Callable[[dict[str, Tensor], Any], Tensor], w: Mapping[str, Tensor], x: Any
) -> None:
    """Raises where a pass writes numbers to the parameters that hang on its rows, as first weights from a first batch.

    Bounds that a layer keeps its weights within hang on the weights alone, and may be written. Two passes.

    Args:
        model: Whose buffers are kept.
        forward: (w, x) -> outputs (rows, ...).
        w: Parameters, which stay as they are.
        x: A few rows, a tensor or a tree of tensors.
    """
    half = (len(trees.leaves(x)[0]) + 1) // 2
    found = []
    for part in (slice(0, half), slice(half - 1, None)):
        own = {name: one.clone() for name, one in w.items()}
        with buffers_kept(model), _generators():  # in its own mode: whether it draws is asked here first
            try:
                forward(own, trees.map(lambda leaf, part=part: leaf[part], x))
            except Exception:
                return  # whoever runs it next says so
        found.append(own)
    name = next((name for name in w if _difference(found[0][name], found[1][name]) > 0), None)
    if name is not None:
        raise SettingError(
            f"`model` must not set its parameters by the rows of a forward pass; got others in {name!r} for other "
            "rows. Run it once on data before."
        )


def nudged(w: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with N(0, 0.1) in place of those all below 0.01: a head of zeros would hide what is behind it."""
    found: dict[str, Tensor] = {}
    for name, part in w.items():
        small = part.numel() > 0 and part.is_floating_point() and float(part.detach().abs().max()) < 0.01
        draw = np.random.default_rng(len(found)).normal(scale=0.1, size=part.shape) if small else None
        found[name] = part if draw is None else torch.from_numpy(np.asarray(draw)).to(part)
    return found


def _alone(forward: Callable[[Any], Tensor], row: Any, f: Tensor) -> str | None:
    """What is wrong with the outputs of the first row alone, beside those of all."""
    try:
        alone = forward(row)
    except Exception as error:
        return f"{type(error).__name__}"
    if alone.shape != f[:1].shape:
        return f"shape {tuple(alone.shape)}"
    return "other outputs" if _difference(f[:1], alone) > ALONE * _size(f) else None


class _Call(NamedTuple):
    """The tensors that go into a call of a module, and those that come out."""

    inputs: list[Tensor]
    results: list[Tensor]


def _place(model: nn.Module, one: Forward, other: Forward, own: Sequence[int] = ()) -> str:
    """` at 'name' (Type)`: the first module with other results of equal inputs; of some rows, where these are given."""
    names = {part: name for name, part in model.named_modules()}
    first, second = _calls(model, one), _calls(model, other)
    rows = next((part.shape[:1] for call in [*first.values()][-1:] for part in call.inputs), None)

    def alike(parts: list[Tensor], others: list[Tensor]) -> bool:
        if [part.shape for part in parts] != [part.shape for part in others]:
            return False
        if own:
            parts, others = ([part[list(own)] for part in some] for some in (parts, others))
        least = 1e-5 if own else 0.0
        return all(_difference(a, b) <= least * _size(a) for a, b in zip(parts, others, strict=True))

    for key, call in first.items():
        if key not in second or (own and any(part.shape[:1] != rows for part in (*call.inputs, *call.results))):
            continue  # it is not told which rows are where
        if alike(call.inputs, second[key].inputs) and not alike(call.results, second[key].results):
            part, name = key[0], names[key[0]]
            return f" at {name!r} ({type(part).__name__})" if name else f" in the forward of {type(part).__name__}"
    return ""


def _calls(model: nn.Module, forward: Forward) -> dict[tuple[nn.Module, int], _Call]:
    """Every call of a module during a pass, by the module and its number, in the order in which they end."""
    begun: list[list[Tensor]] = []
    found: dict[tuple[nn.Module, int], _Call] = {}

    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        begun.append(_tensors((args, kwargs)))  # now: a module may write over them

    def leave(part: nn.Module, _args: Any, _kwargs: Any, result: Any) -> None:
        number = sum(key[0] is part for key in found)
        found[part, number] = _Call(begun.pop(), _tensors(result))

    hooks = [part.register_forward_pre_hook(enter, with_kwargs=True) for part in model.modules()]
    hooks += [part.register_forward_hook(leave, with_kwargs=True) for part in model.modules()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _tensors(tree: Any) -> list[Tensor]:
    """Copies of the tensors in dicts of any kind, tuples and lists."""
    if isinstance(tree, Tensor):
        return [tree.detach().clone()]
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, (tuple, list)) else ()
    return [leaf for part in parts for leaf in _tensors(part)]


def _seeded(seed: int, forward: Forward) -> tuple[Tensor, bool]:
    """The outputs of a pass under a seed, and whether it drew from a global generator."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed keeps a stack for every device that is not there
    if _devices():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # a model may draw from it
    before = _states()
    found = forward().detach()
    return found, before != _states()


def _outputs(seed: int, forward: Forward) -> Tensor:
    return _seeded(seed, forward)[0]


def _states() -> list[Any]:
    """Where the global generators are."""
    _, key, place, *_ = np.random.get_state(legacy=True)  # noqa: NPY002
    cuda = [torch.cuda.get_rng_state(k) for k in _devices()]
    states = (torch.get_rng_state(), *cuda)
    return [random.getstate(), np.asarray(key).tobytes(), place, *(state.numpy().tobytes() for state in states)]


def _devices() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]


@contextmanager
def _generators() -> Iterator[None]:
    """Afterwards the global generators are where they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(_devices()):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Inside, dropout and batch norm are in eval mode; afterwards modes and buffers are as they were."""
    known = [part for part in model.modules() if isinstance(part, (_DropoutNd, _NormBase)) and part.training]
    for mode in known:
        mode.training = False
    try:
        with buffers_kept(model):
            yield
    finally:
        for mode in known:
            mode.training = True


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the buffers are what they were."""
    parts = [
        (part, name, buffer)
        for part in model.modules()
        for name, buffer in part.named_buffers(recurse=False)
        if _writable(buffer)
    ]
    copies = [(buffer._version, buffer.detach().clone()) for _, _, buffer in parts]
    try:
        yield
    finally:
        with torch.no_grad():
            for (part, name, buffer), (version, before) in zip(parts, copies, strict=True):
                if buffer._version != version:
                    buffer.copy_(before)
                setattr(part, name, buffer)


def _floating(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers of floats."""
    floats = {name: part for name, part in model.named_buffers() if part.is_floating_point() and _writable(part)}
    return {name: part.detach().clone() for name, part in floats.items()}


def _writable(buffer: Tensor) -> bool:
    """Whether a pass can write in it: not where one number stands for many, nor in a sparse one or one of inference."""
    return buffer.layout == torch.strided and 0 not in buffer.stride() and not buffer.is_inference()


def _beside(rows: Tensor, leaf: Tensor) -> Tensor:
    """A mask of rows, as it applies to a leaf."""
    return rows.reshape(-1, *[1] * (leaf.dim() - 1)).to(leaf.device)


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest |a - b|; what is NaN in both is equal, and inf where shapes or what is finite differ."""
    if a.shape != b.shape:
        return float("inf")
    a, b = (one.detach().to_dense().to(torch.float64) for one in (a, b))
    off = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
    return float(off.max()) if off.numel() else 0.0


def _size(f: Tensor) -> float:
    """The largest |f| that is finite."""
    finite = torch.where(f.isfinite(), f, torch.zeros_like(f)).detach()
    return float(finite.abs().max()) if f.numel() else 0.0


def _rounding(f: Tensor) -> float:
    """By how much outputs may differ that agree."""
    return float(torch.finfo(f.dtype).eps ** 0.5) * _size(f)
