"""A tangent kernel as a kernel of GPyTorch, which has to be installed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.kernel import kernel
from fedtangent.tangents.matrix import matrix
from fedtangent.tangents.own_kernel import own_kernel
from fedtangent.tangents.plan import MEMORY


def tangent_kernel(
    model: nn.Module,
    shape: Sequence[int] | None = None,
    *,
    kind: str = "trace",
    outputs: Outputs = None,
    memory_bytes: int = MEMORY,
) -> Any:
    """A gpytorch.kernels.Kernel, at the model's weights, which it does not train; wrap it in a ScaleKernel.

    Args:
        model: As of `tangents.kernel`.
        shape: Of a sample, where the model takes other than vectors: GPyTorch's inputs are (n, numbers of a sample).
        kind: `trace`, (n, n), or `full`, (n C, n C) with a sample's outputs side by side, for
            MultitaskMultivariateNormal.
        outputs: As of `tangents.kernel`.
        memory_bytes: As of `tangents.kernel`.

    Raises:
        ValueError: Another kind; GPyTorch is not installed; when called, inputs in batches of several data sets.
    """
    try:
        from gpytorch.kernels import Kernel
    except ImportError as error:
        raise SettingError(
            f"`tangent_kernel` must have GPyTorch; got {error}. Install it: pip install gpytorch."
        ) from error
    if kind not in ("trace", "full"):
        raise SettingError(f"`kind` must be 'trace' or 'full'; got {kind!r}. Choose one of the two.")
    settings: dict[str, Any] = {"kind": kind, "outputs": outputs, "memory_bytes": memory_bytes}

    def samples(x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise SettingError(f"`x` must be (n, numbers of a sample); got {tuple(x.shape)}. Take one data set a time.")
        return x.detach() if shape is None else x.detach().reshape(len(x), *shape)

    class TangentKernel(Kernel):  # type: ignore[misc]
        has_lengthscale = False
        count = 1

        def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **more: Any) -> Tensor:
            same = x1.shape == x2.shape and torch.equal(x1, x2)
            if diag and same:
                own = own_kernel(model, samples(x1), **settings)
                return own if own.dim() == 1 else own.diagonal(dim1=1, dim2=2).reshape(-1)
            k = kernel(model, samples(x1), None if same else samples(x2), **settings)
            return matrix(k).diagonal() if diag else matrix(k)

        def num_outputs_per_input(self, x1: Tensor, x2: Tensor) -> int:
            if kind == "full" and self.count == 1:
                self.count = own_kernel(model, samples(x1[:1]), **settings).shape[-1]
            return self.count

    return TangentKernel()
