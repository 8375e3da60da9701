"""The mixtures of inputs, against loops over numbers."""

import math

import numpy as np
import pytest
import torch

from fedtangent.project import project, projected


def test_a_projection_mixes_flattened_inputs_and_keeps_lengths_on_average() -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2, 3)))
    matrix = project(6, 5, np.random.default_rng(8))
    drawn = np.random.default_rng(8).standard_normal((6, 5))
    found = projected(x, matrix)
    for row, own in zip(found, x, strict=True):
        for j, value in enumerate(row.tolist()):
            flat = own.flatten().tolist()
            assert value == pytest.approx(sum(flat[i] * drawn[i, j] / math.sqrt(5) for i in range(6)), rel=1e-12)
    wide = project(400, 300, np.random.default_rng(9))
    assert float((wide**2).sum(1).mean()) == pytest.approx(1, abs=0.02)  # 120,000 squares: a deviation of .004


def test_a_projection_keeps_the_inputs_dtype() -> None:
    matrix = project(6, 5, np.random.default_rng(8))
    assert projected(torch.ones(2, 6), matrix).dtype == torch.float32


@pytest.mark.parametrize("size", [0, 7])
def test_a_projection_to_nothing_or_to_more_is_an_error(size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^`project` must be between 1 and 6, the number of inputs; got {size}. Choos"
    ):
        project(6, size, np.random.default_rng(0))


def test_a_projection_of_whole_numbers_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"^`project` must be left out for inputs that are not floats; got torch.int64"):
        projected(torch.arange(6).view(2, 3), project(3, 2, np.random.default_rng(0)))
