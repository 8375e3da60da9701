"""What a dual state alpha (T, n, C) gives: weights w_0 - J^T alpha, and outputs f*_0 - K* alpha on test points."""

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.jacobian import Jacobian


def predicted(alpha: Tensor, kernel_test_train: Tensor, f_0_test: Tensor) -> Tensor:
    """f*_0 - K* alpha, (T, n*, C), for K* (n*, n, C, C), (n*, n) or (n*, n, C), and f*_0 (n*, C).

    Raises:
        ValueError: Shapes that do not fit.
    """
    outputs = alpha.shape[2]
    f_0_test = tensor("f_0_test", f_0_test)
    if f_0_test.dim() != 2 or f_0_test.shape[1] != outputs:
        raise SettingError(
            f"`f_0_test` must be (n*, {outputs}); got {tuple(f_0_test.shape)}. Give the outputs on the test points."
        )
    kernel_test_train = fitting(alpha, kernel_test_train, len(f_0_test))
    indices = {2: "mn,tnc->tmc", 3: "mnc,tnc->tmc", 4: "mncd,tnd->tmc"}[kernel_test_train.dim()]
    return f_0_test - torch.einsum(indices, kernel_test_train, alpha.to(kernel_test_train))


def fitting(alpha: Tensor, kernel_test_train: Tensor, rows: int | None = None) -> Tensor:
    """K* between some rows of test points and the points of alpha, a kernel of whichever kind.

    Raises:
        ValueError: Shapes that do not fit.
    """
    n, outputs = alpha.shape[1:]
    kernel_test_train = tensor("kernel_test_train", kernel_test_train)
    shape = tuple(kernel_test_train.shape)
    rows = shape[0] if rows is None and shape else rows
    if shape not in ((rows, n), (rows, n, outputs), (rows, n, outputs, outputs)):
        raise SettingError(
            f"`kernel_test_train` must be ({rows}, {n}, {outputs}, {outputs}) or ({rows}, {n}); "
            f"got {shape}. Take it between test and training points."
        )
    return kernel_test_train


def weights(alpha: Tensor, jacobian: Jacobian) -> Weights:
    """w_0 - J^T alpha: a tree like w_0 with a leading axis T. A product with J^T each.

    Raises:
        ValueError: A Jacobian of other shape than alpha.
    """
    check_fits("jacobian", jacobian, alpha)
    w = jacobian.w
    return trees.stack([trees.subtract(w, jacobian.vjp(part.to(jacobian.f))) for part in alpha])  # type: ignore[no-any-return]


def check_fits(name: str, jacobian: Jacobian, alpha: Tensor) -> None:
    """Raises where a Jacobian has other (n, C) than alpha (T, n, C), or what is none."""
    if not isinstance(jacobian, Jacobian):
        raise SettingTypeError(f"`{name}` must be a Jacobian; got {type(jacobian).__name__}. Call jacobian(model, x).")
    if tuple(jacobian.shape[:2]) != tuple(alpha.shape[1:]):
        raise SettingError(
            f"`{name}` must have the (n, C) of alpha, {tuple(alpha.shape[1:])}; "
            f"got {tuple(jacobian.shape[:2])}. Take it on the training points."
        )
