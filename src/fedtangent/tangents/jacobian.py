"""The Jacobian of a model's outputs by its weights, as an operator: J v, J^T alpha and J J^T alpha without J.

n samples, C outputs, P parameters; J is (n, C, P). Any model that torch can differentiate; memory does not grow with n
but for f.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.tangents.contract import gradients, parts
from fedtangent.tangents.factors import factors, head
from fedtangent.tangents.functional import Weights, call, derivative, derivative_backward, plain, trainable
from fedtangent.tangents.layers import Matrix
from fedtangent.tangents.plan import MEMORY
from fedtangent.tangents.samples import Samples, checked
from fedtangent.tangents.uses import uses


class Jacobian:
    """J of a model at w on n samples; made by `jacobian`.

    Attributes:
        f: The outputs f(x; w), (n, C).
        w: The weights at which J is taken.
        shape: (n, C, P).
    """

    def __init__(self, model: nn.Module, x: Samples, w: Weights, memory_bytes: int) -> None:
        self.model, self.x, self.w, self.uses = model, x, w, uses(model, w, x)
        number = next(iter(w.values())).element_size()
        # a forward pass, its tangents or cotangents, and room
        self.chunk = max(1, int(memory_bytes / (4 * number * (self.uses.touched + x[0].numel()))))
        with torch.no_grad(), plain():
            self.f = torch.cat([call(model, w, part) for part in x.split(self.chunk)])
        if not torch.isfinite(self.f).all():
            raise ValueError("`model` must have finite outputs; got NaN or infinity. Check its weights and samples.")
        self.shape = (*self.f.shape, sum(part.numel() for part in w.values()))

    def jvp(self, v: Weights) -> Tensor:
        """J v, (n, C), for a tree v like w: what adding v to w adds to the linearised model's f. Two forward passes."""
        if {name: part.shape for name, part in v.items()} != {name: part.shape for name, part in self.w.items()}:
            raise ValueError(
                "`v` must be a tree like the weights; got other names or shapes. Start from zeros_like of w."
            )
        with plain():
            return torch.cat([self._push(x, v) for x in self.x.split(self.chunk)])

    def vjp(self, alpha: Tensor) -> Weights:
        """J^T alpha, a tree like w, for alpha (n, C). A forward and a backward pass."""
        if alpha.shape != self.f.shape:
            raise ValueError(
                f"`alpha` must have the shape of the outputs, {tuple(self.f.shape)}; got {tuple(alpha.shape)}. "
                "Reshape it."
            )
        total = trees.zeros_like(self.w)
        with plain():
            for x, part in zip(self.x.split(self.chunk), torch.split(alpha, self.chunk), strict=True):
                total = trees.add(total, torch.func.vjp(self._f(x), self.w)[1](part)[0])
        return total  # type: ignore[no-any-return]

    def times(self, alpha: Tensor) -> Tensor:
        """J J^T alpha, (n, C): a product with the full kernel."""
        return self.jvp(self.vjp(alpha))

    def dense(self) -> Tensor:
        """J itself, (n, C, P), the parameters in the order of w. A forward pass and C backward passes a sample."""
        dense = self.f.new_empty(self.shape)
        ends = np.cumsum([part.numel() for part in self.w.values()]).tolist()
        columns = {name: slice(end - part.numel(), end) for (name, part), end in zip(self.w.items(), ends, strict=True)}
        size = max(1, self.chunk // self.f.shape[1])
        with torch.no_grad():
            for x, rows in zip(self.x.split(size), torch.split(dense, size), strict=True):
                its = factors(self.model, self.w, x, self.uses)[1]
                for part in parts(self.uses, self.w):
                    for name, gradient in gradients(part, self.w, its, head(self.uses, self.w)).items():
                        rows[..., columns[name]] = gradient.reshape(*gradient.shape[:2], -1)
        return dense

    def _push(self, x: Samples, v: Weights) -> Tensor:
        # the padding row of an embedding has a derivative, which training leaves out: backward alone knows
        padded = any(isinstance(one, Matrix) and one.skipped is not None for one in self.uses.by_name.values())
        take = derivative_backward if padded else derivative
        return take(self._f(x), self.w, v)[1]

    def _f(self, x: Samples) -> Callable[[Weights], Tensor]:
        return lambda w: call(self.model, w, x)


def jacobian(model: nn.Module, x: Tensor, *, w: Weights | None = None, memory_bytes: int = MEMORY) -> Jacobian:
    """The Jacobian of a model on samples x (n, ...), as an operator; nothing of size P x n is formed.

    Args:
        model: Maps (n, ...) to outputs (n, C), each sample on its own: in eval mode where it has batch norm or dropout.
        x: Samples along the first axis.
        w: Weights to use in place of the model's own, by the names of model.named_parameters(); those left out are
            taken as constants.
        memory_bytes: For the passes through the model; decides how many samples go through it at once.

    Raises:
        ValueError: A model whose outputs depend on chance or that leaves a parameter unused; samples or outputs that
            are not finite or of a wrong type.
    """
    return Jacobian(model, checked(x, name="x")[0], trainable(model, w), memory_bytes)
