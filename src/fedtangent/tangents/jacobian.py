"""The Jacobian of a model's outputs by its weights, as an operator: J v, J^T alpha and J J^T alpha without J.

n samples, C outputs, P parameters; J is (n, C, P). Any model that torch can differentiate; memory does not grow with n
but for f.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.memory import out_of_memory
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture import remembered
from fedtangent.tangents.capture.derivatives import Ways, pull, push, ways
from fedtangent.tangents.capture.factors import factors, head
from fedtangent.tangents.capture.functional import Weights, call, check, plain
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.samples import Samples, tensor
from fedtangent.tangents.capture.uses import Uses, UsesDiffer
from fedtangent.tangents.capture.verified_uses import all_by_autograd, uses
from fedtangent.tangents.given import Given, given
from fedtangent.tangents.numerics.kernel_parts import gradients, parts
from fedtangent.tangents.plan import MEMORY


class Jacobian:
    """J of a model at w on n samples; made by `jacobian`.

    It keeps a copy of w: training the model afterwards does not change it. Model and samples themselves are not copied.

    Attributes:
        f: The outputs f(x; w), (n, C).
        w: The weights at which J is taken.
        shape: (n, C, P).
    """

    def __init__(self, its: Given, memory_bytes: int) -> None:
        self.model, self.x, self.memory_bytes = its.model, its.x, memory_bytes
        self.w = trees.map(torch.clone, its.w)
        number = trees.number_bytes(self.w)
        # a forward pass, its tangents or cotangents, and room
        self.chunk = max(1, int(memory_bytes / (4 * number * (its.touched + self.x[:1].numel()))))
        with torch.enable_grad(), plain():  # a model may differentiate on its way
            self.f = torch.cat([call(self.model, self.w, part).detach() for part in self.x.split(self.chunk)])
        if not torch.isfinite(self.f).all():
            raise SettingError("`model` must have finite outputs; got NaN or infinity. Check its weights and samples.")
        self.shape = (*self.f.shape, sum(part.numel() for part in self.w.values()))

    @without_autocast()
    def jvp(self, v: Weights) -> Tensor:
        """J v, (n, C), for a tree v like w: what adding v to w adds to the linearised model's f. Two forward passes.

        Two backward passes, where the derivatives that training uses are not those of forward mode.
        """
        if {name: part.shape for name, part in v.items()} != {name: part.shape for name, part in self.w.items()}:
            raise SettingError(
                "`v` must be a tree like the weights; got other names or shapes. Start from zeros_like of w."
            )
        check(self.model.model)
        v = {name: v[name].to(part) for name, part in self.w.items()}
        return torch.cat([push(self.model, self.w, x, v, self._ways)[1] for x in self.x.split(self.chunk)])

    @without_autocast()
    def vjp(self, alpha: Tensor) -> Weights:
        """J^T alpha, a tree like w, for alpha (n, C). A forward and a backward pass."""
        alpha = tensor("alpha", alpha)
        if alpha.shape != self.f.shape:
            raise SettingError(
                f"`alpha` must have the shape of the outputs, {tuple(self.f.shape)}; got {tuple(alpha.shape)}. "
                "Reshape it."
            )
        check(self.model.model)
        total = trees.zeros_like(self.w)
        for x, part in zip(self.x.split(self.chunk), torch.split(alpha.to(self.f), self.chunk), strict=True):
            total = trees.add(total, pull(self.model, self.w, x, part, self._ways))
        return total  # type: ignore[no-any-return]

    @without_autocast()
    def times(self, alpha: Tensor) -> Tensor:
        """J J^T alpha, (n, C): a product with the full kernel."""
        return self.jvp(self.vjp(alpha))

    @without_autocast()
    def dense(self) -> Tensor:
        """J itself, (n, C, P), the parameters in the order of w. A forward pass and C backward passes a sample."""
        dense = self.f.new_empty(self.shape)
        size = max(1, self.chunk // self.f.shape[1])
        for x, rows in zip(self.x.split(size), torch.split(dense, size), strict=True):
            rows.copy_(self.rows(x))
        return dense

    @without_autocast()
    def rows(self, x: Samples) -> Tensor:
        """J of some samples, as `dense` has it, all at once."""
        check(self.model.model)
        try:
            return self._rows(x, self._uses)
        except (UsesDiffer, RuntimeError) as error:
            if out_of_memory(error):
                raise
            return self._rows(x, all_by_autograd(self.model, self.w, self._uses))

    def _rows(self, x: Samples, found: Uses) -> Tensor:
        dense = self.f.new_zeros(len(x), *self.shape[1:])
        ends = np.cumsum([part.numel() for part in self.w.values()]).tolist()
        columns = {name: slice(end - part.numel(), end) for (name, part), end in zip(self.w.items(), ends, strict=True)}
        with torch.no_grad():
            its = factors(self.model, self.w, x, found)[1]
            for part in parts(found, self.w):
                for name, gradient in gradients(part, self.w, its, head(found, self.w)).items():
                    dense[..., columns[name]] = gradient.reshape(*gradient.shape[:2], -1)
        return dense

    @cached_property
    def _ways(self) -> Ways:
        remembered.check(remembered.kept(self.model, self.w), self.w, remembered.passing(self.model, self.x))
        return ways(self.model, self.w, self.x)

    @cached_property
    def _uses(self) -> Uses:
        return uses(self.model, self.w, self.x, self.memory_bytes)


@without_autocast()
def jacobian(
    model: nn.Module, x: Any, *, w: Weights | None = None, outputs: Outputs = None, memory_bytes: int = MEMORY
) -> Jacobian:
    """The Jacobian of a model on samples x (n, ...), as an operator; nothing of size P x n is formed.

    Args:
        model: Maps (n, ...) to outputs (n, C), each sample on its own: in eval mode where it has batch norm or dropout.
        x: Samples along the first axis; a dict or a tuple of tensors is taken as model(**x) or model(*x).
        w: Weights to use in place of the model's own, by the names of model.named_parameters(); those left out are
            taken as constants.
        outputs: Which part of the model's result its outputs are: a name such as "logits", an index or a function.
        memory_bytes: For the passes through the model; decides how many samples go through it at once.

    Raises:
        TypeError: Samples or results that are no tensors; numbers that are not real.
        ValueError: A model whose outputs depend on chance or on other samples, or that leaves a parameter unused;
            samples or outputs that are not finite or of a wrong type.
    """
    return Jacobian(given(model, x, w=w, outputs=outputs, memory_bytes=memory_bytes), memory_bytes)
