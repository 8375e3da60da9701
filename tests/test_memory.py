"""Errors of Python, NumPy and PyTorch that mean too little memory are told from others."""

import numpy as np
import pytest
import torch

from fedtangent.memory import out_of_memory


def test_what_is_too_large_for_memory() -> None:
    with pytest.raises(Exception) as large:
        torch.empty(2**61)
    assert out_of_memory(large.value)
    with pytest.raises(Exception) as larger:
        np.empty(2**62)
    assert out_of_memory(larger.value) and out_of_memory(MemoryError())


def test_what_is_not() -> None:
    with pytest.raises(RuntimeError) as wrong:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not out_of_memory(wrong.value) and not out_of_memory(KeyError("overflow"))
