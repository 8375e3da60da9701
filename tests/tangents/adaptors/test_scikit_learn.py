"""scikit-learn's estimators on a tangent kernel find what the kernel's own formulas find."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from torch import nn

from fedtangent.tangents import kernel
from fedtangent.tangents.adaptors.scikit_learn import TangentKernel
from tests.tangents.networks import INPUTS, OUTPUTS, inputs


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, OUTPUTS)).double()


def test_ridge_regression_is_its_closed_form() -> None:
    model, x, x_test, y = network(), inputs(12), inputs(5, seed=1), inputs(12, seed=2)[:, :2]
    machine = make_pipeline(TangentKernel(model), KernelRidge(kernel="precomputed", alpha=0.3))
    found = machine.fit(x.numpy(), y.numpy()).predict(x_test.numpy())
    k, k_test = kernel(model, x, kind="trace"), kernel(model, x_test, x, kind="trace")
    right = k_test @ torch.linalg.solve(k + 0.3 * torch.eye(12).double(), y)
    assert np.allclose(found, right.numpy(), rtol=1e-9)


def test_arrays_are_taken_in_the_models_type_and_folds_are_cut() -> None:
    model, x, y = network().float(), inputs(12), inputs(12, seed=2)[:, 0]
    assert TangentKernel(model).fit_transform(x.numpy()).dtype == np.float32
    machine = make_pipeline(TangentKernel(model), KernelRidge(kernel="precomputed"))
    assert np.isfinite(cross_val_score(machine, x.numpy(), y.numpy(), cv=3)).all()


def test_what_scikit_learn_takes_as_an_array() -> None:
    x = inputs(6).numpy()
    right = TangentKernel(network()).fit_transform(x)

    class Frame:
        """As a data frame of pandas."""

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return x

    for given in (x.tolist(), Frame()):
        assert np.array_equal(TangentKernel(network()).fit_transform(given), right)


def test_mistakes() -> None:
    with pytest.raises(NotFittedError):
        TangentKernel(network()).transform(inputs())
    with pytest.raises(ValueError, match="`x1` must be finite"):
        TangentKernel(network()).fit_transform(inputs() / 0)
    with pytest.raises(TypeError, match="`x` must be a tensor; got an array of "):
        TangentKernel(network()).fit_transform([["a"] * INPUTS])


def test_training_the_model_after_the_fit_does_not_change_the_kernel() -> None:
    model, x = network(), inputs(6).numpy()
    machine = TangentKernel(model)
    found = machine.fit_transform(x)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert np.allclose(machine.transform(x), found, rtol=1e-12)
    assert not np.allclose(machine.fit_transform(x), found)
