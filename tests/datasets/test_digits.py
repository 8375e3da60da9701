"""The embedded digits: counts, scaling, a split that never moves."""

import numpy as np
import pytest
import torch

from fedtangent.datasets.digits import digits


def test_shapes_scaling_and_split() -> None:
    data = digits()
    assert data.name == "digits" and data.classes == 10
    assert data.x_train.shape == (1437, 1, 8, 8) and data.x_test.shape == (360, 1, 8, 8)
    assert data.x_train.dtype == torch.float32 and data.y_train.dtype == data.y_test.dtype == torch.int64
    assert data.x_train.mean().item() == pytest.approx(0, abs=1e-3)
    assert data.x_train.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert np.bincount(data.y_train).tolist() == [142, 146, 142, 146, 145, 145, 145, 143, 139, 144]
    assert np.bincount(data.y_test).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]


def test_the_split_is_fixed_and_loses_no_image() -> None:
    from sklearn.datasets import load_digits

    data, again = digits(), digits()
    assert torch.equal(data.x_train, again.x_train) and torch.equal(data.y_test, again.y_test)
    rows = torch.cat([data.x_train, data.x_test]).flatten(1).mul(0.3761).add(0.3054).mul(16).round()
    original = load_digits(return_X_y=True)[0]
    assert sorted(map(tuple, rows.numpy().astype(int))) == sorted(map(tuple, original.astype(int)))


def test_a_data_dir_would_be_ignored_and_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`data_dir` must be left out for digits.*got 'somewhere'. Drop it.$"):
        digits("somewhere")
