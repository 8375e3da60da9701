"""The first-order model f_lin(x; w) = f(x; w_0) + J (w - w_0): the network that a tangent kernel describes exactly.

Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington. Wide neural networks of any depth evolve as linear
models under gradient descent. NeurIPS 2019. arXiv 1902.06720.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.module_state import copied
from fedtangent.outside_vmap import look
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture import remembered
from fedtangent.tangents.capture.derivatives import Ways, push, ways
from fedtangent.tangents.capture.functional import TURN, Weights, call, plain, trainable
from fedtangent.tangents.capture.outputs import Outputs, Picked
from fedtangent.tangents.capture.samples import Samples, leaves, names, samples
from fedtangent.tangents.given import looked

# Samples at a time, where only numbers of them are wanted.
_ROWS = 256


class Gap(NamedTuple):
    """How far the true model f is from the linearised one at given weights, over samples and outputs.

    Attributes:
        absolute: The root mean square of f - f_lin.
        relative: The same, divided by that of f - f_0, how far training has come; 0 where f is f_lin.
        agreement: The share of the samples where both decide for the same class; None for a model of one output.
    """

    absolute: float
    relative: float
    agreement: float | None


class Linearized:
    """The first-order model at w_0, (w, x) -> f_lin (n, C); made by `linearize`.

    Every transform of `torch.func` takes it, so it can be trained: torch.func.grad(lambda w: loss(f_lin(w, x), y)).

    Attributes:
        w_0: The weights at which it is exact.
    """

    def __init__(self, model: Picked, w_0: Weights, kept: Sequence[remembered.Kept] = ()) -> None:
        self._model, self.w_0, self._kept = model, w_0, kept
        self._ways: Ways | None = None
        self._types: dict[str, torch.dtype] = {}

    @without_autocast()
    def __call__(self, w: Weights, x: Any) -> Tensor:
        """f(x; w_0) + J (w - w_0), (n, C): one pass with its forward derivative, some 3 forward passes.

        Two backward passes, where the derivatives that training uses are not those of forward mode: the first call
        finds out.

        Args:
            w: A tree like w_0.
            x: Inputs, (n, ...), or a dict or a tuple of them for model(**x) or model(*x).

        Raises:
            TypeError: Inputs or results that are no tensors; numbers that are not real.
            ValueError: Weights of other names or shapes than w_0; a model whose outputs are not (n, C) or depend on
                chance or on other samples.
        """
        f_0, change = self._parts(self._typed(w), samples("x", x))
        return f_0 + change

    @without_autocast()
    def gap(self, w: Weights, x: Any) -> Gap:
        """How far the true model at w is from the linearised one, on x (n, ...); some 4 forward passes, by blocks.

        Raises:
            TypeError, ValueError: As a call.
        """
        w, x = self._typed(w), samples("x", x)
        off = moved = agree = 0.0
        for part in x.split(_ROWS):
            with torch.no_grad():
                f_0, change = self._parts(w, part)
            with torch.enable_grad(), plain():  # a model may differentiate on its way
                f = call(self._model, w, part).detach()
            off += float(((f - f_0 - change) ** 2).sum(dtype=torch.float64))
            moved += float(((f - f_0) ** 2).sum(dtype=torch.float64))
            agree += float((f.argmax(1) == (f_0 + change).argmax(1)).sum())
        return Gap(
            (off / (len(x) * f.shape[1])) ** 0.5,
            (off / moved) ** 0.5 if moved else (math.inf if off else 0.0),
            agree / len(x) if f.shape[1] > 1 else None,
        )

    def _typed(self, w: Weights) -> Weights:
        """The weights in the type of w_0."""
        if not isinstance(w, Mapping) or not all(isinstance(part, Tensor) for part in w.values()):
            raise SettingTypeError(
                f"`w` must be a dict of tensors, as w_0; got {type(w).__name__}. Start from a copy of w_0."
            )
        shapes = [{name: tuple(part.shape) for name, part in tree.items()} for tree in (w, self.w_0)]
        if shapes[0] != shapes[1]:
            name = min(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
            raise SettingError(
                f"`w` must have the names and shapes of w_0; got {name!r} {shapes[0].get(name, 'missing')}, "
                f"for {shapes[1].get(name, 'nothing')}. Start from a copy of w_0."
            )
        return {name: w[name].to(start) for name, start in self.w_0.items()}

    def _parts(self, w: Weights, x: Samples) -> tuple[Tensor, Tensor]:
        """f(x; w_0) and J (w - w_0)."""
        types = {called: leaf.dtype for called, leaf in zip(names("x", x), leaves(x), strict=True)}
        if self._ways is None:
            look(self._look, x)
            self._types = types
        assert self._ways is not None
        for name, dtype in types.items():
            first = self._types.get(name, dtype)
            if dtype != first and (dtype.is_floating_point or first.is_floating_point):
                raise SettingError(
                    f"`{name}` must be {first}, as in the first call; got {dtype}. Convert it: {name}.to({first})."
                )
        return push(self._model, self.w_0, x, {name: w[name] - start for name, start in self.w_0.items()}, self._ways)

    def _look(self, x: Samples) -> None:
        looked(self._model, self.w_0, x, "x")
        remembered.check(self._kept, self.w_0, remembered.passing(self._model, x))
        self._ways = ways(self._model, self.w_0, x)


def linearize(model: nn.Module, w: Weights | None = None, *, outputs: Outputs = None) -> Linearized:
    """The first-order model of `model` at w, or at its own weights.

    It keeps a copy: what is done to the model afterwards, training above all, does not change it.

    Args:
        model: With outputs (n, C); in eval mode where it has batch norm or dropout.
        w: A tree of its trainable parameters.
        outputs: Which part of the model's result its outputs are: a name such as "logits", an index or a function.

    Raises:
        TypeError: No model.
        ValueError: A model with dropout or batch norm in train mode, or without trainable parameters; weights that are
            not the model's.

    Example:
        >>> model = torch.nn.Linear(5, 3)
        >>> f_lin = linearize(model)
        >>> f_lin(f_lin.w_0, torch.ones(4, 5)).shape
        torch.Size([4, 3])
    """
    w_0 = trees.map(torch.clone, trainable(model, w))
    kept = remembered.kept(model, w_0)
    with TURN:
        own = copied(model)
    return Linearized(Picked(own.requires_grad_(False), outputs), w_0, kept)
