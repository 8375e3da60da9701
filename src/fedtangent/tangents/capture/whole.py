"""Parameters whose uses cannot be followed: their gradients come from automatic differentiation of the whole model."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.tangents.capture.functional import Weights, call, each, holding, plain
from fedtangent.tangents.capture.layers import Call, Gradients, Tensors
from fedtangent.tangents.capture.samples import Samples


@dataclass(frozen=True)
class Whole:
    """A use of some parameters by a whole model, whose result are the outputs. It keeps the samples.

    Attributes:
        call: Its names are the parameters, its one result the outputs of a sample.
        model: That uses them; not kept alive.
        transforms: Whether `torch.func` differentiates the model rightly; else plain autograd does, row by row.
    """

    call: Call
    model: Callable[[], nn.Module | None]
    transforms: bool = True
    way = "autograd"

    def kept(self, inputs: Tensors) -> Tensors:
        """The samples."""
        return inputs

    def gradients(self, w: Weights, a: Tensors, d: Tensors) -> Gradients:
        """The gradients of the outputs by its parameters, for samples a (n, ...) and d (n, C', 1, C): C' passes."""
        model = self.model()
        assert model is not None
        own = {name: w[name] for name in self.call.names}
        rest = {name: part for name, part in w.items() if name not in own}
        samples, rows = a[0], d[0].flatten(2)

        def one(x: Samples, rows: Tensor) -> Weights:
            def f(own: Weights) -> Tensor:
                return call(model, {**rest, **own}, x[None])[0]

            vjp = torch.func.vjp(f, own)[1]
            return trees.stack([vjp(row)[0] for row in rows])  # type: ignore[no-any-return]

        def plainly(x: Samples, rows: Tensor) -> Weights:
            leaves = {name: part.detach().requires_grad_() for name, part in own.items()}
            with torch.enable_grad(), holding(model, {**rest, **leaves}):
                f = call(model, {**rest, **leaves}, x[None])[0]
                return trees.stack([gradient(f, leaves, row) for row in rows])  # type: ignore[no-any-return]

        with plain():
            if self.transforms:
                return each(one, samples, rows)  # type: ignore[no-any-return]
            return trees.stack([plainly(x, its) for x, its in zip(samples, rows, strict=True)])  # type: ignore[no-any-return]


def whole(model: nn.Module, names: tuple[str, ...], outputs: int, transforms: bool = True) -> Whole:
    """The use of these parameters by the whole model, of so many outputs."""
    made = Call(whole_model, ([], None), names, ((1, outputs),))
    return Whole(made, weakref.ref(model), transforms)


def gradient(f: Tensor, leaves: Weights, cotangent: Tensor) -> Weights:
    """J^T cotangent by autograd, zero where f does not depend on a leaf; its graph is kept."""
    if not f.requires_grad:
        return {name: torch.zeros_like(part) for name, part in leaves.items()}
    found = torch.autograd.grad(f, list(leaves.values()), cotangent, retain_graph=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def whole_model(*args: Any) -> Any:
    """Stands for the model in its `Call`."""
    raise AssertionError("a whole model is called by its own use")
