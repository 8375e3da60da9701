"""The tangent kernel of every sample with itself."""

from typing import Any

import torch
from torch import Tensor, nn

from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.verified_uses import uses
from fedtangent.tangents.given import given
from fedtangent.tangents.kernel import computed
from fedtangent.tangents.numerics.kernel_parts import Kind
from fedtangent.tangents.plan import MEMORY, planned

# Samples whose kernel is computed at once, of which the blocks on the diagonal are kept: the most for which the rest is
# cheap.
_ROWS = (128, 32, 8)
# Operations that take as long as the preparations of a block.
_BLOCK = 5e8


@without_autocast()
def own_kernel(
    model: nn.Module,
    x: Any,
    *,
    kind: Kind = "full",
    w: Weights | None = None,
    outputs: Outputs = None,
    memory_bytes: int = MEMORY,
) -> Tensor:
    """K(x, x) of every sample alone: the prior variance of a posterior at new inputs.

    Costs the kernels of some 8 to 128 samples at a time, so many that their contraction is the smaller part of it.

    Args:
        model: As of `kernel`.
        x: Samples along the first axis.
        kind: As of `kernel`.
        w: As of `kernel`.
        outputs: As of `kernel`.
        memory_bytes: As of `kernel`.

    Returns:
        (n, C, C) full, (n,) trace or (n, C) diagonal.

    Raises:
        TypeError, ValueError: As `kernel`.

    Example:
        >>> own_kernel(torch.nn.Linear(2, 1), torch.tensor([[1.0, 0.0], [1.0, 2.0]]), kind="trace").tolist()
        [2.0, 6.0]
    """
    model, w, own, _, _ = given(model, x, w=w, outputs=outputs, memory_bytes=memory_bytes)
    with torch.no_grad():
        found = uses(model, w, own, memory_bytes)
        plans = {rows: planned(found, w, own[:rows], None, kind, memory_bytes) for rows in _ROWS}
        contracted = {rows: sum(line.operations for line in its.lines) for rows, its in plans.items()}
        cheap = [rows for rows, cost in contracted.items() if cost < max(_BLOCK, plans[rows].operations / 2)]
        size = (cheap or _ROWS[-1:])[0]
        blocks = [computed(model, w, part, None, kind, found, memory_bytes) for part in own.split(size)]
        return torch.cat([block.diagonal(dim1=0, dim2=1).movedim(-1, 0) for block in blocks])
