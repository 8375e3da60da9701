"""The Jacobian of a model's outputs by its weights, as an operator: J v, J^T alpha and J J^T alpha without J.

n samples, C outputs, P parameters; J is (n, C, P). A product takes a forward pass and its derivative, chunk by chunk.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.tangents.functional import Weights, call, plain, trainable


class Jacobian:
    """J of a model at w on n samples; made by `jacobian`.

    Attributes:
        f: The outputs f(x; w), (n, C).
        w: The weights at which J is taken.
        shape: (n, C, P).
    """

    def __init__(self, model: nn.Module, x: Tensor, w: Weights, chunk: int) -> None:
        self.model, self.x, self.w, self.chunk = model, x, w, chunk
        with torch.no_grad(), plain():
            self.f = torch.cat([call(model, w, part) for part in self._chunks(x)])
        self.shape = (*self.f.shape, sum(part.numel() for part in w.values()))

    def jvp(self, v: Weights) -> Tensor:
        """J v, (n, C), for a tree v like w: what the linearised model adds to f when v is added to w."""
        with plain(), warnings.catch_warnings():
            # torch scripts its forward derivatives, and warns of its own doing
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            return torch.cat([torch.func.jvp(self._f(x), (self.w,), (v,))[1] for x in self._chunks(self.x)])

    def vjp(self, alpha: Tensor) -> Weights:
        """J^T alpha, a tree like w, for alpha (n, C)."""
        total = trees.zeros_like(self.w)
        with plain():
            for x, part in zip(self._chunks(self.x), self._chunks(alpha), strict=True):
                total = trees.add(total, torch.func.vjp(self._f(x), self.w)[1](part)[0])
        return total

    def times(self, alpha: Tensor) -> Tensor:
        """J J^T alpha, (n, C): a product with the full kernel."""
        return self.jvp(self.vjp(alpha))

    def dense(self) -> Tensor:
        """J itself, (n, C, P), the parameters in the order of w."""
        raise NotImplementedError

    def _f(self, x: Tensor) -> Callable[[Weights], Tensor]:
        return lambda w: call(self.model, w, x)

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.chunk)


def jacobian(model: nn.Module, x: Tensor, *, w: Weights | None = None) -> Jacobian:
    """The Jacobian of a model on x (n, ...), at its own weights or at w."""
    return Jacobian(model, x, trainable(model, w), 256)
