"""8-bit images are standardised by the training split, channel by channel; all else stays."""

import numpy as np
import pytest
import torch

from fedtangent.datasets._scale import scaled


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8))


def test_channels_are_standardised_by_the_training_split() -> None:
    x_train, x_test = images(6, 3, 5, 4), images(2, 3, 5, 4) // 2
    x_train[:, 1] //= 3
    train, test = scaled(x_train, x_test)
    for channel in range(3):
        raw = x_train[:, channel].double() / 255
        expected = (x_test[:, channel].double() / 255 - raw.mean()) / raw.std(correction=0)
        torch.testing.assert_close(test[:, channel], expected.float())
        assert train[:, channel].mean().item() == pytest.approx(0, abs=1e-6)
        assert train[:, channel].std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_without_a_channel_axis_there_is_one_mean() -> None:
    x_train = images(6, 5, 4)
    train, _ = scaled(x_train, images(2, 5, 4))
    raw = x_train.double() / 255
    torch.testing.assert_close(train, ((raw - raw.mean()) / raw.std(correction=0)).float())


def test_a_constant_channel_stays_finite() -> None:
    train, test = scaled(torch.full((3, 7), 9, dtype=torch.uint8), torch.full((2, 7), 9, dtype=torch.uint8))
    assert torch.equal(train, torch.zeros(3, 7)) and torch.equal(test, torch.zeros(2, 7))


def test_other_numbers_are_taken_as_they_are() -> None:
    train, test = scaled(torch.arange(14).reshape(2, 7), torch.full((1, 7), 2.5, dtype=torch.float64))
    assert torch.equal(train, torch.arange(14.0).reshape(2, 7)) and test.dtype == torch.float32


def test_channels_last_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`x_train` must hold images with their channels first.*Transpose"):
        scaled(images(6, 5, 4, 3), images(2, 5, 4, 3))


def test_both_splits_share_their_kind() -> None:
    with pytest.raises(ValueError, match=r"^`x_test` must be 8-bit if and only if `x_train` is.*got torch.float32"):
        scaled(images(6, 5), torch.rand(2, 5))
