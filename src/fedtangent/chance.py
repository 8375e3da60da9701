"""Whether a model's outputs depend on chance: passes under different seeds are compared, and the module is named."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Passes of a model that draws random numbers: a layer that is skipped one time in ten is often the same in two.
_DRAWS = 16


def varies(f: Callable[[], Any], model: nn.Module) -> str | None:
    """The name of the module at which passes under different seeds begin to differ; None where they agree.

    On a CPU they must agree exactly; elsewhere up to rounding, because sums may be taken in another order. Two passes,
    and 14 more where random numbers were drawn without a difference. The user's random numbers go on as if nothing had
    been drawn.

    Args:
        f: A forward pass on a few samples; returns tensors, or a tree of them.
        model: What it runs.

    Returns:
        The name in model.named_modules() of the innermost module that gives other results for the same inputs; ""
        where none but the model itself can be named.
    """
    with _seeds(model) as seed:
        before = seed(0)
        first = _tensors(f())
        drawn = before != _states(model)
        for number in range(1, _DRAWS if drawn else 2):
            seed(number)
            if not _same(first, _tensors(f())):
                return _named(f, model, seed, number)
    return None


def _named(f: Callable[[], Any], model: nn.Module, seed: Callable[[int], Any], number: int) -> str:
    seed(0)
    first = _calls(f, model)
    seed(number)
    for (name, given, result), (other, its, another) in zip(first, _calls(f, model), strict=False):
        if name != other:
            break
        if _same(given, its) and not _same(result, another):
            return name
    return ""


def _calls(f: Callable[[], Any], model: nn.Module) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """Of every module in a pass: its name, inputs and results, in the order in which they end."""
    found: list[tuple[str, list[Tensor], list[Tensor]]] = []
    running: list[list[Tensor]] = []

    def begin(_part: nn.Module, args: Any, kwargs: Any) -> None:
        running.append(_copies((args, kwargs)))  # before a layer that writes in place

    with ExitStack() as hooks:
        for name, part in model.named_modules():

            def end(_part: nn.Module, _inputs: Any, result: Any, name: str = name) -> None:
                found.append((name, running.pop(), _copies(result)))

            hooks.callback(part.register_forward_pre_hook(begin, with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(end).remove)
        f()
    return found


@contextmanager
def _seeds(model: nn.Module) -> Iterator[Callable[[int], list[Any]]]:
    """A function that seeds the generators of torch, Python and numpy and gives their states, which are restored."""

    def seed(number: int) -> list[Any]:
        torch.default_generator.manual_seed(number)
        for device in _devices(model):
            torch.cuda.default_generators[device].manual_seed(number)
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        return _states(model)

    pythons, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(_devices(model)):
            yield seed
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)  # noqa: NPY002


def _states(model: nn.Module) -> list[Any]:
    torchs = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _devices(model))]
    numpys = [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]  # noqa: NPY002
    return [*(part.tolist() for part in torchs), random.getstate(), numpys]


def _devices(model: nn.Module) -> list[int]:
    """Of the GPUs that the model is on: a model on the CPU leaves the GPU's driver asleep."""
    parts = [*model.parameters(), *model.buffers()]
    return sorted({part.get_device() for part in parts if part.device.type == "cuda"})


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors of what a module takes or gives: of dicts, tuples, lists and dataclasses."""
    if isinstance(tree, Tensor):
        return [tree]
    if is_dataclass(tree):
        tree = vars(tree)
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    return [leaf for part in tree for leaf in _tensors(part)] if isinstance(tree, (tuple, list)) else []


def _copies(tree: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in _tensors(tree)]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    size = float(a.abs().nan_to_num().max()) if a.numel() and a.device.type != "cpu" else 0.0
    return torch.allclose(a, b, rtol=0, atol=100 * torch.finfo(a.dtype).eps * size, equal_nan=True)
