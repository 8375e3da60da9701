"""What cannot be vmapped is done one by one; what does not fit in memory is not tried again."""

import pytest
import torch
from torch import Tensor

from fedtangent.tangents.functional import each


def test_a_function_that_looks_at_its_data_is_done_one_by_one() -> None:
    x = torch.tensor([1.0, -2.0, 3.5])
    assert each(lambda x: 2 * x if x.item() > 0 else -x, x).tolist() == [2.0, 2.0, 7.0]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_too_little_memory_is_told_at_once(error: RuntimeError) -> None:
    calls = []

    def fails(x: Tensor) -> Tensor:
        calls.append(x)
        raise error

    with pytest.raises(RuntimeError, match="memory"):
        each(fails, torch.ones(3))
    assert len(calls) == 1
