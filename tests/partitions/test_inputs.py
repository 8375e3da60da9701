"""The partitions that do not look at labels: iid, with and without overlap, by quantity, feature shift."""

import numpy as np
import pytest
import torch

from fedtangent.partitions.by_quantity import by_quantity
from fedtangent.partitions.feature_shift import feature_shift
from fedtangent.partitions.iid import iid
from fedtangent.partitions.iid_overlapping import iid_overlapping


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_iid_sizes_differ_by_at_most_one() -> None:
    x = torch.zeros(103, 2)
    assert sorted({len(rows) for rows in iid(x, x, 10, rng()).index}) == [10, 11]


def test_iid_overlapping_has_fedparts_statistics() -> None:
    """40 draws of 500 from 50,000 are expected to reach 50,000 (1 - 0.99^40) = 16,551 rows, deviation below 100."""
    x = torch.zeros(50_000, 1)
    index = iid_overlapping(x, x, 40, rng(), size=500).index
    assert [len(np.unique(rows)) for rows in index] == [500] * 40
    assert abs(len(np.unique(np.concatenate(index))) - 16_551) < 300
    assert all(np.array_equal(rows, np.sort(rows)) for rows in index)


def test_every_node_draws_from_all_rows_whatever_the_others_have() -> None:
    x = torch.zeros(7, 1)
    assert [rows.tolist() for rows in iid_overlapping(x, x, 3, rng(), size=7).index] == [list(range(7))] * 3
    assert [len(rows) for rows in iid_overlapping(x, x, 3, rng()).index] == [2] * 3  # an even share
    counts = sum(
        np.bincount(rows, minlength=7) for n in range(900) for rows in iid_overlapping(x, x, 2, rng(n), size=2).index
    )
    assert abs(np.asarray(counts) / 1800 - 2 / 7).max() < 0.04


@pytest.mark.parametrize("size", [0, -1, 8])
def test_no_node_has_more_rows_than_there_are(size: int) -> None:
    x = torch.zeros(7, 1)
    with pytest.raises(ValueError, match=f"^`size` must be from 1 to the number of training rows, 7; got {size}. Give"):
        iid_overlapping(x, x, 3, rng(), size=size)


def test_by_quantity_is_uneven_at_small_alpha_and_even_at_large() -> None:
    x = torch.zeros(5000, 2)
    uneven, even = ([len(rows) for rows in by_quantity(x, x, 20, rng(1), alpha=a).index] for a in (0.05, 1e6))
    assert max(uneven) > 1000
    assert min(uneven) < 10
    assert max(even) - min(even) < 10


def test_feature_shift_adds_more_noise_to_later_nodes() -> None:
    x = torch.randn(6000, 3, 7, dtype=torch.float64)
    index, shifted, _ = feature_shift(x, x, 4, rng(2), noise=0.8)
    assert shifted is not None
    assert (shifted.dtype, shifted.shape) == (x.dtype, x.shape)
    deviations = [float((shifted - x)[rows].std()) for rows in index]
    np.testing.assert_allclose(deviations, [0.2, 0.4, 0.6, 0.8], rtol=0.03)


def test_feature_shift_of_no_noise_is_iid() -> None:
    x = torch.randn(31, 3)
    index, shifted, _ = feature_shift(x, x, 4, rng(2), noise=0.0)
    assert shifted is not None
    assert torch.equal(shifted, x)
    assert all(np.array_equal(a, b) for a, b in zip(index, iid(x, x, 4, rng(2)).index, strict=True))


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_a_noise_that_is_negative_or_not_finite_is_an_error(noise: float) -> None:
    with pytest.raises(ValueError, match=f"`noise` must be finite and not negative; got {noise}"):
        feature_shift(torch.zeros(9, 2), torch.zeros(9), 3, rng(), noise=noise)


def test_feature_shift_of_tokens_is_a_type_error() -> None:
    tokens = torch.zeros(9, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match="`x` must be floats to take noise; got torch"):
        feature_shift(tokens, torch.zeros(9), 3, rng())
